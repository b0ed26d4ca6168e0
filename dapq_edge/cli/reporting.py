"""Reports what a model takes, and what budget the memory has room for."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ..cells import CHUNK, N_CTX_PAD, pad
from ..counts import count
from ..eviction.heads import find_profile
from ..planning.gguf_shape import read_shape
from ..planning.model_shape import ModelShape
from ..planning.planner import Choice, choose, usable
from ..planning.ram import MIB, for_conversations, parse_bytes
from ..reading.evidence import n_layers_asked
from ..reading.open_model import memory_before_loading
from ..reading.windows import N_OVERLAP, SIZES
from ..store.types import STORE_TYPES
from .plan import Options
from .printing import show
from .running import check_model, find

# types whose cells are compared
SHOWN_TYPES = ("f16", "q8_0", "q4_0")

# tokens of a long document, whose size on disk is shown
N_DOCUMENT = 100_000


@dataclass(frozen=True)
class Row:
    """The cost of reading with a budget: the cells of its context, and bytes."""

    budget: int
    cells: int
    kv_bytes: int
    total_bytes: int
    fits: bool


@dataclass(frozen=True)
class _Plan:
    """The object that `--json` prints.

    kv_bytes_per_token: in the full-attention layers, by type. window_bytes: of the other ones, at most. full_kv_bytes,
    budgets, choice: with the types and up to `n_ctx` tokens. stored_bytes_per_token: of a document that was read, on
    disk, by --store-type. obstacle: why the model cannot be evicted, or empty; then
    the only budget is all, and there is no choice.
    """

    model: str
    architecture: str
    n_ctx_train: int
    n_ctx: int
    ram_bytes: int
    cache_ram_bytes: int
    cache_type_k: str
    cache_type_v: str
    weight_bytes: int
    kv_bytes_per_token: dict[str, int]
    window_bytes: int
    full_kv_bytes: int
    stored_bytes_per_token: dict[str, int]
    obstacle: str
    budgets: list[Row]
    choice: Choice | None


def plan(options: Options) -> int:
    """Print a report; returns the exit code."""
    model = options.model
    check_model(model)
    ram = memory_before_loading(model.n_gpu_layers) if options.ram is None else parse_bytes(options.ram)
    path = find(model, Console(stderr=True))
    types = model.cache_type_k, model.cache_type_v
    kept = for_conversations(options.cache_ram, ram)
    report = _report(path, ram, kept, model.ctx_size, (*types, model.batch_size))
    if options.json:
        print(json.dumps(asdict(report)))
    else:
        _print(report)
    return 0


def _report(path: Path, ram: int, kept: int, n_ctx: int, options: tuple[str, str, int]) -> _Plan:
    """kept: bytes of conversations that were left. options: types of K and V, and the batch size."""
    shape = read_shape(path)
    n_ctx, heads = n_ctx or shape.n_ctx_train, find_profile(path)
    n_layers = n_layers_asked(heads.query) if heads and heads.query else None
    return _Plan(
        model=str(path),
        architecture=shape.architecture,
        n_ctx_train=shape.n_ctx_train,
        n_ctx=n_ctx,
        ram_bytes=ram,
        cache_ram_bytes=kept,
        cache_type_k=options[0],
        cache_type_v=options[1],
        weight_bytes=shape.weight_bytes,
        kv_bytes_per_token={name: shape.bytes_per_cell(name, name) for name in SHOWN_TYPES},
        window_bytes=shape.window_bytes(*options),
        full_kv_bytes=shape.kv_bytes(n_ctx, *options),
        stored_bytes_per_token={name: _stored(shape, options[:2], n_layers, name) for name in STORE_TYPES},
        obstacle=shape.obstacle,
        budgets=_rows(shape, ram - kept, n_ctx, options),
        choice=None if shape.obstacle else choose(shape, ram - kept, n_ctx, *options),
    )


def _stored(shape: ModelShape, types: tuple[str, str], n_layers: int | None, store_type: str) -> int:
    """Return the bytes of a token of a document on disk, with those that are read behind each window."""
    types = (store_type, store_type) if types == ("f16", "f16") else types
    return math.ceil(shape.saved_bytes(*types, n_layers) * (1 + N_OVERLAP / SIZES[0]))


def _rows(shape: ModelShape, ram: int, n_ctx: int, options: tuple[str, str, int]) -> list[Row]:
    """Powers of two up to `n_ctx` if the model can be evicted, and itself, which needs no chunk beside it."""
    budgets = [] if shape.obstacle else [N_CTX_PAD << i for i in range((n_ctx // N_CTX_PAD).bit_length())]
    rows = []
    for budget in [*(budget for budget in budgets if budget < n_ctx), n_ctx]:
        n_cells = pad(min(budget + CHUNK, n_ctx))
        total_bytes = shape.total_bytes(n_cells, *options)
        rows.append(Row(budget, n_cells, shape.kv_bytes(n_cells, *options), total_bytes, total_bytes <= usable(ram)))
    return rows


def _print(report: _Plan) -> None:
    show(_needs(report))
    show(_budgets(report))
    print(_line(report))


def _needs(report: _Plan) -> Table:
    table = Table(title=f"{report.architecture} in {_mib(report.ram_bytes)} MiB", show_header=False)
    table.add_column("what")
    table.add_column("bytes", justify="right")
    table.add_row("conversations that were left", f"{_mib(report.cache_ram_bytes)} MiB")
    table.add_row("weights", f"{_mib(report.weight_bytes)} MiB")
    for name, n_bytes in report.kv_bytes_per_token.items():
        table.add_row(f"KV of a token, {name}", f"{n_bytes / 1024:,.1f} KiB")
    if report.window_bytes:
        table.add_row("sliding windows, at most", f"{_mib(report.window_bytes)} MiB")
    if not report.obstacle:
        for name, n_bytes in report.stored_bytes_per_token.items():
            size = f"{_mib(n_bytes * N_DOCUMENT)} MiB"
            table.add_row(f"a document of {N_DOCUMENT:,} tokens on disk, --store-type {name}", size)
    types = f"{report.cache_type_k}, {report.cache_type_v}"
    table.add_row(f"KV of {count(report.n_ctx, 'token')} ({types})", f"{_mib(report.full_kv_bytes)} MiB")
    return table


def _budgets(report: _Plan) -> Table:
    table = Table()
    for title in ("budget", "cells while reading", "KV MiB", "total MiB", "fits"):
        table.add_column(title, justify="right")
    for row in report.budgets:
        fits = "yes" if row.fits else "no"
        table.add_row(f"{row.budget:,}", f"{row.cells:,}", _mib(row.kv_bytes), _mib(row.total_bytes), fits)
    return table


def _line(report: _Plan) -> str:
    choice = report.choice
    if not choice:
        return f"{Path(report.model).name} cannot be evicted: {report.obstacle}: use --policy full"
    if choice.is_full:
        return f"--kv-budget auto: keeps all, as the full cache of {count(report.n_ctx, 'token')} fits"
    return (
        f"--kv-budget auto: keeps prompts of up to {choice.n_most:,} tokens, as many cells as fit beside a chunk; "
        f"longer ones from {choice.n_keep:,} cells on, and more where eviction would hurt"
    )


def _mib(n_bytes: int) -> str:
    return f"{n_bytes / MIB:,.1f}"
