"""`dapq-edge ask`: read a document, evict, answer."""

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass

import psutil
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .. import native
from ..budgets import Budget
from ..documents import read_document
from ..errors import DapqError, UsageError
from ..llama import CACHE_TYPES, Llama
from ..models import find_hf_model, find_model
from ..policies import Policy, get_policy

MIB = 2**20


@dataclass
class Result:
    """What `--json` prints."""

    answer: str
    policy: str
    prompt_tokens: int
    kv_cells_read: int
    kv_cells_kept: int
    kv_bytes_read: int
    kv_bytes_kept: int
    ttft_s: float
    decode_tps: float
    rss_mib: float

    def line(self) -> str:
        return (
            f"{self.policy}: {self.prompt_tokens:,} tokens read, "
            f"kept {self.kv_cells_kept:,} of {self.kv_cells_read:,} cells, "
            f"KV {self.kv_bytes_read / MIB:.1f} -> {self.kv_bytes_kept / MIB:.1f} MiB, "
            f"{self.ttft_s:.1f} s to first token, {self.decode_tps:.1f} tokens/s"
        )


def run(args: argparse.Namespace) -> int:
    budget, policy = Budget.parse(args.kv_budget), get_policy(args.policy)
    for option, name in (("-ctk", args.cache_type_k), ("-ctv", args.cache_type_v)):
        if name not in CACHE_TYPES:
            raise UsageError(f"{option} {name}: choose one of {', '.join(CACHE_TYPES)}")
    native.require()
    # what llama.cpp reports becomes a part of our errors
    with native.captured_log():
        return _ask(args, budget, policy)


def _ask(args: argparse.Namespace, budget: Budget, policy: Policy) -> int:
    console = Console(stderr=True)
    document = read_document(args.doc)
    llama = _load(args, console)
    tokens = llama.chat_tokens(f"{document}\n\n{args.question}", args.answer_prefix)
    n_ctx, n_predict = _fit(args, llama.n_ctx_train, len(tokens), policy)
    llama.open_context(n_ctx)

    start = time.perf_counter()
    with _progress(console) as bar:
        task = bar.add_task("reading", total=len(tokens))
        read = llama.read(tokens, policy, budget, lambda n: bar.update(task, completed=n))

    pieces, times = [], []
    for piece in llama.stream(n_predict, temp=args.temp):
        times.append(time.perf_counter())
        pieces.append(piece)
        if not args.json:
            print(piece, end="", flush=True)
    # an answer that is empty has its first token when it ends
    times = times or [time.perf_counter()]
    seconds = times[-1] - times[0]
    result = Result(
        answer="".join(pieces).strip(),
        policy=policy.name,
        prompt_tokens=len(tokens),
        kv_cells_read=read.cells_read,
        kv_cells_kept=read.cells_kept,
        kv_bytes_read=read.bytes_read,
        kv_bytes_kept=read.bytes_kept,
        ttft_s=round(times[0] - start, 3),
        decode_tps=round((len(times) - 1) / seconds, 2) if seconds else 0.0,
        rss_mib=round(psutil.Process().memory_info().rss / MIB, 1),
    )
    if args.json:
        print(json.dumps(asdict(result), ensure_ascii=False))
    else:
        print()
        console.print(result.line(), style="dim", highlight=False, soft_wrap=True)
    sys.stdout.flush()
    return 0


def _load(args: argparse.Namespace, console: Console) -> Llama:
    def report(line: str) -> None:
        console.print(line, style="dim", highlight=False)

    path = find_hf_model(args.hf_repo, args.offline) if args.hf_repo else find_model(args.model, report)
    n_threads = args.threads if args.threads > 0 else psutil.cpu_count(logical=False)
    return Llama(
        path,
        n_gpu_layers=args.n_gpu_layers,
        n_threads=n_threads,
        n_batch=args.batch_size,
        flash_attn=args.flash_attn,
        type_k=args.cache_type_k,
        type_v=args.cache_type_v,
        seed=args.seed & 0xFFFFFFFF,
    )


def _fit(args: argparse.Namespace, n_ctx_train: int, n_prompt: int, policy: Policy) -> tuple[int, int]:
    """Cells of the context and tokens of the answer at most. Raises `DapqError` if the prompt does not fit."""
    if args.ctx_size == 0 and n_prompt >= n_ctx_train:
        raise DapqError(
            f"the prompt has {n_prompt:,} tokens, but the model was trained for {n_ctx_train:,}: "
            f"shorten the document, or set -c {n_prompt + policy.n_probe + args.predict} to go beyond"
        )
    if args.ctx_size == 0:
        n_predict = min(args.predict, n_ctx_train - n_prompt)
        return n_prompt + max(policy.n_probe, n_predict), n_predict
    if args.ctx_size < n_prompt + max(policy.n_probe, 1):
        raise DapqError(
            f"the prompt has {n_prompt:,} tokens, but the context has {args.ctx_size:,} cells: "
            f"set -c to {n_prompt + max(policy.n_probe, args.predict)} or more"
        )
    return args.ctx_size, min(args.predict, args.ctx_size - n_prompt)


def _progress(console: Console) -> Progress:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
