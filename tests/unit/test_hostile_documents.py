"""Damaged and hostile files: a text, or one line, within 10 seconds and 500 MB."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

# what has to be refused, and with what words
REFUSED = {
    "huge.txt": "has more than 100 MiB",
    "huge.pdf": "has more than 100 MiB",
    "bomb.xlsx": "unpacks to",
    "bomb-pandoc-en.docx": "unpacks to",
    "near-bomb-pandoc-en.docx": "needs more than 470 MiB",
    "laughs-pandoc-en.docx": "cannot be read: limit on input amplification factor",
    "laughs-pandoc-en.pptx": "cannot be read: Maximum entity amplification factor exceeded",
    "deep.html": "is nested too deeply",
    "parts.eml": "is nested too deeply",
    "endless.pdf": "has more than 20,000 pages",
    "kids-loop.pdf": "its pages are damaged",
    "flate.pdf": "its reader ended (SIG",
    "attributes.html": "takes more than 9 s",
    "line.txt": "has more than 10 million characters",
    "headings.md": "has more than 50,000 parts",
}


def helper(command: str, folder: Path) -> list[dict[str, object]]:
    """What a process of its own prints: this one is larger than any file may make it."""
    run = subprocess.run(
        [sys.executable, "-m", "helpers.hostile", command, str(folder)],
        cwd=TESTS,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])},
        capture_output=True,
        check=True,
    )
    assert run.stderr == b""
    return [json.loads(line) for line in run.stdout.splitlines()]


@pytest.mark.slow
def test_one_line_each(tmp_path):
    helper("write", tmp_path)
    results = helper("read", tmp_path)
    assert len(results) == len(list(tmp_path.iterdir())) > 100
    errors = {result["name"]: result["error"] for result in results}
    for result in results:
        lines = [result["error"]] if result["error"] else result["notes"]
        assert result["error"] or result["text"].strip(), result["name"]
        assert all(len(line.splitlines()) == 1 and "Traceback" not in line for line in lines), result["name"]
        # no machine is so slow
        assert result["seconds"] < 20, result["name"]
        assert "root:" not in result["text"]
        assert result["own_mib"] < 477, result["name"]
        assert result["child_mib"] < 477, result["name"]
    for name, words in REFUSED.items():
        assert words in (errors[name] or ""), name
    # what was not hurt is read
    assert errors["flipped-3-writer-en.pdf"] is None
    assert errors["emoji.txt"] is None
