"""A second fact, when the first one decided what is kept and nothing is read again: kvzip, base+question, variants.

    .venv/bin/python scripts/bench/second_fact.py --haystack DIR

Each document has two facts. It is read whole, evicted for the question about the first one, and asked for both. The
answers are given token by token: a fact is found if each of its tokens is the most probable one behind the first words
of the answer. Beside that, how much less probable it is than with the full cache, in nats per token, with a 95%
interval over the documents.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ablation import value_norms
from resuming import measured

from dapq_edge import BaseQuestion, DapQ, Engine, Fused, KVCache, KVzip, find_model, open_model
from dapq_edge.cache.sequence import Keep
from dapq_edge.calibration.needles import Needle, read_haystack, read_needles
from dapq_edge.evaluation.estimates import mean
from dapq_edge.eviction.heads import HeadProfile
from dapq_edge.eviction.policies.parts import ByScore, BySensitivity, Even
from dapq_edge.eviction.score import Scores, normalize
from dapq_edge.llamacpp.log import captured_log
from dapq_edge.llamacpp.model import Model
from dapq_edge.prompt import Prompt
from dapq_edge.prompt.chat_template import chat_prompt, next_turn
from dapq_edge.prompt.pins import fit
from dapq_edge.prompt.window import ending_of

FACTS = Path(__file__).parent / "facts.jsonl"

# the rest of a document beside its text, about
N_AROUND = 64

CANDIDATES = slice(4, -8)


@dataclass(frozen=True)
class Scored:
    """Scores of the cells of a full cache: for the text, for the question, and for any continuation."""

    base: Scores
    question: Scores
    filler: Scores
    heads: HeadProfile | None


# given a cache, its scores, and how many cells are kept, it returns which
Choose = Callable[[KVCache, Scored, int], Keep]


def mixed(**settings: Any) -> Choose:
    return lambda cache, scored, n: BaseQuestion(heads=scored.heads, **settings).select(cache, scored.question, n)


def combined(how: Callable[..., Any], layers: Callable[[Any], Any]) -> Choose:
    """Combine the scores of each head, instead of sharing the budget; layers get what kvzip gives them."""

    def choose(cache: KVCache, scored: Scored, n: int) -> Keep:
        both = [how(layers(a), layers(b)) for a, b in zip(scored.base, scored.question, strict=True)]
        return KVzip().choose(cache, both, KVzip().layer_cells(cache, scored.base, n))

    return choose


def shares(layer: Any) -> Any:
    return normalize(layer, CANDIDATES)


def ranks(layer: Any) -> Any:
    return layer.argsort(axis=1, kind="stable").argsort(axis=1).astype(np.float32)


def times_norms(cache: KVCache, scored: Scored) -> Scores:
    """Let attention count as much as the value that it brings is long (KVzap, arXiv 2601.07891)."""
    return [layer * norms for layer, norms in zip(scored.base, value_norms(cache), strict=True)]


def with_filler(_: KVCache, scored: Scored) -> Scores:
    """Take what the text attends to, and what any continuation does."""
    return [shares(a) + shares(b) for a, b in zip(scored.base, scored.filler, strict=True)]


def on(base: Callable[[KVCache, Scored], Scores], **settings: Any) -> Choose:
    """Have other scores than those of kvzip say what the base is."""

    def choose(cache: KVCache, scored: Scored, n: int) -> Keep:
        cache.mark(base(cache, scored))
        return BaseQuestion(heads=scored.heads, **settings).select(cache, scored.question, n)

    return choose


VARIANTS: dict[str, Choose] = {
    "fused": lambda cache, scored, n: Fused(heads=scored.heads).select(cache, scored.question, n),
    "kvzip": lambda cache, scored, n: KVzip(heads=scored.heads).select(cache, scored.base, n),
    "kvzip, layers by score": lambda cache, scored, n: KVzip(layer_budget=ByScore()).select(cache, scored.base, n),
    "kvzip, all layers alike": lambda cache, scored, n: KVzip(layer_budget=Even()).select(cache, scored.base, n),
    "base+question": mixed(),
    "layers by score": mixed(layer_budget=ByScore()),
    "layers of 0.5 to 2 budgets": mixed(layer_budget=BySensitivity(0.5, 2.0)),
    "a quarter of kvzip": mixed(share=0.25),
    "half": mixed(share=0.5),
    "all but an eighth": mixed(share=0.875),
    "all layers alike": mixed(layer_budget=Even()),
    "half, all layers alike": mixed(share=0.5, layer_budget=Even()),
    "layers by score, 0.25 to 2 budgets": mixed(layer_budget=ByScore(0.25, 2.0)),
    "layers by score, 0.5 to 1.6 budgets": mixed(layer_budget=ByScore(0.5, 1.6)),
    "times the norms of the values, layers by score": on(times_norms, layer_budget=ByScore()),
    "these, all layers alike": on(times_norms, layer_budget=Even()),
    "dapq as the base, all layers alike": on(lambda _, scored: scored.filler, layer_budget=Even()),
    "kvzip and dapq as the base": on(with_filler),
    "these, layers of 0.5 to 1.5 budgets": on(with_filler, layer_budget=BySensitivity(0.5, 1.5)),
    "kvzip and dapq, all layers alike": on(with_filler, layer_budget=Even()),
    "sum of both scores": combined(np.add, shares),
    "largest of both scores": combined(np.maximum, shares),
    "best rank of both": combined(np.maximum, ranks),
}


def make_document(model: Model, haystack: str, needles: Sequence[Needle], n_tokens: int, seed: int) -> tuple[str, Any]:
    """Make about `n_tokens` tokens with two facts, at least a quarter of the text apart; the first is asked first."""
    rng = np.random.default_rng(seed)
    both = [needles[i] for i in rng.choice(len(needles), 2, replace=False)]
    depth = rng.uniform(0.05, 0.65)
    depths = [depth, rng.uniform(depth + 0.25, 0.95)]
    rng.shuffle(depths)
    start = haystack.index(". ", int(rng.integers(0, len(haystack) // 2))) + 2
    tokens = model.tokenize(haystack[start : start + 8 * n_tokens])[: n_tokens - 2 * N_AROUND]
    text = model.detokenize(tokens).decode("utf-8", "ignore")
    for depth, needle in sorted(zip(depths, both, strict=True), key=lambda pair: -pair[0]):
        cut = text.find(". ", int(depth * len(text))) + 1
        text = text[:cut] + needle.needle + text[cut + 1 :]
    return text, both


def answer(cache: KVCache, before: list[int], wanted: list[int]) -> tuple[bool, float]:
    """Read an answer behind `before`; return whether it is the most probable one, and its mean log-probability."""
    tokens = before + wanted
    logits = np.zeros((len(tokens), cache.n_vocab), dtype=np.float32)
    cache.read(tokens, logits)
    rows = logits[-len(wanted) - 1 : -1].astype(np.float64)
    rows -= rows.max(axis=1, keepdims=True)
    log_probabilities = rows[range(len(wanted)), wanted] - np.log(np.exp(rows).sum(axis=1))
    return bool((rows.argmax(axis=1) == wanted).all()), float(log_probabilities.mean())


def score(cache: KVCache, prompt: Prompt, heads: HeadProfile | None) -> Scored:
    with cache.before(ending_of(prompt), 512):
        return Scored(KVzip().scores(cache, 0), Fused().scores(cache, 0), DapQ().scores(cache, 0), heads)


def measure(engine: Engine, text: str, both: Sequence[Needle], n_keep: int, names: Sequence[str]) -> dict[str, Any]:
    """Return what was found of both facts, and how probable they were, with the full cache and with each variant."""
    model, first = engine.model, chat_prompt(engine.model, text, both[0].question, both[0].answer_prefix)
    # the first words of the answer are not read before it is known what is kept
    prompt = fit(chat_prompt(model, text, both[0].question), n_keep // 2)
    engine.open(len(prompt) + 512)
    engine.cache.read(prompt.text)
    engine.cache.pin(prompt.pinned)
    scored = score(engine.cache, prompt, engine.heads)
    state, found = engine.cache.state(), {}
    for name in ("full cache", *names):
        # each in a new context
        engine.open(len(prompt) + 512)
        cache = engine.cache
        cache.restore(state)
        if name in VARIANTS:
            cache.evict(VARIANTS[name](cache, scored, n_keep))
        blank = "" if model.chat_template else " "
        answers = [model.tokenize(f" {needle.answer}") for needle in both]
        turns = [first.tokens[len(prompt.text) :], next_turn(model, both[1].question, blank + both[1].answer_prefix)]
        found[name] = [answer(cache, turn, wanted) for turn, wanted in zip(turns, answers, strict=True)]
    return found


def line_of(name: str, rows: Sequence[dict[str, Any]]) -> str:
    """Return what a variant found of the facts that the full cache finds, and how much less probable they were."""
    cells = [name]
    for i in (0, 1):
        of_full = [row[name][i][0] for row in rows if row["full cache"][i][0]]
        less = mean([row["full cache"][i][1] - row[name][i][1] for row in rows])
        cells += [f"{sum(of_full)} of {len(of_full)}", f"{less.mean:.2f} ({less.low:.2f} to {less.high:.2f})"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--haystack", type=Path, required=True)
    parser.add_argument("--needles", type=Path, default=FACTS, help="facts, JSONL (default: our own)")
    parser.add_argument("-m", "--model", default="smollm2-135m")
    parser.add_argument("--documents", type=int, default=20)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--share", type=float, default=0.25, help="of the cells that are kept (default: 0.25)")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="results, JSONL; a rerun resumes from it")
    args = parser.parse_args()
    haystack, needles = read_haystack(sorted(args.haystack.glob("*.txt"))), read_needles(args.needles)
    engine = open_model(find_model(args.model), n_threads=args.threads, flash_attn=True)

    def found_in(seed: int) -> dict[str, Any]:
        document = make_document(engine.model, haystack, needles, args.length, seed)
        return measure(engine, *document, int(args.share * args.length), args.variants)

    rows = measured(range(args.seed, args.seed + args.documents), found_in, args.json)
    print("| | first fact | less probable | second fact | less probable |\n|---|---|---|---|---|")
    print("\n".join(line_of(name, rows) for name in args.variants))


if __name__ == "__main__":
    with captured_log():
        main()
