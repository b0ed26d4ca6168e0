"""Options of the command line, named as in llama.cpp where it has them."""

import argparse
import os
import re
from collections.abc import Callable

Run = Callable[[argparse.Namespace], int]

DEFAULT_BUDGET = "50%"
# as in policies, which is not imported here: it takes time
DEFAULT_POLICY = "fused"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dapq-edge",
        description="Ask about long documents in little memory: decoding-aligned KV cache eviction for llama.cpp.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, help="versions of the package, the patch and llama.cpp; backends")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_ask(commands)
    _add_chat(commands)
    _add_serve(commands)
    _add_kept(commands)
    _add_plan(commands)
    _add_heads(commands)
    _add_eval(commands)
    _add_policies(commands)
    _add_rpc_server(commands)
    return parser


class _Version(argparse.Action):
    """Looks the versions up only when they are asked for."""

    def __init__(self, option_strings: list[str], dest: str, help: str) -> None:
        super().__init__(option_strings, dest=argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from .version import version_text

        print(version_text())
        parser.exit()


def _lazy(module: str, function: str = "run") -> Run:
    """A function of a command's module, imported when the command runs: --help stays fast."""

    def run(args: argparse.Namespace) -> int:
        from importlib import import_module

        return getattr(import_module(f"dapq_edge.cli.{module}"), function)(args)

    return run


def _add_policies(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("policies", help="list the eviction policies", allow_abbrev=False)
    command.set_defaults(run=_lazy("policies"))


def _add_ask(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "ask",
        help="ask a question about a document",
        description="Ask a question about a document.",
        allow_abbrev=False,
    )
    _add_document(command)
    command.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    command.set_defaults(run=_lazy("ask"))

    _add_ctx_size(_add_loaded_model(command), "cells of the KV cache (default: as many as needed)")
    _add_reading(command)
    _add_sampling(command)


def _add_kept(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "kept",
        help="show which tokens of a document are kept for a question",
        description="Show a document, shaded by how many heads keep each token for a question.",
        allow_abbrev=False,
    )
    _add_document(command)
    command.add_argument("--layer", type=_positive_or(0), metavar="N", help="only the heads of this layer")
    command.add_argument("--html", metavar="OUT.html", help="write a page instead")
    command.add_argument("--plot", metavar="OUT.png", help="draw layers x positions instead (needs matplotlib)")
    command.set_defaults(run=_lazy("kept"), predict=1)
    _add_ctx_size(_add_loaded_model(command), "cells of the KV cache (default: as many as needed)")
    _add_reading(command)


def _add_chat(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "chat",
        help="talk with a model, about documents, for as long as you like",
        description="Talk with a model, about documents, for as long as you like, in bounded memory.",
        allow_abbrev=False,
    )
    command.add_argument("--doc", action="append", default=[], metavar="FILE", help="a document; can be given again")
    command.add_argument("--session", metavar="FILE", help="go on with this conversation, and save it after each turn")
    command.add_argument("-sys", "--system-prompt", default="", metavar="TEXT", help="system message")
    command.add_argument("-v", "--verbose", action="store_true", help="say after each answer what it took")
    command.set_defaults(run=_lazy("chat"))
    _add_ctx_size(
        _add_loaded_model(command), "tokens of the conversation that are remembered (default: from the model)"
    )
    _add_eviction(command, "auto", "of -c")
    _add_sampling(command)


def _add_serve(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "serve",
        help="serve OpenAI's API, and a page to ask about a document",
        description="Serve OpenAI's API, and a page to ask about a document.",
        allow_abbrev=False,
    )
    command.add_argument("--host", default="127.0.0.1", metavar="IP", help="address (default: 127.0.0.1)")
    command.add_argument("--port", type=_positive_or(0), default=8080, metavar="N", help="port (default: 8080)")
    command.add_argument("--api-key", metavar="KEY", help="what clients must send (default: LLAMA_API_KEY, or none)")
    command.add_argument("-a", "--alias", metavar="NAME", help="name of the model (default: of its file)")
    command.add_argument(
        "-to", "--timeout", type=_positive, default=600, metavar="S", help="seconds for a request (default: 600)"
    )
    command.add_argument(
        "--queue", type=_positive_or(0), default=16, metavar="N", help="requests that may wait (default: 16)"
    )
    command.add_argument(
        "--max-body", type=_positive, default=32, metavar="MIB", help="size of a request (default: 32)"
    )
    command.set_defaults(run=_lazy("serve"))
    _add_ctx_size(_add_loaded_model(command), "tokens of prompt and answer (default: from the model)")
    _add_eviction(command, "auto", "of -c")


def _add_plan(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "plan",
        help="say what a model takes, and what budget fits",
        description="Say what a model takes, and what budget the memory has room for, before it is loaded.",
        allow_abbrev=False,
    )
    command.add_argument("--ram", metavar="4G", help="memory to plan for (default: what is free)")
    command.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    command.set_defaults(run=_lazy("plan"))
    model = _add_model(command)
    _add_ctx_size(model, "tokens of prompt and answer (default: from the model)")
    _add_batch_size(model)
    _add_devices(model)
    _add_cache_types(model)


def _add_rpc_server(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "rpc-server",
        help="lend this machine to another one, for --rpc there",
        description="Serve the devices of this machine to another one, as llama.cpp's rpc-server. Only for networks "
        "that you trust: nothing is encrypted or protected.",
        allow_abbrev=False,
    )
    command.add_argument("-H", "--host", default="127.0.0.1", metavar="IP", help="address (default: 127.0.0.1)")
    command.add_argument("-p", "--port", type=_positive_or(), default=50052, metavar="N", help="port (default: 50052)")
    command.add_argument(
        "-d", "--device", default="", metavar="NAME,...", help="devices to lend (default: the GPUs, else the CPU)"
    )
    _add_threads(command)
    command.set_defaults(run=_lazy("rpc_server"))


def _add_document(command: argparse.ArgumentParser) -> None:
    command.add_argument("question", nargs="?", default="", help="without it, the document is the whole message")
    command.add_argument("--doc", required=True, metavar="FILE", help="text, Markdown, HTML or PDF; - for stdin")
    command.add_argument("--answer-prefix", default="", metavar="TEXT", help="first words of the answer")


def _add_ctx_size(model: argparse._ArgumentGroup, text: str) -> None:
    model.add_argument("-c", "--ctx-size", type=_positive_or(0), default=0, metavar="N", help=text)


def _add_eviction(command: argparse.ArgumentParser, default: str, of: str) -> argparse._ArgumentGroup:
    cache = command.add_argument_group("eviction")
    cache.add_argument(
        "--kv-budget",
        default=default,
        metavar="N|P%|auto",
        help=f"cells to keep, a share {of}, or what free memory has room for (default: {default.replace('%', '%%')})",
    )
    cache.add_argument(
        "--policy", default=DEFAULT_POLICY, metavar="NAME", help=f"see dapq-edge policies (default: {DEFAULT_POLICY})"
    )
    cache.add_argument(
        "--heads", metavar="FILE", help="head profile (default: the one that dapq-edge heads calibrate made)"
    )
    return cache


def _add_reading(command: argparse.ArgumentParser) -> None:
    cache = _add_eviction(command, DEFAULT_BUDGET, "of the prompt")
    cache.add_argument(
        "--granularity",
        choices=["head", "layer", "cell"],
        default="head",
        help="who keeps cells of its own: each head, each layer, or nobody (default: head)",
    )
    cache.add_argument(
        "--one-shot", action="store_true", help="read everything, then evict (default: read in bounded memory)"
    )
    cache.add_argument(
        "--allow-overflow", action="store_true", help="go beyond the context length that the model was trained for"
    )


def _add_sampling(command: argparse.ArgumentParser) -> None:
    sampling = command.add_argument_group("sampling")
    sampling.add_argument(
        "-n",
        "--predict",
        type=_positive_or(),
        default=256,
        metavar="N",
        help="tokens of the answer at most (default: 256)",
    )
    sampling.add_argument(
        "--temp", type=_temperature, default=0.0, metavar="T", help="temperature (default: 0, greedy)"
    )
    sampling.add_argument(
        "-s", "--seed", type=int, default=-1, metavar="N", help="seed of the sampler (default: -1, random)"
    )


def _add_heads(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "heads",
        help="find the heads of a model that retrieve facts",
        description="Find the heads of a model that retrieve facts, and show them.",
        allow_abbrev=False,
    )
    actions = command.add_subparsers(title="actions", metavar="ACTION", required=True)
    calibrate = actions.add_parser("calibrate", help="measure the heads and keep their profile", allow_abbrev=False)
    calibrate.add_argument("--haystack", metavar="DIR", help="folder with *.txt (default: texts of our own)")
    calibrate.add_argument("--needles", metavar="FILE", help="facts, JSONL (default: facts of our own)")
    calibrate.add_argument(
        "--length", type=_positive_or(), default=896, metavar="N", help="tokens of a prompt (default: 896)"
    )
    calibrate.set_defaults(run=_lazy("heads", "calibrate"))
    show = actions.add_parser("show", help="list the best heads", allow_abbrev=False)
    show.add_argument("--json", action="store_true", help="print the profile")
    show.set_defaults(run=_lazy("heads", "show"))
    for action, add_model in ((calibrate, _add_loaded_model), (show, _add_model)):
        action.add_argument("--plot", metavar="OUT.png", help="draw layers x heads (needs matplotlib)")
        add_model(action)


def _add_eval(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser(
        "eval",
        help="measure how much of the full cache's answers survives eviction",
        description="Measure how much of the full cache's answers survives eviction.",
        allow_abbrev=False,
    )
    tasks = command.add_subparsers(title="tasks", metavar="TASK", required=True)
    needle = tasks.add_parser("needle", help="facts in unrelated text", allow_abbrev=False)
    needle.add_argument("--haystack", required=True, metavar="DIR", help="folder with *.txt")
    needle.add_argument("--needles", required=True, metavar="FILE", help="facts, questions and answers, JSONL")
    depths = [0.1, 0.3, 0.5, 0.7, 0.9]
    needle.add_argument(
        "--depths", type=float, nargs="+", default=depths, metavar="D", help="where the fact is, 0 to 1 (default: five)"
    )
    needle.add_argument(
        "--offsets", type=_positive_or(), default=1, metavar="N", help="parts of the haystack (default: 1)"
    )
    needle.add_argument("--facts", type=_positive_or(), default=1, metavar="N", help="facts in a prompt (default: 1)")
    needle.add_argument("--no-prefix", action="store_true", help="without the first words of the answer")
    needle.add_argument("--paraphrased", action="store_true", help="ask with other words")
    needle.set_defaults(run=_lazy("eval", "run_needle"))
    ruler = tasks.add_parser("ruler", help="tasks of RULER", allow_abbrev=False)
    ruler.add_argument("--data", metavar="FILE", help="rows of RULER, JSONL (default: generate them)")
    kinds = ["single", "multikey", "multivalue", "multiquery", "tracking"]
    ruler.add_argument("--tasks", nargs="+", default=kinds, metavar="TASK", help=f"default: {' '.join(kinds)}")
    ruler.set_defaults(run=_lazy("eval", "run_ruler"))
    fidelity = tasks.add_parser("fidelity", help="KL divergence to the full cache", allow_abbrev=False)
    fidelity.add_argument("--data", required=True, metavar="FILE", help="rows of LongBench, JSONL")
    fidelity.set_defaults(run=_lazy("eval", "run_fidelity"))
    report = tasks.add_parser("report", help="one page of all results in a folder", allow_abbrev=False)
    report.add_argument("folder", metavar="DIR", help="folder with the files that --json made")
    report.set_defaults(run=_lazy("eval", "run_report"))
    for task in (ruler, fidelity):
        task.add_argument("--rows", type=_positive_or(), default=20, metavar="N", help="prompts (default: 20)")
    for task, n_predict in ((needle, 12), (ruler, 48), (fidelity, 48)):
        _add_eval_options(task, n_predict)


def _add_eval_options(task: argparse.ArgumentParser, n_predict: int) -> None:
    task.add_argument(
        "--lengths",
        type=_positive_or(),
        nargs="+",
        default=[2048],
        metavar="N",
        help="tokens of a prompt (default: 2048)",
    )
    budgets = ["64", "128", "256"]
    task.add_argument(
        "--budgets", nargs="+", default=budgets, metavar="N|P%", help=f"cells to keep (default: {' '.join(budgets)})"
    )
    task.add_argument(
        "--policies", nargs="+", default=[DEFAULT_POLICY], metavar="NAME", help=f"default: {DEFAULT_POLICY}"
    )
    task.add_argument("--heads", metavar="FILE", help="head profile (default: the one that was calibrated)")
    task.add_argument(
        "--granularity", choices=["head", "layer", "cell"], default="head", help="who keeps its own (default: head)"
    )
    task.add_argument("--bounded", action="store_true", help="read in bounded memory for each policy and budget")
    task.add_argument(
        "-n",
        "--predict",
        type=_positive_or(),
        default=n_predict,
        metavar="N",
        help=f"tokens of the answer (default: {n_predict})",
    )
    task.add_argument("--seed", type=_positive_or(0), default=0, metavar="N", help="of what is random (default: 0)")
    task.add_argument("--json", metavar="OUT.jsonl", help="append results, and resume from those that are there")
    task.add_argument("--plot", metavar="OUT.png", help="draw the results (needs matplotlib)")
    _add_loaded_model(task)


def _add_model(command: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    model = command.add_argument_group("model")
    source = model.add_mutually_exclusive_group(required=True)
    source.add_argument("-m", "--model", metavar="MODEL", help="GGUF file, or an alias: smollm2-135m, gemma3-270m")
    source.add_argument("-hf", "--hf-repo", metavar="USER/REPO[:QUANT]", help="GGUF model of Hugging Face")
    model.add_argument("--offline", action="store_true", help="use only what is in the cache of Hugging Face")
    return model


def _add_loaded_model(command: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """A model, and how it runs."""
    model = _add_model(command)
    _add_threads(model)
    _add_batch_size(model)
    _add_devices(model)
    model.add_argument(
        "-fa", "--flash-attn", choices=["on", "off", "auto"], default="auto", help="flash attention (default: auto)"
    )
    _add_cache_types(model)
    return model


def _add_threads(options: argparse._ActionsContainer) -> None:
    options.add_argument(
        "-t", "--threads", type=_positive_or(-1), default=-1, metavar="N", help="CPU threads (default: physical cores)"
    )


def _add_devices(model: argparse._ArgumentGroup) -> None:
    model.add_argument(
        "-ngl", "--n-gpu-layers", type=int, default=-1, metavar="N", help="layers on the GPU (default: all)"
    )
    model.add_argument(
        "--rpc",
        default=os.environ.get("LLAMA_ARG_RPC", ""),
        metavar="SERVERS",
        help="host:port of RPC servers whose devices are GPUs, with commas between them (default: LLAMA_ARG_RPC)",
    )


def _add_batch_size(model: argparse._ArgumentGroup) -> None:
    model.add_argument(
        "-b",
        "--batch-size",
        type=_positive_or(),
        default=512,
        metavar="N",
        help="tokens read at once, 64 or more (default: 512)",
    )


def _add_cache_types(model: argparse._ArgumentGroup) -> None:
    for option, name in (("-ctk", "k"), ("-ctv", "v")):
        model.add_argument(
            option,
            f"--cache-type-{name}",
            default="f16",
            metavar="TYPE",
            help=f"type of the {name.upper()} cache (default: f16)",
        )


def _positive_or(*others: int) -> Callable[[str], int]:
    """A whole number from 1, or one of `others`."""
    allowed = " or ".join(["a whole number from 1", *map(str, others)])

    def number(text: str) -> int:
        if not re.fullmatch(r"-?\d+", text) or (int(text) < 1 and int(text) not in others):
            raise argparse.ArgumentTypeError(f"{text!r} is not {allowed}")
        return int(text)

    return number


def _positive(text: str) -> float:
    value = _temperature(text)
    if value == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def _temperature(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0")
    return value
