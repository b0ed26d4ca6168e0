"""Time and memory of reading long prompts: stock caches, one-shot eviction, and both ways of reading in bounded memory.

    .venv/bin/pip install matplotlib
    .venv/bin/python scripts/bench/reading.py --json reading.json --plot reading.png

Each measurement is a process of its own, so that its peak memory is its own. The kinds alternate in each round, and the
table has medians. Prompts are random tokens: speed does not depend on the text.
"""

import argparse
import itertools
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from greedy import answer
from rich.console import Console
from rich.table import Table

from dapq_edge import Cells, Control, Prompt, find_model, get_policy, open_model
from dapq_edge.llamacpp.devices import gpus
from dapq_edge.llamacpp.log import captured_log
from dapq_edge.planning.ram import MIB

N_HEAD, N_TAIL = 4, 40

# a context that is not longer than the smallest budget, to compare decoding with
N_FRESH = 512


@dataclass(frozen=True)
class Kind:
    """One way to read: its name, the policy, the cells that it keeps, and the type of K and V."""

    name: str
    policy: str = "full"
    budget: int = 2**30
    cache_type: str = "f16"
    one_shot: bool = True
    has_question: bool = False


STOCK = [Kind("stock f16"), Kind("stock q8_0", cache_type="q8_0"), Kind("stock q4_0", cache_type="q4_0")]
BUDGETS = (512, 1024)


def bounded(budgets: Sequence[int]) -> list[Kind]:
    return [
        Kind(f"{name}, {budget:,}", "fused", budget, one_shot=one_shot, has_question=has_question)
        for name, one_shot, has_question in (
            ("one-shot", True, False),
            ("one pass", False, False),
            ("skim, then read", False, True),
        )
        for budget in budgets
    ]


@dataclass
class Measurement:
    """ttft_s: from an empty context to the first token. evict_s: what probes, selects and gathers take of it.

    gpu_peak: bytes that GPUs had less, after a chunk of the prompt or in the end, than before the model was loaded.
    """

    kind: str
    n_tokens: int
    ttft_s: float
    evict_s: float
    decode_tps: float
    kv_bytes_peak: int
    kv_bytes_kept: int
    rss_peak: int
    gpu_peak: int


def free_on_gpus() -> int:
    return sum(gpu.free for gpu in gpus())


def measure(model: str, kind: Kind, n_tokens: int, n_predict: int, n_threads: int, n_gpu_layers: int) -> Measurement:
    free = [free_on_gpus()]
    options = {"n_threads": n_threads, "n_gpu_layers": n_gpu_layers}
    engine = open_model(find_model(model), type_k=kind.cache_type, type_v=kind.cache_type, **options)
    tokens = np.random.default_rng(0).integers(100, engine.model.n_vocab, n_tokens).tolist()
    prompt = Prompt.of(tokens[:N_HEAD], tokens[N_HEAD:-N_TAIL], tokens[-N_TAIL:], kind.has_question)
    start = time.perf_counter()
    stats = engine.read(
        prompt,
        get_policy(kind.policy),
        Cells(kind.budget),
        n_predict=n_predict,
        one_shot=kind.one_shot,
        allow_overflow=True,
        control=Control(lambda done, total: free.append(free_on_gpus())),
    )
    times = [time.perf_counter() for _ in islice(answer(engine), n_predict)]
    free.append(free_on_gpus())
    return Measurement(
        kind.name,
        n_tokens,
        times[0] - start,
        stats.evict_seconds,
        (n_predict - 1) / (times[-1] - times[0]),
        stats.bytes_peak,
        stats.bytes_kept,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        free[0] - min(free),
    )


def measure_apart(args: argparse.Namespace, kind: Kind, n_tokens: int) -> Measurement:
    """Run `measure` in a process of its own."""
    job = {"model": args.model, "n_tokens": n_tokens, "n_predict": args.predict, "n_threads": args.threads}
    job |= {"n_gpu_layers": args.n_gpu_layers, "kind": asdict(kind)}
    command = [sys.executable, __file__, "--job", json.dumps(job)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(f"{kind.name}, {n_tokens} tokens: {result.stderr.strip()[-500:]}")
    return Measurement(**json.loads(result.stdout))


def kinds_at(args: argparse.Namespace, n_tokens: int, round_number: int) -> list[Kind]:
    """Return what is measured in a round; slow kinds are left out beyond a length or a round."""
    stock = STOCK if n_tokens <= args.quantized_up_to else STOCK[:1]
    kinds = stock if round_number < max(args.rounds_stock, 1) else []
    return kinds + [kind for kind in bounded(args.budgets) if not kind.one_shot or n_tokens <= args.one_shot_up_to]


def run(args: argparse.Namespace) -> list[Measurement]:
    console, measurements = Console(stderr=True), []
    jobs = []
    for round_number, n_tokens in itertools.product(range(args.rounds), args.lengths):
        jobs += [(kind, n_tokens) for kind in kinds_at(args, n_tokens, round_number)]
        jobs.append((STOCK[0], N_FRESH))
    for i, (kind, n_tokens) in enumerate(jobs, start=1):
        measurements.append(measure_apart(args, kind, n_tokens))
        console.print(f"{i}/{len(jobs)}", measurements[-1], highlight=False, soft_wrap=True)
        if args.json:
            args.json.write_text(json.dumps([asdict(measurement) for measurement in measurements], indent=1))
    return measurements


def medians(measurements: list[Measurement]) -> list[Measurement]:
    groups: dict[tuple[int, str], list[Measurement]] = {}
    for measurement in measurements:
        groups.setdefault((measurement.n_tokens, measurement.kind), []).append(measurement)
    return [
        Measurement(kind, n_tokens, *map(statistics.median, zip(*map(_numbers, group), strict=True)))
        for (n_tokens, kind), group in sorted(groups.items(), key=lambda item: item[0][0])
    ]


def _numbers(m: Measurement) -> tuple[float, ...]:
    return m.ttft_s, m.evict_s, m.decode_tps, m.kv_bytes_peak, m.kv_bytes_kept, m.rss_peak, m.gpu_peak


def print_table(rows: list[Measurement], title: str = "") -> None:
    table = Table(title=f"{title}time to first token (TTFT), decoding after it, and peak memory; medians")
    for heading in (
        "tokens",
        "kind",
        "TTFT s",
        "x stock",
        "evict s",
        "of TTFT",
        "tokens/s",
        "KV peak MiB",
        "x stock",
        "RSS MiB",
        "GPU MiB",
    ):
        table.add_column(heading, justify="left" if heading == "kind" else "right")
    stock = {row.n_tokens: row for row in rows if row.kind == STOCK[0].name}
    for row in rows:
        base = stock[row.n_tokens]
        table.add_row(
            f"{row.n_tokens:,}",
            row.kind,
            f"{row.ttft_s:.1f}",
            f"{row.ttft_s / base.ttft_s:.2f}",
            f"{row.evict_s:.2f}",
            f"{row.evict_s / row.ttft_s:.1%}",
            f"{row.decode_tps:.1f}",
            f"{row.kv_bytes_peak / MIB:.1f}",
            f"{row.kv_bytes_peak / base.kv_bytes_peak:.1%}",
            f"{row.rss_peak / MIB:.0f}",
            f"{row.gpu_peak / MIB:.0f}",
        )
    Console(width=130).print(table)


def plot(rows: list[Measurement], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2))
    panels = (("ttft_s", 1, "seconds to first token"), ("rss_peak", MIB, "peak memory of the process, MiB"))
    for axis, (name, unit, label) in zip(axes, panels, strict=True):
        for kind in dict.fromkeys(row.kind for row in rows):
            line = [row for row in rows if row.kind == kind and row.n_tokens > N_FRESH]
            style = "--" if kind.startswith("stock") else "-"
            axis.plot(
                [row.n_tokens for row in line],
                [getattr(row, name) / unit for row in line],
                style,
                label=kind,
                marker="o",
            )
        axis.set(xlabel="tokens of the prompt", ylabel=label, ylim=(0, None))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what is measured, and where it is written."""
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("-n", "--predict", type=int, default=128, help="tokens of the answer")
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 8192, 16384, 32768])
    parser.add_argument("--budgets", type=int, nargs="+", default=BUDGETS, help="cells that are kept")
    parser.add_argument("-ngl", "--n-gpu-layers", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rounds-stock", type=int, default=1, help="rounds that measure the stock caches, too")
    parser.add_argument("--quantized-up-to", type=int, default=8192, help="longest prompt of stock q8_0 and q4_0")
    parser.add_argument("--one-shot-up-to", type=int, default=8192, help="longest prompt of one-shot eviction")
    parser.add_argument("--json", type=Path, help="write all measurements, after each of them")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", default="smollm2-135m")
    add_options(parser)
    parser.add_argument("--plot", type=Path, help="write a picture")
    parser.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        kind = Kind(**args.job.pop("kind"))
        print(json.dumps(asdict(measure(kind=kind, **args.job))))
        return 0
    if args.plot:
        import matplotlib  # noqa: F401, not to fail after an hour
    rows = medians(run(args))
    print_table(rows)
    if args.plot:
        plot(rows, args.plot)
    return 0


if __name__ == "__main__":
    with captured_log():
        sys.exit(main())
