"""A plugin of pytest: in CI, a test that is skipped has failed, unless its reason is one of a few."""

import os
import re
from collections.abc import Iterator
from typing import Any

import pytest

# what the reason of a skip that is no mistake begins with
EXPECTED = (
    "no GPU that this build of llama.cpp can use",
    "the device does not say that what a context leaves is free",
    "no ../shared: the evaluation data is not in the project",
    "root may read every file",
    "needs Chromium",
    "needs Tesseract",
    "needs llm",
)

Report = pytest.TestReport | pytest.CollectReport


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[Any]:
    return _checked((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[Any]:
    return _checked((yield))


def _checked(report: Report) -> Report:
    if os.environ.get("CI") and report.skipped and not hasattr(report, "wasxfail"):
        reason = re.sub(r"^Skipped: (skipped: )?", "", report.longrepr[2])
        if not reason.startswith(EXPECTED):
            report.outcome, report.longrepr = "failed", f"unexpected skip: {reason}"
    return report
