"""Sensitivity: how far an answer moves when one layer alone is evicted."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ..cells import LAYER_STEP, N_RECENT, N_SINK
from ..control import UNCONTROLLED, Control
from ..eviction.budget import Share
from ..eviction.policies import Full, Fused
from ..eviction.select import select
from ..prompt import Prompt
from ..reading.engine import Engine
from .divergence import kl_divergence, log_probabilities
from .needles import Needle, needle_prompt

# asks for all of a text
SUMMARY = "Write a summary of the text."

# tokens by which a prompt is shorter that asks for a summary instead of the fact in it, at most
N_SHORTER = 64

# tokens of an answer, and the share of the cells that the layer keeps, rounded up to a step
N_ANSWER, KEPT = 48, 1 / 16


def sensitivity_prompts(engine: Engine, haystacks: Sequence[str], needle: Needle, n_tokens: int) -> list[Prompt]:
    """Return two prompts for each text: one that asks for the fact in its middle, one for a summary.

    Raises `DapqError` if a text is too short.
    """
    cases = needle, replace(needle, question=SUMMARY, answer_prefix="")
    asked = [(haystack, case) for haystack in haystacks for case in cases]
    return [needle_prompt(engine.model, [case], haystack, n_tokens - N_SHORTER, [0.5]) for haystack, case in asked]


def find_sensitivity(engine: Engine, prompts: Sequence[Prompt], control: Control = UNCONTROLLED) -> dict[int, float]:
    """Return each layer's share of the harm that evicting one layer does, mean over the prompts; they add up to 1.

    The harm is the KL divergence from the full cache along its own answer, while the layer keeps what `fused` would
    and all others everything. Few layers have most of it, the same ones whatever the text is.
    """
    shares, n_layers = [], len(engine.cache.gathered_heads())
    for i, prompt in enumerate(prompts):
        harm = _harm(engine, prompt, control.of_part(i * n_layers, len(prompts) * n_layers))
        shares.append(harm / max(harm.sum(), np.finfo(np.float64).tiny))
    mean = np.mean(shares, axis=0).tolist()
    return dict(zip(engine.cache.gathered_heads(), mean, strict=True))


def _harm(engine: Engine, prompt: Prompt, control: Control) -> npt.NDArray[np.float64]:
    """Return the KL divergence for each layer that can be evicted, in nats per token."""
    policy = Fused()
    # it probes with more tokens than the answer has
    engine.read(prompt, Full(), Share(100), n_predict=max(N_ANSWER, policy.n_probe), one_shot=True)
    cache = engine.cache
    state, n_cells = cache.state(), cache.n_cells
    answer, _ = cache.peek(N_ANSWER)
    scores = policy.scores(cache, 0)
    everything = [np.tile(np.arange(n_cells), (len(layer), 1)) for layer in scores]
    full = log_probabilities(cache, answer)
    # devices want layers that differ by such steps
    n_steps = int((n_cells - max(N_SINK + N_RECENT, KEPT * n_cells)) / LAYER_STEP)
    n_keep, harm = n_cells - n_steps * LAYER_STEP, []
    for i, layer in enumerate(scores):
        control.report(i, len(scores))
        cache.restore(state)
        (kept,) = select([layer], [n_keep], N_SINK, N_RECENT, "head")
        cache.evict([*everything[:i], kept, *everything[i + 1 :]])
        harm.append(max(0.0, kl_divergence(full, log_probabilities(cache, answer))))
    return np.array(harm)
