"""Skips in CI: the expected ones stay, the others fail."""

import pytest

pytest_plugins = ["pytester"]

CASES = """
import pytest

def test_expected():
    pytest.skip("needs Chromium (Debian, Ubuntu: apt install chromium)")

def test_unexpected():
    pytest.importorskip("no_such_package")

@pytest.mark.skipif(True, reason="no .build")
def test_marked():
    pass

@pytest.mark.xfail
def test_known_to_fail():
    assert False
"""


@pytest.fixture
def result_of(pytester):
    """A function that gives the result of CASES, and of a module that is skipped as a whole."""
    pytester.makepyfile(CASES, test_module="import pytest\npytest.importorskip('no_such_package')")
    return lambda: pytester.runpytest_inprocess("-p", "helpers.skips", "--continue-on-collection-errors")


def test_unexpected_skips_fail_in_ci(result_of, monkeypatch):
    monkeypatch.setenv("CI", "1")
    result = result_of()
    result.assert_outcomes(skipped=1, failed=1, xfailed=1, errors=2)
    result.stdout.fnmatch_lines_random(
        ["ERROR *unexpected skip: no .build", "FAILED *unexpected skip: could not import*"]
    )


def test_skips_stay_elsewhere(result_of, monkeypatch):
    monkeypatch.delenv("CI", raising=False)
    result_of().assert_outcomes(skipped=4, xfailed=1)
