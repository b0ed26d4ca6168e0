"""Options of the command line, named as in llama.cpp where it has them."""

import argparse
from collections.abc import Callable

Run = Callable[[argparse.Namespace], int]

DEFAULT_BUDGET = "50%"
DEFAULT_POLICY = "dapq"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dapq-edge",
        description="Ask about long documents in little memory: decoding-aligned KV cache eviction for llama.cpp.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, help="versions of the package, the patch and llama.cpp; backends")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_ask(commands)
    _add_policies(commands)
    return parser


class _Version(argparse.Action):
    """Looks the versions up only when they are asked for."""

    def __init__(self, option_strings: list[str], dest: str, help: str) -> None:
        super().__init__(option_strings, dest=argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from .version import version_text

        print(version_text())
        parser.exit()


def _lazy(module: str) -> Run:
    """The `run` of a command's module, imported when the command runs: --help stays fast."""

    def run(args: argparse.Namespace) -> int:
        from importlib import import_module

        return import_module(f"dapq_edge.cli.{module}").run(args)

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
    command.add_argument("question", nargs="?", default="", help="without it, the document is the whole message")
    command.add_argument("--doc", required=True, metavar="FILE", help="text, Markdown, HTML or PDF; - for stdin")
    command.add_argument("--answer-prefix", default="", metavar="TEXT", help="first words of the answer")
    command.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    command.set_defaults(run=_lazy("ask"))

    model = command.add_argument_group("model")
    source = model.add_mutually_exclusive_group(required=True)
    source.add_argument("-m", "--model", metavar="MODEL", help="GGUF file, or an alias: smollm2-135m, gemma3-270m")
    source.add_argument("-hf", "--hf-repo", metavar="USER/REPO[:QUANT]", help="GGUF model of Hugging Face")
    model.add_argument("--offline", action="store_true", help="use only what is in the cache of Hugging Face")
    model.add_argument(
        "-c",
        "--ctx-size",
        type=_positive_or(0),
        default=0,
        metavar="N",
        help="cells of the KV cache (default: as many as needed)",
    )
    model.add_argument(
        "-t", "--threads", type=_positive_or(-1), default=-1, metavar="N", help="CPU threads (default: physical cores)"
    )
    model.add_argument(
        "-b", "--batch-size", type=_positive_or(), default=512, metavar="N", help="tokens read at once (default: 512)"
    )
    model.add_argument(
        "-ngl", "--n-gpu-layers", type=int, default=-1, metavar="N", help="layers on the GPU (default: all)"
    )
    model.add_argument(
        "-fa", "--flash-attn", choices=["on", "off", "auto"], default="auto", help="flash attention (default: auto)"
    )
    model.add_argument(
        "-ctk", "--cache-type-k", default="f16", metavar="TYPE", help="type of the K cache (default: f16)"
    )
    model.add_argument(
        "-ctv", "--cache-type-v", default="f16", metavar="TYPE", help="type of the V cache (default: f16)"
    )

    cache = command.add_argument_group("eviction")
    cache.add_argument(
        "--kv-budget",
        default=DEFAULT_BUDGET,
        metavar="N|P%",
        help=f"cells to keep, or a share of the prompt (default: {DEFAULT_BUDGET.replace('%', '%%')})",
    )
    cache.add_argument(
        "--policy", default=DEFAULT_POLICY, metavar="NAME", help=f"see dapq-edge policies (default: {DEFAULT_POLICY})"
    )
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


def _positive_or(*others: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        value = int(text)
        if value < 1 and value not in others:
            raise ValueError
        return value

    number.__name__ = "number"
    return number


def _temperature(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise ValueError
    return value


_temperature.__name__ = "temperature"
