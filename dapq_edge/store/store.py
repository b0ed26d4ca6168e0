"""Store of a model: what it has read, in a folder."""

from collections.abc import Callable

from .answers import AnswerStore
from .catalog import Catalog
from .documents import DocumentStore
from .states import StateStore
from .windows import WindowStore


class Store:
    """Windows of documents, what they answered, conversations, and documents.

    Args:
        catalog: Keeps them; other models and processes may share it.
        identity: Says what they depend on beside their text: the model, the types of the cache, the patch.
        name: Of the model, for people.
        store_type: Of K and V of windows in the files, see `STORE_TYPES`.

    Attributes:
        catalog: Keeps them.
        windows: Of documents.
        answers: Of windows.
        states: Of conversations.
        documents: That were uploaded.
    """

    def __init__(self, catalog: Catalog, identity: Callable[[], str], name: str, store_type: str) -> None:
        self.catalog = catalog
        self.windows = WindowStore(catalog, identity, name, store_type)
        self.answers = AnswerStore(catalog, identity, name)
        self.states = StateStore(catalog, identity, name)
        self.documents = DocumentStore(catalog)
