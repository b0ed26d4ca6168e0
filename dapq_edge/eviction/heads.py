"""Head profiles: which attention heads of a model find facts, measured once by `dapq-edge heads calibrate`."""

import functools
import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from platformdirs import user_cache_path

from ..errors import DapqError
from ..files import write_atomically

# the content of a model is known by this many blocks of its file, evenly spread
N_BLOCKS, BLOCK = 64, 2**16

# of the files of profiles; version 1 had no query heads, version 2 no sensitivity
VERSION = 3

# profiles of known models
BUILT_IN = Path(__file__).parent / "profiles"


@dataclass(frozen=True)
class QueryHead:
    """A head whose attention from a question tells which chunk of a text answers it.

    Attributes:
        layer: Its layer.
        head: Its number among the query heads.
        score: Evidence of chunks that answer, in standard deviations above that of other chunks, mean.
        mean: Evidence of chunks that do not answer, see `reading.evidence.evidence`.
        std: Its standard deviation.
    """

    layer: int
    head: int
    score: float
    mean: float
    std: float


@dataclass(frozen=True)
class HeadProfile:
    """Result of the calibration of one model's full-attention layers.

    model: `model_hash` of its file.
    retrieval: for each layer, for each query head, the share of its attention that goes from an answer to the fact that
    it comes from, and to the words around it. errors: for each layer, the share of an answer's attention that is lost
    when the layer is evicted. query: the heads that tell what answers a question, the best first; none in a profile of
    version 1. sensitivity: for each layer, its share of the harm that evicting one layer does, see
    `calibration.sensitivity`; nothing in profiles before version 3.
    """

    model: str
    retrieval: dict[int, list[float]]
    errors: dict[int, float]
    query: tuple[QueryHead, ...] = ()
    sensitivity: dict[int, float] = field(default_factory=dict)

    @functools.cached_property
    def digest(self) -> str:
        """A hash that tells profiles apart."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:12]

    def top_heads(self, layer: int, n_heads: int) -> npt.NDArray[np.intp]:
        """Return the query heads of a layer that find facts best, ascending."""
        return np.sort(np.argsort(self.retrieval[layer], kind="stable")[-n_heads:])

    def check(self, heads: dict[int, tuple[int, int]]) -> None:
        """Raise `DapqError` if the profile is not of a model with `heads`, see `KVCache.probed_heads`."""
        n_heads = {layer: n for layer, (n, _) in heads.items()}
        has_query = all(0 <= head.head < n_heads.get(head.layer, 0) for head in self.query)
        if {layer: len(scores) for layer, scores in self.retrieval.items()} != n_heads or not has_query:
            raise DapqError("the head profile is of another model: make one with dapq-edge heads calibrate")

    def save(self, path: Path) -> None:
        """Write the profile; a file that is there stays whole until the new one is. Raises `DapqError`."""
        write_atomically(path, json.dumps({"version": VERSION, **asdict(self)}).encode())


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
            query=tuple(_query_head(row) for row in data.get("query", ())),
            sensitivity={int(layer): float(harm) for layer, harm in data.get("sensitivity", {}).items()},
        )
        of_query = [number for head in profile.query for number in (head.score, head.mean, head.std)]
        of_layers = [*profile.errors.values(), *profile.sensitivity.values()]
        if not np.isfinite(sum(profile.retrieval.values(), [*of_layers, *of_query])).all():
            raise ValueError("a number is not finite")
        if profile.errors.keys() != profile.retrieval.keys() or profile.sensitivity.keys() - profile.errors.keys():
            raise ValueError("layers are missing")
    except OSError as error:
        raise DapqError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DapqError(f"{path} is no head profile ({error}): make one with dapq-edge heads calibrate") from error
    if profile.model != model_hash(model):
        raise DapqError(f"{path} is the profile of another model: make one with dapq-edge heads calibrate")
    return profile


def _query_head(row: dict[str, Any]) -> QueryHead:
    head = QueryHead(int(row["layer"]), int(row["head"]), float(row["score"]), float(row["mean"]), float(row["std"]))
    if not head.std > 0:
        raise ValueError("a standard deviation is not positive")
    return head


def find_profile_file(model: Path) -> Path | None:
    """Return the profile of a model in the user's cache folder, or the one that comes with the package, if any."""
    path = profile_path(model)
    return next((place for place in (path, BUILT_IN / path.name) if place.exists()), None)


def find_profile(model: Path) -> HeadProfile | None:
    """Return what `find_profile_file` finds. Raises as `load_profile` does."""
    path = find_profile_file(model)
    return load_profile(path, model) if path else None
