"""Tesseract, which reads pictures."""

import os
import shutil
import subprocess
from functools import cache

from ..errors import DapqError

# languages that are tried at once: each takes its time
MAX_LANGUAGES = 4


def check_tesseract() -> None:
    """Raise `DapqError` if Tesseract is not installed."""
    if not shutil.which("tesseract"):
        raise DapqError("has pages without text, and `ocr` needs Tesseract: apt install tesseract-ocr, or the like")


@cache
def languages() -> str:
    """Return the languages that Tesseract has, as it wants them: "deu+eng"."""
    listed = subprocess.run(["tesseract", "--list-langs"], capture_output=True, text=True, check=False)
    found = [line for line in listed.stdout.splitlines()[1:] if line not in ("osd", "equ")]
    return "+".join(found) if 0 < len(found) <= MAX_LANGUAGES else "eng"


def read_picture(picture: bytes, dpi: int) -> str:
    """Return the text of a picture, which is a PNM file. Raises `DapqError` if Tesseract fails."""
    command = ["tesseract", "stdin", "stdout", "-l", languages(), "--dpi", str(dpi)]
    # a second thread takes longer than one beside a model
    environment = {**os.environ, "OMP_THREAD_LIMIT": "1"}
    run = subprocess.run(command, input=picture, capture_output=True, env=environment, check=False)
    if run.returncode:
        raise DapqError(f"cannot be read by Tesseract: {' '.join(run.stderr.decode(errors='replace').split())[:200]}")
    return run.stdout.decode(errors="replace").strip()
