"""Cells that a text of any length gets: from a budget to numbers."""

import math

from ..cache.kv_cache import KVCache
from ..cells import CHUNK
from ..errors import UnsupportedModelError, UsageError
from ..eviction.budget import Auto, Budget
from ..eviction.policies import Policy
from ..llamacpp.model import Model
from ..planning.gguf_shape import read_shape
from ..planning.planner import choose


def plan_auto(model: Model, ram: int, n_ctx: int) -> Auto:
    """Return the budget that `ram` bytes have room for, beside the model, of texts of up to `n_ctx` tokens.

    Raises `DapqError` if there is none.
    """
    choice = choose(read_shape(model.path), ram, n_ctx, *model.cache_types, model.n_batch)
    return Auto(choice.n_keep, choice.n_most)


def plan_room(
    model: Model, cache: KVCache, policy: Policy, budget: Budget | None, n_ctx: int, *, ram: int, one_shot: bool
) -> tuple[Auto, int]:
    """Return the cells to keep, and at most, of a text of any length, and the cells that the context needs for that.

    Args:
        model: For its shape.
        cache: For what it can do.
        policy: Chooses what is kept.
        budget: Says how much of `n_ctx` tokens; None for all.
        n_ctx: Tokens of the text at most.
        ram: Bytes of memory that were free before the model was loaded.
        one_shot: Whether everything is read before it is evicted.

    Raises `UsageError`, and `UnsupportedModelError` if the model cannot be evicted in this way.
    """
    everything = Auto(n_ctx, n_ctx)
    if budget is None:
        return everything, n_ctx
    try:
        policy.check(cache)
    except UnsupportedModelError:
        if isinstance(budget, Auto):
            return everything, n_ctx
        raise
    if policy.needs_whole_prompt and not one_shot:
        raise UsageError(f"{policy.name} cannot read in bounded memory", param="policy")
    if budget == Auto():
        budget = plan_auto(model, ram, n_ctx)
    n_keep = policy.cells_to_keep(budget, n_ctx)
    planned = Auto(n_keep, max(n_keep, budget.n_most(n_ctx)))
    return planned, _n_needed(policy, planned, n_ctx, one_shot)


def _n_needed(policy: Policy, budget: Auto, n_ctx: int, one_shot: bool) -> int:
    """Return the cells of the context."""
    if budget.n_limit >= n_ctx:
        return n_ctx
    if one_shot:
        return n_ctx + policy.n_probe + policy.n_branch(budget.n_limit)
    n_most = math.ceil(budget.n_limit * policy.max_share)
    return min(n_most + CHUNK, n_ctx + policy.n_probe) + policy.n_branch(n_most)
