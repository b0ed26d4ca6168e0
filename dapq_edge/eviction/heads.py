"""Head profiles: which attention heads of a model find facts, measured once by `dapq-edge heads calibrate`."""

import functools
import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from platformdirs import user_cache_path

from ..errors import DapqError
from ..files import write_atomically

# the content of a model is known by this many blocks of its file, evenly spread
N_BLOCKS, BLOCK = 64, 2**16


@dataclass(frozen=True)
class HeadProfile:
    """Result of the calibration of one model's full-attention layers.

    model: `model_hash` of its file.
    retrieval: for each layer, for each query head, the share of its attention that goes from an answer to the fact that
    it comes from, and to the words around it. errors: for each layer, the share of an answer's attention that is lost
    when the layer is evicted.
    """

    model: str
    retrieval: dict[int, list[float]]
    errors: dict[int, float]

    @functools.cached_property
    def digest(self) -> str:
        """A hash that tells profiles apart."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:12]

    def top_heads(self, layer: int, n_heads: int) -> npt.NDArray[np.intp]:
        """Return the query heads of a layer that find facts best, ascending."""
        return np.sort(np.argsort(self.retrieval[layer], kind="stable")[-n_heads:])

    def check(self, heads: dict[int, tuple[int, int]]) -> None:
        """Raise `DapqError` if the profile is not of a model with `heads`, see `KVCache.probed_heads`."""
        if {layer: len(scores) for layer, scores in self.retrieval.items()} != {il: n for il, (n, _) in heads.items()}:
            raise DapqError("the head profile is of another model: make one with dapq-edge heads calibrate")

    def save(self, path: Path) -> None:
        """Write the profile; a file that is there stays whole until the new one is. Raises `DapqError`."""
        write_atomically(path, json.dumps(asdict(self)).encode())


def model_hash(path: Path) -> str:
    """Return the SHA-256 of the size of a file and of blocks of it, evenly spread: fast for large models, too."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for offset in np.linspace(0, max(0, size - BLOCK), N_BLOCKS).astype(int).tolist():
            file.seek(offset)
            digest.update(file.read(BLOCK))
    return digest.hexdigest()


def profile_path(model: Path) -> Path:
    """Return where the profile of a model file is kept."""
    return user_cache_path("dapq-edge") / "heads" / f"{model_hash(model)}.json"


def load_profile(path: Path, model: Path) -> HeadProfile:
    """Read a head profile. Raises `DapqError` if the file cannot be read, is no profile, or is of another model."""
    try:
        data = json.loads(path.read_text())
        profile = HeadProfile(
            model=str(data["model"]),
            retrieval={int(layer): [float(x) for x in scores] for layer, scores in data["retrieval"].items()},
            errors={int(layer): float(error) for layer, error in data["errors"].items()},
        )
        if not np.isfinite(sum(profile.retrieval.values(), list(profile.errors.values()))).all():
            raise ValueError("a number is not finite")
        if profile.errors.keys() != profile.retrieval.keys():
            raise ValueError("layers are missing")
    except OSError as error:
        raise DapqError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DapqError(f"{path} is no head profile ({error}): make one with dapq-edge heads calibrate") from error
    if profile.model != model_hash(model):
        raise DapqError(f"{path} is the profile of another model: make one with dapq-edge heads calibrate")
    return profile


def find_profile(model: Path) -> HeadProfile | None:
    """Return the profile of a model in the user's cache folder, if there is one. Raises as `load_profile` does."""
    path = profile_path(model)
    return load_profile(path, model) if path.exists() else None
