"""`dapq-edge chat`: a conversation in the terminal."""

from dataclasses import dataclass

from .command import Command
from .options import ConversationStore, Documents, Eviction, Sampling, SizedModel, group, option, whole_option


@dataclass(frozen=True)
class Options:
    """Options of the command."""

    session: str | None = option(
        "--session", metavar="FILE", help="go on with this conversation, and save it after each turn"
    )
    system_prompt: str = option("-sys", "--system-prompt", default="", metavar="TEXT", help="system message")
    whole: str = whole_option("documents that do")
    verbose: bool = option("-v", "--verbose", action="store_true", help="say after each answer what it took")
    documents: Documents = group("documents")
    model: SizedModel = group(
        "model", ctx_size={"help": "tokens of the conversation that are remembered (default: from the model)"}
    )
    eviction: Eviction = group("eviction")
    store: ConversationStore = group("store")
    sampling: Sampling = group("sampling")


COMMAND = Command(
    "chat",
    "talk with a model, about documents, for as long as you like",
    Options,
    "terminal:talk",
    description="Talk with a model, about documents, for as long as you like, in bounded memory.",
)
