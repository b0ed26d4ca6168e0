"""Options of eviction, and of reading one document."""

from dataclasses import dataclass

from .arguments import option

# as in eviction.policies, which is not imported here: it takes time
DEFAULT_POLICY = "fused"


@dataclass(frozen=True)
class Eviction:
    """Options for what is kept of a conversation."""

    kv_budget: str = option(
        "--kv-budget",
        default="auto",
        metavar="N|P%|auto",
        help="cells to keep, a share of -c, or what free memory has room for (default: auto)",
    )
    policy: str = option(
        "--policy", default=DEFAULT_POLICY, metavar="NAME", help=f"see dapq-edge policies (default: {DEFAULT_POLICY})"
    )
    heads: str | None = option(
        "--heads", metavar="FILE", help="head profile (default: the one that dapq-edge heads calibrate made)"
    )
    skim: str = option(
        "--skim",
        choices=["auto", "all"],
        default="auto",
        help="stop reading a document when what is asked for is found by its words, or read all (default: auto)",
    )


# for one document
OF_DOCUMENT = {
    "kv_budget": {"help": "cells to keep, a share of the prompt, or what free memory has room for (default: auto)"}
}

# for one whose eviction is shown: auto would keep all of a short one
OF_SHOWN = {
    "kv_budget": {
        "default": "50%",
        "help": "cells to keep, a share of the prompt, or what free memory has room for (default: 50%%)",
    }
}


@dataclass(frozen=True)
class Reading(Eviction):
    """Options for what is kept of a document, and how it is read."""

    granularity: str = option(
        "--granularity",
        choices=["head", "layer", "cell"],
        default="head",
        help="who keeps cells of its own: each head, each layer, or nobody (default: head)",
    )
    one_shot: bool = option(
        "--one-shot", action="store_true", help="read everything, then evict (default: read in bounded memory)"
    )
    allow_overflow: bool = option(
        "--allow-overflow", action="store_true", help="go beyond the context length that the model was trained for"
    )
