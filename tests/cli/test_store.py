"""What `dapq-edge` keeps on disk, and its command `store`."""

import json

import pytest
from helpers.cli import ask, assert_one_line, dapq_edge


@pytest.fixture
def long(tmp_path):
    path = tmp_path / "long.txt"
    path.write_text(" ".join(f"The quick brown fox {i} jumps over the lazy dog {i}." for i in range(140)))
    return path


def asked(model, doc, *args, kv_budget=200):
    result = ask(model, doc, "--kv-budget", kv_budget, *args)
    assert result.returncode == 0, result.stderr.decode()
    return json.loads(result.stdout), result.stderr.decode()


def test_a_second_question_takes_what_the_first_one_read(model, long, store):
    first, _ = asked(model, long, "--store-type", "f16")
    second, _ = asked(model, long, "--store-type", "f16")
    assert first["windows_stored"] == 0
    assert second["windows_stored"] == second["windows"] > 5
    assert second["tokens_evaluated"] < first["tokens_evaluated"] / 3
    assert (second["answer"], second["chunks"]) == (first["answer"], first["chunks"])
    listed = dapq_edge("store", "list").stdout.decode()
    assert str(second["windows"]) in listed
    assert "windows" in listed
    (group,) = json.loads(dapq_edge("store", "list", "--json").stdout)
    assert (group["of"], group["kind"], group["files"]) == (model.name, "window", second["windows"])
    assert group["bytes"] > 1000
    options = "--store-type", "f16", "-n", 4, "--kv-budget", 200
    line = dapq_edge("ask", "-m", model, "--doc", long, "What jumps?", *options).stderr.decode()
    assert f"windows from the store: {second['windows']}" in line
    checked = dapq_edge("store", "check")
    assert (checked.returncode, "damaged, and removed: 0" in checked.stdout.decode()) == (0, True)
    path = sorted(store.glob("*.kv"))[0]
    path.write_bytes(path.read_bytes()[:-1])
    third, line = asked(model, long, "--store-type", "f16")
    assert third["windows_stored"] == second["windows"] - 1
    assert third["answer"] == first["answer"]
    assert "damaged, and read again" in line
    path.write_bytes(b"x")
    assert dapq_edge("store", "check").returncode == 1
    assert "removed" in dapq_edge("store", "remove").stdout.decode()
    assert list(store.glob("*.kv")) == []
    assert asked(model, long)[0]["windows_stored"] == 0


def test_an_empty_store(store):
    """It is one line, and an empty list."""
    listed = dapq_edge("store", "list")
    assert (listed.returncode, listed.stdout.decode()) == (0, f"the store in {store} is empty\n")
    assert dapq_edge("store", "list", "--json").stdout == b"[]\n"
    assert dapq_edge("store", "remove").stdout == b"removed 0 of 0 files, 0.0 MiB\n"
    assert dapq_edge("store", "check").stdout == b"read 0 files, 0.0 MiB; damaged, and removed: 0\n"


def test_no_store(model, long, store, tmp_path):
    asked(model, long, "--no-store")
    assert list(store.iterdir()) == []
    asked(model, long, "--store", tmp_path / "other")
    assert list(store.iterdir()) == []
    assert len(list((tmp_path / "other").glob("*.kv"))) > 5


def test_a_store_that_cannot_be_is_said(model, long, tmp_path):
    (tmp_path / "file").write_text("")
    data, line = asked(model, long, "--store", tmp_path / "file" / "store")
    assert data["windows_stored"] == 0
    assert "no store in" in line
    assert_one_line(dapq_edge("store", "list", "--store", tmp_path / "none"), 1, "no store in")
    assert_one_line(ask(model, long, "--store-size", "many"), 2, "--store-size", "give a number with a unit")
    assert_one_line(ask(model, long, "--store-size", "8"), 2, "--store-size 8: of what? Give a unit: 8G")


def test_reading_ahead(model, long, store, tmp_path):
    """What is read before anything is asked is what a question looks through."""
    other = tmp_path / "other.txt"
    other.write_text(" ".join(f"A lazy cat {i} sleeps." for i in range(150)))
    first = dapq_edge("read", "-m", model, long, other)
    assert first.returncode == 0, first.stderr.decode()
    lines = first.stdout.decode().splitlines()
    assert [line.split(":")[0] for line in lines] == [str(long), str(other)]
    assert all(", 0 of them read before" in line for line in lines)
    asked_now, _ = asked(model, long, kv_budget=600)
    assert asked_now["windows_stored"] == asked_now["windows"] > 5
    again = dapq_edge("read", "-m", model, long).stdout.decode()
    assert f"{asked_now['windows']} windows, {asked_now['windows']} of them read before" in again
    assert_one_line(dapq_edge("read", "-m", model, "--no-store", long), 2, "--no-store")
    assert_one_line(dapq_edge("read", "-m", model, tmp_path / "none.txt"), 1, "none.txt")
    (tmp_path / "file").write_text("")
    broken = dapq_edge("read", "-m", model, "--store", tmp_path / "file" / "store", long)
    assert (broken.returncode, broken.stdout) == (1, b"")
