"""`dapq-edge serve`: an OpenAI-compatible server."""

from dataclasses import dataclass

from .command import Command
from .options import ConversationStore, Eviction, SizedModel, group, option
from .options.arguments import MAX_PORT, names, positive, positive_or, whole


@dataclass(frozen=True)
class Options:
    """Options of the command."""

    host: str = option(
        "--host", default="127.0.0.1", metavar="IP", help="address (default: 127.0.0.1); [::1] is one, too"
    )
    port: int = option("--port", type=whole(0, MAX_PORT), default=8080, metavar="N", help="port (default: 8080)")
    api_key: str | None = option(
        "--api-key", metavar="KEY", help="what clients must send (default: LLAMA_API_KEY, or none)"
    )
    alias: str | None = option("-a", "--alias", metavar="NAME", help="name of the model (default: of its file)")
    any_model: bool = option("--any-model", action="store_true", help="answer those that ask for another model, too")
    allowed_hosts: list[str] = option(
        "--allowed-hosts",
        type=names,
        default=[],
        metavar="NAMES",
        help="names of this machine that requests may be sent to, beside localhost, with commas between them",
    )
    cors: list[str] = option(
        "--cors",
        "--cors-origins",
        type=names,
        default=[],
        metavar="ORIGINS",
        help="pages elsewhere that may use the server, as https://example.org, with commas between them; * is all",
    )
    predict: int = option(
        "-n",
        "--predict",
        type=positive_or(-1),
        default=2048,
        metavar="N",
        help="tokens of an answer at most, if its request does not say (default: 2048); -1 for as many as fit",
    )
    timeout: float = option(
        "-to", "--timeout", type=positive, default=600, metavar="S", help="seconds for a request (default: 600)"
    )
    queue: int = option(
        "--queue", type=positive_or(0), default=16, metavar="N", help="requests that may wait (default: 16)"
    )
    max_body: float = option(
        "--max-body", type=positive, default=32, metavar="MIB", help="size of a request (default: 32)"
    )
    model: SizedModel = group("model")
    eviction: Eviction = group("eviction")
    store: ConversationStore = group("store")


COMMAND = Command("serve", "serve OpenAI's API, and a page to ask about a document", Options, "serving:serve")
