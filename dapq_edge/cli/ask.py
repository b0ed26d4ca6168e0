"""`dapq-edge ask`: read a document, evict, answer."""

import argparse
import json
import time
from dataclasses import asdict, dataclass

import psutil
from rich.console import Console

from .. import native
from ..documents import read_document
from ..memory import MIB
from ..policies import get_policy
from ..prompts import chat_prompt
from .model import check_eviction_options, check_model_options, find_budget, load_heads, load_model, read_prompt


@dataclass
class Result:
    """What `--json` prints."""

    answer: str
    policy: str
    reading: str
    positions: str
    prompt_tokens: int
    tokens_evaluated: int
    chunks: list[dict]
    kv_cells_peak: int
    kv_cells_kept: int
    kv_bytes_peak: int
    kv_bytes_kept: int
    attention_held: float | None
    evict_s: float
    ttft_s: float
    decode_tps: float
    rss_mib: float

    def line(self) -> str:
        parts = [
            f"{self.policy}: {self.prompt_tokens:,} tokens read in {self.kv_cells_peak:,} cells",
            f"kept {self.kv_cells_kept:,}",
            f"KV {self.kv_bytes_peak / MIB:.1f} -> {self.kv_bytes_kept / MIB:.1f} MiB",
            f"{self.ttft_s:.1f} s to first token",
            f"{self.decode_tps:.1f} tokens/s",
        ]
        if self.chunks:
            read = [str(i) for i, chunk in enumerate(self.chunks, start=1) if chunk["is_read"]]
            parts.insert(1, f"re-read {', '.join(read)} of {len(self.chunks)} chunks")
        if self.attention_held is not None:
            parts.insert(2, f"they hold {self.attention_held:.0%} of the attention")
        if self.positions == "compact":
            parts.insert(1, "positions were compacted")
        return "; ".join(parts)


def run(args: argparse.Namespace) -> int:
    check_eviction_options(args)
    check_model_options(args)
    # what llama.cpp reports becomes a part of our errors
    with native.captured_log():
        return _ask(args)


def _ask(args: argparse.Namespace) -> int:
    console = Console(stderr=True)
    document = read_document(args.doc)
    llama = load_model(args, console)
    policy = get_policy(args.policy, args.granularity, load_heads(args, llama))
    prompt = chat_prompt(llama, document, args.question, args.answer_prefix)

    start = time.perf_counter()
    read = read_prompt(llama, prompt, policy, find_budget(args, llama), args, console)
    pieces, times = [], []
    for piece in llama.stream(read.n_predict, temp=args.temp):
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
        reading=read.way.value,
        positions="compact" if read.is_compact else "true",
        prompt_tokens=len(prompt),
        tokens_evaluated=read.tokens_evaluated,
        chunks=[{**asdict(chunk), "relevance": round(chunk.relevance, 4)} for chunk in read.chunks],
        kv_cells_peak=read.cells_peak,
        kv_cells_kept=read.cells_kept,
        kv_bytes_peak=read.bytes_peak,
        kv_bytes_kept=read.bytes_kept,
        attention_held=None if read.held is None else round(read.held, 4),
        evict_s=round(read.evict_seconds, 3),
        ttft_s=round(times[0] - start, 3),
        decode_tps=round((len(times) - 1) / seconds, 2) if seconds else 0.0,
        rss_mib=round(psutil.Process().memory_info().rss / MIB, 1),
    )
    if args.json:
        print(json.dumps(asdict(result), ensure_ascii=False))
    else:
        print(flush=True)
        console.print(result.line(), style="dim", highlight=False, soft_wrap=True)
    return 0
