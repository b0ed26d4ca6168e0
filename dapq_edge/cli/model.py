"""What the commands that run a model have in common."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .. import native
from ..budgets import AUTO, Budget
from ..context import CACHE_TYPES
from ..errors import UsageError
from ..heads import HeadProfile, find_profile, load_profile
from ..llama import Llama
from ..models import find_hf_model, find_model
from ..planner import auto_budget
from ..policies import Policy, get_policy
from ..policies.full import Full
from ..reader import Prompt
from ..reading import ReadingLlama, ReadStats
from ..rpc import add_servers
from ..shape import check_eviction


def check_model_options(args: argparse.Namespace) -> None:
    """Raise `UsageError` if an option is wrong, `StockBuildError` if llama.cpp is; use the servers of --rpc."""
    for option, name in (("-ctk", args.cache_type_k), ("-ctv", args.cache_type_v)):
        if name not in CACHE_TYPES:
            raise UsageError(f"{option} {name}: choose one of {', '.join(CACHE_TYPES)}")
    native.require()
    native.end_on_abort()
    if args.rpc:
        with native.captured_log():
            add_servers(args.rpc.split(","))


def check_eviction_options(args: argparse.Namespace) -> None:
    """Raise `UsageError` if an option is wrong, before a model is loaded."""
    if args.kv_budget != AUTO:
        Budget.parse(args.kv_budget)
    get_policy(args.policy)


def find_budget(args: argparse.Namespace, llama: ReadingLlama) -> Budget:
    """The budget of --kv-budget, or the one that the free memory has room for."""
    if args.kv_budget != AUTO:
        return Budget.parse(args.kv_budget)
    n_ctx = args.ctx_size or llama.n_ctx_train
    return auto_budget(Path(llama.model_path), llama.ram, n_ctx, *llama.cache_types, llama.n_batch)


def find(args: argparse.Namespace, report: Callable[[str], None] = lambda line: None) -> Path:
    """The model file that -m or -hf names."""
    return find_hf_model(args.hf_repo, args.offline) if args.hf_repo else find_model(args.model, report)


def load_heads(args: argparse.Namespace, llama: ReadingLlama) -> HeadProfile | None:
    """The profile of --heads, or the one that was calibrated, if there is one."""
    model = Path(llama.model_path)
    return load_profile(Path(args.heads), model) if args.heads else find_profile(model)


def load_model(args: argparse.Namespace, console: Console) -> ReadingLlama:
    """The model, to read prompts one by one. Raises `UnsupportedModelError` before it is loaded if that is known."""
    options = _model_options(args, console)
    if getattr(args, "policy", Full.name) != Full.name:
        check_eviction(options["model_path"])
    return ReadingLlama(**options)


def load_llama(args: argparse.Namespace, console: Console) -> Llama:
    """The model, to answer prompts as `llama_cpp.Llama` does, evicted to --kv-budget of -c tokens."""
    options = _model_options(args, console)
    model = Path(options["model_path"])
    return Llama(
        **options,
        n_ctx=args.ctx_size,
        kv_budget=args.kv_budget,
        policy=args.policy,
        heads=load_profile(Path(args.heads), model) if args.heads else None,
    )


def find_threads(args: argparse.Namespace) -> int:
    """The number of -t, or of physical cores."""
    return args.threads if args.threads > 0 else psutil.cpu_count(logical=False) or 1


def _model_options(args: argparse.Namespace, console: Console) -> dict[str, Any]:
    def report(line: str) -> None:
        console.print(line, style="dim", highlight=False)

    n_threads = find_threads(args)
    return {
        "model_path": find(args, report),
        "n_gpu_layers": args.n_gpu_layers,
        "n_threads": n_threads,
        "n_threads_batch": n_threads,
        "n_batch": args.batch_size,
        "n_ubatch": args.batch_size,
        "flash_attn": args.flash_attn,
        "type_k": args.cache_type_k,
        "type_v": args.cache_type_v,
        "seed": getattr(args, "seed", -1) & 0xFFFFFFFF,
        "verbose": False,
    }


def read_prompt(
    llama: ReadingLlama, prompt: Prompt, policy: Policy, budget: Budget, args: argparse.Namespace, console: Console
) -> ReadStats:
    """Read a prompt with the options of the command line, and show how far it is."""
    with progress_bar(console) as bar:
        task = bar.add_task("reading", total=len(prompt))
        return llama.read(
            prompt,
            policy,
            budget,
            n_predict=args.predict,
            n_cells=args.ctx_size,
            one_shot=args.one_shot,
            allow_overflow=args.allow_overflow,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )


def progress_bar(console: Console) -> Progress:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
