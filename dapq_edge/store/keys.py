"""Keys of what is stored: a digest of tokens, and of what else it depends on."""

import hashlib
import json
from collections.abc import Sequence as Tokens

import numpy as np


def key_of(tokens: Tokens[int], *settings: str | int) -> str:
    """Return the key of something that depends on tokens and settings: 64 hexadecimal digits."""
    digest = hashlib.sha256(json.dumps(settings).encode())
    digest.update(np.array(tokens, dtype=np.int32).tobytes())
    return digest.hexdigest()
