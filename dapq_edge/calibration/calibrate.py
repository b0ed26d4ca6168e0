"""Calibration: which heads attend from an answer to the fact that it comes from, and what eviction costs each layer."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..cache.sequence_cells import LayerAttention
from ..cells import N_RECENT, N_SINK
from ..control import UNCONTROLLED, Control
from ..eviction.budget import Share
from ..eviction.heads import HeadProfile, model_hash
from ..eviction.policies import Full
from ..eviction.select import top_cells
from ..prompt import Prompt
from ..reading.engine import Engine
from .needles import Needle, find_span, needle_prompt
from .query_heads import find_query_heads
from .questions import Asked
from .sensitivity import find_sensitivity, sensitivity_prompts

# texts and facts that come with the package
BUILT_IN = Path(__file__).parent / "texts"

# where the fact is put in the text
DEPTHS = (0.1, 0.5, 0.9)

# tokens around the fact that count as a part of it
N_AROUND = 4

# share of the cells that a layer keeps when its error is measured
KEPT = 0.1


@dataclass(frozen=True)
class Observation:
    """Attention of the answer to one prompt and of the window before it, and the cells of the fact."""

    answer: list[LayerAttention]
    window: list[LayerAttention]
    span: slice


def calibrate(
    engine: Engine,
    haystacks: Sequence[str],
    needles: Sequence[Needle],
    n_tokens: int,
    asked: Sequence[Asked] = (),
    control: Control = UNCONTROLLED,
) -> HeadProfile:
    """Measure the heads and layers of a model on prompts of `n_tokens` tokens, and its query heads on those `asked`.

    Raises `DapqError` if the model has no attention that can be probed, if a text is too short, or if the answers
    cannot be found in the prompts.
    """
    todo = list(itertools.product(haystacks, needles, DEPTHS))
    prompts = sensitivity_prompts(engine, haystacks, needles[0], n_tokens)
    # each layer of each of these prompts is evicted once
    n_before = len(todo) + len(asked)
    cases, n_all = [], n_before + len(prompts) * len(engine.cache.gathered_heads())
    for i, (haystack, needle, depth) in enumerate(todo):
        control.report(i, n_all)
        cases.append(_look(engine, needle_prompt(engine.model, [needle], haystack, n_tokens, [depth]), needle))
    query = find_query_heads(engine, _reported(asked, control, len(todo), n_all)) if asked else ()
    sensitivity = find_sensitivity(engine, prompts, control.of_part(n_before, n_all))
    control.report(n_all, n_all)
    return replace(profile_of(model_hash(engine.model.path), cases), query=query, sensitivity=sensitivity)


def _reported(asked: Sequence[Asked], control: Control, n_done: int, n_all: int) -> Iterator[Asked]:
    for i, case in enumerate(asked, start=n_done):
        control.report(i, n_all)
        yield case


def _look(engine: Engine, prompt: Prompt, needle: Needle) -> Observation:
    engine.read(prompt, Full(), Share(100), n_predict=64, one_shot=True)
    cache = engine.cache
    # the query of a token decides which one comes next
    answer = engine.model.tokenize(f" {needle.answer}")
    queries = prompt.tokens[-1:] + answer[:-1]
    fact = find_span(engine.model, prompt.tokens, needle.needle.strip())
    return Observation(
        answer=cache.probe(queries, cache.next_position - 1),
        window=cache.probe(prompt.tokens[-N_RECENT:], cache.next_position - N_RECENT),
        span=slice(max(0, fact.start - N_AROUND), fact.stop + N_AROUND),
    )


def profile_of(model: str, cases: Sequence[Observation]) -> HeadProfile:
    """Return the means over all observations."""
    retrieval, errors = {}, {}
    for i, layer in enumerate(seen.layer for seen in cases[0].answer):
        mass = np.mean([case.answer[i].attention[:, case.span].sum(axis=1) for case in cases], axis=0)
        error = np.mean([eviction_error(case.answer[i], case.window[i], mass) for case in cases])
        retrieval[layer], errors[layer] = mass.tolist(), float(error)
    return HeadProfile(model, retrieval, errors)


def eviction_error(
    answer: LayerAttention, window: LayerAttention, retrieval: npt.NDArray[Any], n_heads: int = 4
) -> float:
    """Return the share of the answer's attention that a layer loses to eviction, mean over its heads.

    It keeps what its retrieval heads attend to from the end of the prompt. CompressKV (arXiv 2508.02401, section 3.3)
    takes the difference of the layer's outputs; the attention that is lost bounds it, and needs no values.
    """
    n_cells = answer.attention.shape[1]
    scores = window.attention[np.argsort(retrieval)[-n_heads:]].mean(axis=0, keepdims=True)
    (kept,) = top_cells(scores, max(N_SINK + N_RECENT, int(KEPT * n_cells)), N_SINK, N_RECENT)
    return float(1 - np.mean(answer.attention[:, kept].sum(axis=1) / answer.attention.sum(axis=1)))
