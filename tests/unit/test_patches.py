"""The series of patches itself."""

import re

from helpers.paths import ROOT

from dapq_edge import PATCH_VERSION

PATCHES = sorted((ROOT / "patches").glob("*.patch"))


def test_series_is_numbered_and_described():
    assert [path.name[:4] for path in PATCHES] == [f"{i:04d}" for i in range(1, len(PATCHES) + 1)]
    readme = (ROOT / "patches" / "README.md").read_text()
    for path in PATCHES:
        assert path.name in readme
        assert re.search(r"^Subject: \[PATCH \d+/\d+\] \S.* : ", path.read_text(), re.M), path.name
        added = [line for line in path.read_text().splitlines() if line.startswith("+") and not line.startswith("+++")]
        assert not [line for line in added if line != line.rstrip()], f"{path.name} adds trailing white space"


def test_versions_agree():
    path = next(path for path in PATCHES if "report-the-version" in path.name)
    assert f"return {PATCH_VERSION};" in path.read_text()
