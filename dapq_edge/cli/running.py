"""Steps that the commands that run a model have in common."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil
from platformdirs import user_cache_path
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..control import Control
from ..control import Progress as Report
from ..counts import count
from ..documents.document import Document, join
from ..documents.find import read_documents
from ..errors import DapqError
from ..eviction.budget import Auto, Budget, parse_budget
from ..eviction.heads import HeadProfile, load_profile
from ..eviction.policies import Full, Policy, get_policy
from ..llama import Llama
from ..llamacpp import native
from ..llamacpp.log import captured_log, end_on_abort
from ..llamacpp.model import check_cache_types
from ..llamacpp.rpc import add_servers
from ..planning.gguf_shape import check_eviction
from ..planning.ram import parse_bytes
from ..planning.weights import find_hf_model, find_model
from ..prompt import Prompt
from ..reading.engine import Engine
from ..reading.open_model import open_model
from ..reading.stats import ReadStats, Usage, room_warning
from ..reading.strategies import GoesOn
from ..store.catalog import Catalog
from .names import message_of
from .options import (
    ConversationStore,
    Documents,
    Eviction,
    Files,
    Model,
    Reading,
    RunningModel,
    SizedModel,
    Source,
    Store,
    StoreFolder,
)


def check_model(options: Model | RunningModel) -> None:
    """Raise `UsageError` if an option is wrong, `StockBuildError` if llama.cpp is; use the servers of --rpc."""
    check_cache_types(options.cache_type_k, options.cache_type_v)
    native.require()
    end_on_abort()
    if options.servers:
        with captured_log():
            add_servers(options.servers)


def check_budget(options: Eviction) -> None:
    """Raise `UsageError` if an option is wrong, before a model is loaded."""
    parse_budget(options.kv_budget)
    get_policy(options.policy)


def find(options: Source, console: Console) -> Path:
    """Return the model file that -m or -hf names; a download is reported."""
    if options.hf_repo:
        return find_hf_model(options.hf_repo, options.offline)
    return find_model(options.model or "", lambda line: console.print(line, style="dim", highlight=False))


def read_all(paths: Iterable[str], options: Files, console: Console) -> list[Document]:
    """Read documents, and say what was not read of them. Raises as `read_documents` does."""
    return _read(paths, options, console)[0]


def read_one(options: Documents, console: Console) -> tuple[Document, list[str]]:
    """Read the documents of --doc as one; returns it, and what was said. Raises as `read_documents` does."""
    documents, notes = _read(options.doc, options, console)
    return join(documents), notes


def _read(paths: Iterable[str], options: Files, console: Console) -> tuple[list[Document], list[str]]:
    documents, notes = read_documents(paths, options.reading)
    notes = [message_of(DapqError(note)) for note in notes]
    say(notes, console)
    return documents, notes


def open_engine(
    options: RunningModel,
    console: Console,
    *,
    heads: str | None = None,
    find_heads: bool = True,
    policy: str = Full.name,
    skim: str = "auto",
    store: Store | None = None,
    seed: int = -1,
) -> Engine:
    """Open the model, to read prompts one by one.

    heads: the file of --heads; without it, what was calibrated is taken unless `find_heads` is false.

    Raises `UnsupportedModelError` before it is loaded, if it is known that it cannot be evicted.
    """
    model = find(options, console)
    if policy != Full.name:
        check_eviction(model)
    profile = load_profile(Path(heads), model) if heads else None
    shelf, model_options = shelf_options(store, console), _model_options(options, seed)
    engine = open_model(model, heads=profile, find_heads=find_heads, skim=skim, **shelf, **model_options)
    _note_old(engine.heads, console)
    return engine


def open_to_read(options: RunningModel, reading: Reading, store: Store, console: Console, *, seed: int = -1) -> Engine:
    """Open the model, to read one document as `reading` says. Raises as `open_engine` does."""
    return open_engine(
        options, console, heads=reading.heads, policy=reading.policy, skim=reading.skim, store=store, seed=seed
    )


def open_llama(
    options: SizedModel, eviction: Eviction, store: ConversationStore, console: Console, *, seed: int = -1
) -> Llama:
    """Open the model, to answer prompts as `llama_cpp.Llama` does, evicted to --kv-budget of -c tokens."""
    model = find(options, console)
    threads = n_threads(options.threads)
    llama = Llama(
        model,
        n_ctx=options.ctx_size,
        kv_budget=eviction.kv_budget,
        policy=eviction.policy,
        skim=eviction.skim,
        cache_ram=store.cache_ram,
        **shelf_options(store, console),
        heads=load_profile(Path(eviction.heads), model) if eviction.heads else None,
        n_threads_batch=threads,
        **_model_options(options, seed),
    )
    _note_old(llama.heads, console)
    return llama


def shelf_options(options: Store | None, console: Console) -> dict[str, Any]:
    """Return the options of a store; where there can be none, it is said, and everything is read.

    Raises `UsageError` if --store-size is wrong.
    """
    if options is None:
        return {}
    n_max = parse_bytes(options.store_size, "store_size")
    if options.no_store or not n_max:
        return {}
    folder = store_folder(options)
    try:
        catalog = Catalog(folder, n_max)
    except DapqError as error:
        say([message_of(error)], console)
        return {}
    say(catalog.take_faults(), console)
    catalog.close()
    return {"store": folder, "store_size": n_max, "store_type": options.store_type}


def store_folder(options: StoreFolder) -> Path:
    """Return the folder of --store, or the one in the user's cache."""
    return Path(options.folder).expanduser() if options.folder else user_cache_path("dapq-edge") / "store"


def say(lines: Iterable[str], console: Console) -> None:
    """Print lines about what was not done as it should."""
    for line in lines:
        console.print(f"dapq-edge: {line}", style="dim", highlight=False, soft_wrap=True, markup=False)


def _note_old(profile: HeadProfile | None, console: Console) -> None:
    """Say that a head profile is used only as far as it goes."""
    if profile is None or (profile.query and profile.sensitivity):
        return
    lacks = "how much eviction harms each layer" if profile.query else "query heads"
    say([f"the head profile is an old one, without {lacks}: make one with dapq-edge heads calibrate"], console)


def n_threads(threads: int) -> int:
    """Return the number of -t, or of physical cores."""
    return threads if threads > 0 else psutil.cpu_count(logical=False) or 1


def _model_options(options: RunningModel, seed: int) -> dict[str, Any]:
    return {
        "n_gpu_layers": options.n_gpu_layers,
        "n_threads": n_threads(options.threads),
        "n_batch": options.batch_size,
        "n_ubatch": options.batch_size,
        "flash_attn": options.flash_attn,
        "type_k": options.cache_type_k,
        "type_v": options.cache_type_v,
        "seed": seed & 0xFFFFFFFF,
        "verbose": False,
    }


def find_budget(options: Eviction, engine: Engine, ctx_size: int) -> Budget:
    """Return the budget of --kv-budget, or the one that the free memory has room for."""
    budget = parse_budget(options.kv_budget)
    return engine.auto_budget(ctx_size or engine.model.n_ctx_train) if budget == Auto() else budget


def read_prompt(
    engine: Engine,
    prompt: Prompt,
    policy: Policy,
    options: Reading,
    console: Console,
    *,
    n_predict: int,
    ctx_size: int,
    goes_on: GoesOn | None = None,
) -> ReadStats:
    """Read a prompt with the options of the command line, and show how far it is."""
    with progress_bar(console) as bar:
        return engine.read(
            prompt,
            policy,
            find_budget(options, engine, ctx_size),
            n_predict=n_predict,
            n_cells=ctx_size,
            one_shot=options.one_shot,
            allow_overflow=options.allow_overflow,
            goes_on=goes_on,
            control=Control(shown_in(bar, "reading")),
        )


def warn(read: ReadStats | Usage, console: Console) -> None:
    """Say if some of the request may be evicted, and what went wrong with the store."""
    say(warnings_of(read), console)


def warnings_of(read: ReadStats | Usage) -> list[str]:
    """Return what `warn` says, one line each."""
    warning = room_warning(read.n_unpinned)
    return [*([message_of(warning)] if warning else []), *read.faults]


def cut_note(n_predict: int) -> str:
    """Return what to say if an answer had no room for its end."""
    return f"the answer was cut after {count(n_predict, 'token')}: raise -n"


def progress_bar(console: Console) -> Progress:
    """Return a bar that is shown in a terminal, and gone at the end."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def shown_in(bar: Progress, what: str) -> Report:
    """Return what shows in a bar how far some work is, from the first time on that it says so."""
    task = bar.add_task(what, total=None, visible=False)

    def show(done: int, total: int) -> None:
        bar.update(task, completed=done, total=total, visible=True)

    return show
