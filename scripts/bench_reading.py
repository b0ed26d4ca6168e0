"""Time and memory of reading long prompts: stock caches, one-shot eviction, and both ways of reading in bounded memory.

    .venv/bin/pip install matplotlib
    .venv/bin/python scripts/bench_reading.py --json reading.json --plot reading.png

Each measurement is a process of its own, so that its peak memory is its own. The kinds alternate in each round, and the
table has medians. Prompts are random tokens: speed does not depend on the text.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from dapq_edge import native
from dapq_edge.budgets import Budget
from dapq_edge.llama import Llama
from dapq_edge.models import find_model
from dapq_edge.policies import get_policy
from dapq_edge.reader import Prompt

MIB = 2**20
N_HEAD, N_TAIL = 4, 40


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
BOUNDED = [
    Kind(f"{name}, {budget:,}", "dapq", budget, one_shot=one_shot, has_question=has_question)
    for name, one_shot, has_question in (
        ("one-shot", True, False),
        ("one pass", False, False),
        ("skim, then read", False, True),
    )
    for budget in (512, 1024)
]


@dataclass
class Measurement:
    """ttft_s: from an empty context to the first token. evict_s: of it, probe, select and gather after the last token."""

    kind: str
    n_tokens: int
    ttft_s: float
    evict_s: float
    decode_tps: float
    kv_bytes_peak: int
    kv_bytes_kept: int
    rss_peak: int


def measure(model: str, kind: Kind, n_tokens: int, n_predict: int, n_threads: int) -> Measurement:
    llama = Llama(find_model(model), n_threads=n_threads, type_k=kind.cache_type, type_v=kind.cache_type)
    tokens = np.random.default_rng(0).integers(100, llama.n_vocab(), n_tokens).tolist()
    prompt = Prompt(tokens[:N_HEAD], tokens[N_HEAD:-N_TAIL], tokens[-N_TAIL:], kind.has_question)
    policy = TimedEviction(kind.policy)
    start = time.perf_counter()
    stats = llama.read(
        prompt,
        policy.policy,
        Budget(kind.budget, is_share=False),
        n_predict=n_predict,
        one_shot=kind.one_shot,
        allow_overflow=True,
    )
    times = []
    for _ in llama.generate([], reset=False, temp=0):
        times.append(time.perf_counter())
        if len(times) == n_predict:
            break
    return Measurement(
        kind.name,
        n_tokens,
        times[0] - start,
        policy.seconds,
        (n_predict - 1) / (times[-1] - times[0]),
        stats.bytes_peak,
        stats.bytes_kept,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    )
