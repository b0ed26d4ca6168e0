"""Options of the command line, named as in llama.cpp where it has them: frozen dataclasses that declare themselves."""

from .arguments import add_options, group, option, read_options
from .documents import Documents, Files, whole_option
from .eviction import Eviction, Reading
from .model import Model, PlannedModel, RunningModel, SizedModel, Source
from .sampling import Sampling
from .store import ConversationStore, Store, StoreFolder

__all__ = [
    "ConversationStore",
    "Documents",
    "Eviction",
    "Files",
    "Model",
    "PlannedModel",
    "Reading",
    "RunningModel",
    "Sampling",
    "SizedModel",
    "Source",
    "Store",
    "StoreFolder",
    "add_options",
    "group",
    "option",
    "read_options",
    "whole_option",
]
