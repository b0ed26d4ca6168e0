"""Options of what is kept on disk."""

import os
from dataclasses import dataclass
from typing import Any

from ...store.types import STORE_TYPES
from .arguments import option, positive_or


def cache_ram_option() -> Any:
    """Return the option of how much memory conversations take that were left."""
    return option(
        "-cram",
        "--cache-ram",
        type=positive_or(0, -1),
        default=256,
        metavar="N",
        help="MiB for conversations that were left and may go on, at most an eighth of free memory (default: 256)",
    )


@dataclass(frozen=True)
class StoreFolder:
    """The folder of a store."""

    store: str | None = option(
        "--store",
        metavar="DIR",
        help="folder that keeps what was read of documents (default: DAPQ_STORE, or in the user's cache)",
    )

    @property
    def folder(self) -> str | None:
        """The folder that was given, if any was."""
        return self.store or os.environ.get("DAPQ_STORE")


@dataclass(frozen=True)
class Store(StoreFolder):
    """Options of what is read once, and kept on disk."""

    store_size: str = option(
        "--store-size", default="8G", metavar="SIZE", help="its size at most, the oldest go first (default: 8G)"
    )
    store_type: str = option(
        "--store-type",
        default=STORE_TYPES[0],
        choices=STORE_TYPES,
        help=f"type of K and V in its files (default: {STORE_TYPES[0]}); f16 keeps them to the bit",
    )
    no_store: bool = option("--no-store", action="store_true", help="keep nothing on disk")


@dataclass(frozen=True)
class ConversationStore(Store):
    """Options of what is read once, and of conversations that may go on."""

    cache_ram: int = cache_ram_option()
