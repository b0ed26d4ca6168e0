"""Folders of wheels with their checksums: what setup.sh takes a wheel from, and wheel.sh puts one into.

    wheels.py fetch ADDRESS STEM DIR    fetch the wheel for this machine whose name begins with STEM; print its path
    wheels.py sums DIR                  write DIR/SHA256SUMS, as sha256sum does
    wheels.py index DIR                 write DIR/llama-cpp-python/index.html, for pip's --extra-index-url

ADDRESS is a folder, or a URL below which SHA256SUMS and the wheels are. Exit codes of `fetch`: 3 if no wheel there is
for this machine and these patches, 1 if the wheel is not the one that SHA256SUMS lists; the reason is on stdout.
"""

import hashlib
import html
import sys
import urllib.request
from pathlib import Path
from urllib.parse import quote

# the interpreter of .venv has pip
from pip._vendor.packaging.tags import sys_tags
from pip._vendor.packaging.utils import InvalidWheelFilename, parse_wheel_filename

SUMS = "SHA256SUMS"
SECONDS = 60


class NoWheel(Exception):
    """Why there is none."""


class WrongWheel(Exception):
    """What is wrong with it."""


def read(address: str, name: str) -> bytes:
    """Return a file of a folder or below a URL."""
    base = address if "://" in address else Path(address).resolve().as_uri()
    with urllib.request.urlopen(f"{base.rstrip('/')}/{quote(name)}", timeout=SECONDS) as answer:
        return answer.read()


def listed(text: str) -> dict[str, str]:
    """Return {name: sha256} of the wheels that SHA256SUMS lists."""
    pairs = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    names = {name.lstrip("*"): digest.lower() for digest, name in pairs}
    return {name: digest for name, digest in names.items() if name.endswith(".whl") and "/" not in name}


def rank(name: str) -> int | None:
    """Return how well a wheel suits this machine, 0 is best; None if it does not."""
    try:
        tags = parse_wheel_filename(name)[3]
    except InvalidWheelFilename:
        return None
    return next((i for i, tag in enumerate(sys_tags()) if tag in tags), None)


def choose(names: list[str], stem: str) -> str:
    """Return the wheel for this machine whose name begins with `stem`. Raises `NoWheel`."""
    ours = [name for name in names if name.startswith(f"{stem}-")]
    if not ours:
        raise NoWheel(f"none of the {len(names)} there is {stem}")
    ranks = {name: found for name in ours if (found := rank(name)) is not None}
    if not ranks:
        raise NoWheel(f"none there is for this machine, only {', '.join(name.split('-')[-1][:-4] for name in ours)}")
    return min(ranks, key=ranks.__getitem__)


def fetch(address: str, stem: str, folder: Path) -> Path:
    """Return the path in `folder` of the wheel that suits this machine, with the sha256 that is listed for it.

    Raises `NoWheel`, and `WrongWheel` if it has another sha256.
    """
    try:
        sums = listed(read(address, SUMS).decode())
        name = choose(list(sums), stem)
        data = read(address, name)
    except (OSError, ValueError) as error:
        raise NoWheel(str(getattr(error, "reason", error))) from error
    if hashlib.sha256(data).hexdigest() != sums[name]:
        raise WrongWheel(f"{name} has not the sha256 that {SUMS} lists for it")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)
    return folder / name


def digests(folder: Path) -> dict[str, str]:
    """Return {name: sha256} of the wheels of a folder."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.whl"))}


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS of a folder."""
    lines = [f"{digest}  {name}\n" for name, digest in digests(folder).items()]
    (folder / SUMS).write_text("".join(lines))


def write_index(folder: Path) -> None:
    """Write the page of a simple index (PEP 503): links to the wheels one folder up, with their sha256 for pip."""
    links = [
        f'<a href="../{quote(name)}#sha256={digest}">{html.escape(name)}</a><br>\n'
        for name, digest in digests(folder).items()
    ]
    page = folder / "llama-cpp-python" / "index.html"
    page.parent.mkdir(exist_ok=True)
    page.write_text(f"<!DOCTYPE html>\n<title>llama-cpp-python</title>\n{''.join(links)}")


def main(command: str, *words: str) -> int:
    if command != "fetch":
        {"sums": write_sums, "index": write_index}[command](Path(words[0]))
        return 0
    address, stem, folder = words
    try:
        print(fetch(address, stem, Path(folder)))
    except (NoWheel, WrongWheel) as error:
        print(error)
        return 3 if isinstance(error, NoWheel) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
