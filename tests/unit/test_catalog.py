"""The catalog of a store: what is written is read again or not at all, whatever happens to the files."""

import contextlib
import hashlib
import multiprocessing
import os
import shutil
import sqlite3
import stat
import time
from collections import namedtuple

import numpy as np
import pytest
from helpers.processes import run_job

from dapq_edge.errors import DapqError
from dapq_edge.store.catalog import MAX_AGE, NAME, PAUSE, RESERVE, Catalog

N = 1000


def arrays(seed, n=N):
    rng = np.random.default_rng(seed)
    return {"cells": rng.integers(256, size=n, dtype=np.uint8), "seen": rng.random((2, 8), dtype=np.float32)}


def key(name):
    """64 hexadecimal digits."""
    return hashlib.sha256(str(name).encode()).hexdigest()


def n_bytes(n=N):
    return n + 64


def is_equal(found, expected):
    return found.keys() == expected.keys() and all(np.array_equal(found[name], expected[name]) for name in expected)


@pytest.fixture
def catalog(tmp_path):
    catalog = Catalog(tmp_path / "store", 10 * n_bytes())
    yield catalog
    catalog.close()


def files(catalog):
    return sorted(catalog.folder.glob("*.kv"))


def test_what_is_put_is_there_again_also_for_another_process(catalog):
    assert catalog.get(key("a")) is None
    assert catalog.put(key("a"), "window", arrays(1), "a text")
    assert is_equal(catalog.get(key("a")), arrays(1))
    again = Catalog(catalog.folder, catalog.n_max)
    assert is_equal(again.get(key("a")), arrays(1))
    (entry,) = again.entries()
    assert (entry.key, entry.kind, entry.note, entry.n_bytes) == (key("a"), "window", "a text", n_bytes())
    again.remove(entry)
    assert catalog.get(key("a")) is None
    assert files(catalog) == []
    assert catalog.take_faults() == again.take_faults() == []


def test_an_entry_is_replaced(catalog):
    catalog.put(key("a"), "window", arrays(1))
    catalog.put(key("a"), "window", arrays(2))
    assert is_equal(catalog.get(key("a")), arrays(2))
    assert len(files(catalog)) == 1


def test_the_least_recently_used_go_first(catalog):
    for i in range(10):
        assert catalog.put(key(i), "window", arrays(i))
    catalog.get(key(0))
    catalog.begin()
    assert catalog.put(key("new"), "window", arrays(10, N + 1))
    assert [entry.key for entry in catalog.entries()] == [*map(key, range(3, 10)), key(0), key("new")]
    assert sum(path.stat().st_size for path in files(catalog)) <= catalog.n_max
    assert not catalog.put(key("huge"), "window", arrays(11, 11 * N))
    assert "no room" in catalog.take_faults()[0]


def test_what_a_reading_uses_is_not_removed_for_the_rest_of_it(catalog):
    for i in range(5):
        catalog.put(key(i), "window", arrays(i))
    catalog.begin()
    catalog.get(key(0))
    for i in range(5, 20):
        catalog.put(key(i), "window", arrays(i))
    assert {entry.key for entry in catalog.entries()} == {key(i) for i in (0, *range(5, 14))}
    assert catalog.take_faults() == [
        "the store has no room for all that was read: raise `store_size`, or free some of the disk"
    ]


def test_a_store_that_is_opened_smaller_shrinks(catalog):
    for i in range(8):
        catalog.put(key(i), "window", arrays(i))
    again = Catalog(catalog.folder, 3 * n_bytes())
    assert [entry.key for entry in again.entries()] == [key(5), key(6), key(7)]
    assert len(files(again)) == 3


def test_a_disk_is_not_filled(catalog, monkeypatch):
    for i in range(4):
        catalog.put(key(i), "window", arrays(i))
    catalog.begin()
    usage = namedtuple("usage", "free")(RESERVE + n_bytes() // 2)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    assert catalog.put(key("new"), "window", arrays(9))
    assert [entry.key for entry in catalog.entries()] == [*map(key, range(1, 4)), key("new")]


def test_files_of_others_stay(tmp_path):
    others = [tmp_path / name for name in ("app.kv", "notes.tmp", f"{'0' * 63}-{'0' * 16}.kv")]
    for path in others:
        path.write_text("of another program")
        os.utime(path, (time.time() - 2 * MAX_AGE,) * 2)
    (tmp_path / NAME).write_bytes(b"no database" * 1000)
    catalog = Catalog(tmp_path, 10**6)
    catalog.put(key("a"), "window", arrays(1))
    assert catalog.clear() == 1
    assert all(path.exists() for path in others)


@pytest.mark.skipif(os.name == "nt", reason="rights of POSIX")
def test_only_the_owner_can_read(catalog):
    catalog.put(key("a"), "window", arrays(1))
    for path in catalog.folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert stat.S_IMODE(catalog.folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("place", [0, 17, N - 1, N, N + 63])
def test_a_file_with_another_byte_is_not_used(catalog, place):
    catalog.put(key("a"), "window", arrays(1))
    (path,) = files(catalog)
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    assert catalog.get(key("a")) is None
    (fault,) = catalog.take_faults()
    assert "damaged" in fault
    assert catalog.get(key("a")) is None
    assert catalog.take_faults() == []
    assert catalog.put(key("a"), "window", arrays(1))
    assert is_equal(catalog.get(key("a")), arrays(1))


@pytest.mark.parametrize("size", [0, 1, N, n_bytes() - 1, n_bytes() + 1])
def test_a_file_of_another_size_is_not_used(catalog, size):
    catalog.put(key("a"), "window", arrays(1))
    catalog.put(key("b"), "window", arrays(2))
    path = next(path for path in files(catalog) if path.name.startswith(key("a")))
    path.write_bytes((path.read_bytes() + b"x")[:size])
    assert catalog.check() == 1
    assert [entry.key for entry in catalog.entries()] == [key("b")]
    assert len(files(catalog)) == 1


def test_a_file_that_was_removed_is_not_there(catalog):
    catalog.put(key("a"), "window", arrays(1))
    files(catalog)[0].unlink()
    assert catalog.get(key("a")) is None
    assert catalog.entries() == []
    assert catalog.take_faults() == []


@pytest.mark.parametrize("damage", [b"", b"no database" * 1000, None])
def test_a_damaged_catalog_is_begun_anew(tmp_path, damage):
    catalog = Catalog(tmp_path, 10**6)
    for i in range(200):
        catalog.put(key(i), "window", arrays(i))
    catalog.close()
    path = tmp_path / NAME
    data = path.read_bytes()
    path.write_bytes(damage if damage is not None else data[:100] + bytes(len(data) - 100))
    again = Catalog(tmp_path, 10**6)
    assert again.get(key(1)) is None
    assert again.put(key("a"), "window", arrays(1))
    assert is_equal(again.get(key("a")), arrays(1))


@pytest.mark.skipif(os.name == "nt", reason="rights of POSIX")
@pytest.mark.parametrize("is_whole", [True, False], ids=["folder", "catalog"])
def test_a_catalog_that_is_gone_is_begun_anew_by_the_next_reading(catalog, is_whole):
    """Another process found it damaged, or people removed it, while this one goes on."""
    catalog.put(key(0), "window", arrays(0))
    shutil.rmtree(catalog.folder) if is_whole else (catalog.folder / NAME).unlink()
    catalog.begin()
    assert catalog.get(key(0)) is None
    assert catalog.put(key(1), "window", arrays(1))
    other = Catalog(catalog.folder, catalog.n_max)
    assert is_equal(other.get(key(1)), arrays(1))
    other.close()
    assert catalog.take_faults() == []


def test_a_catalog_that_cannot_be_begun_anew_is_said(catalog):
    shutil.rmtree(catalog.folder)
    catalog.folder.write_bytes(b"")
    catalog.begin()
    (fault,) = catalog.take_faults()
    assert fault.startswith("the catalog of the store is gone: ")
    assert not catalog.put(key(1), "window", arrays(1))


def test_a_flipped_byte_of_the_catalog_gives_no_wrong_arrays(tmp_path):
    catalog = Catalog(tmp_path, 10**6)
    for i in range(20):
        catalog.put(key(i), "window", arrays(i))
    catalog.close()
    path = tmp_path / NAME
    data = path.read_bytes()
    for place in np.random.default_rng(0).integers(len(data), size=100).tolist():
        for part in tmp_path.glob(f"{NAME}*"):
            part.unlink()
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x41]) + data[place + 1 :])
        again = Catalog(tmp_path, 10**6)
        for i in range(20):
            found = again.get(key(i))
            assert found is None or is_equal(found, arrays(i)), place
        again.put(key("new"), "window", arrays(21))
        found = again.get(key("new"))
        assert found is None or is_equal(found, arrays(21)), place
        again.check()
        again.entries()
        again.close()


def test_no_right_to_write(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(DapqError, match="no store in"):
        Catalog(tmp_path / "file" / "store", 1000)


def test_a_full_disk(catalog, monkeypatch):
    catalog.put(key("a"), "window", arrays(1))
    monkeypatch.setattr(os, "replace", fail)
    assert not catalog.put(key("b"), "window", arrays(2))
    assert not catalog.put(key("c"), "window", arrays(3))
    (fault,) = catalog.take_faults()
    assert "No space left" in fault
    monkeypatch.undo()
    assert list(catalog.folder.glob("*.tmp")) == []
    # it tries again after a while
    later = time.monotonic() + PAUSE + 1
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert catalog.put(key("b"), "window", arrays(2))
    assert is_equal(catalog.get(key("a")), arrays(1))


@pytest.mark.skipif(os.name == "nt", reason="limits of POSIX")
@pytest.mark.parametrize("is_open", [False, True])
def test_a_disk_that_is_full_at_any_write(tmp_path, is_open):
    """Of a file, of the catalog, of its log: what was there is there, and what is there is right."""
    import resource

    from helpers.limits import limited

    n_refused, n_kept = 0, 0
    for n_left in [*range(0, 5000, 250), *range(5000, 60_000, 1500)]:
        folder = tmp_path / str(n_left)
        catalog = Catalog(folder, 10**6)
        catalog.put(key("a"), "window", arrays(1))
        if not is_open:
            catalog.close()
        # there may be no store at all
        with limited(resource.RLIMIT_FSIZE, n_left), contextlib.suppress(DapqError):
            if not is_open:
                catalog = Catalog(folder, 10**6)
            for i in range(5):
                catalog._paused_until = 0
                is_kept = catalog.put(key(i), "window", arrays(i))
                assert is_kept or catalog.take_faults(), n_left
                n_kept, n_refused = n_kept + is_kept, n_refused + (not is_kept)
            found = catalog.get(key("a"))
            assert found is None or is_equal(found, arrays(1)), n_left
        catalog.close()
        again = Catalog(folder, 10**6)
        assert is_equal(again.get(key("a")), arrays(1)), n_left
        for i in range(5):
            found = again.get(key(i))
            assert found is None or is_equal(found, arrays(i)), n_left
        assert again.take_faults() == []
        assert again.put(key("b"), "window", arrays(7))
        again.close()
    assert n_kept > 20
    assert n_refused > (20 if is_open else 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes of POSIX")
def test_a_process_that_is_killed_at_any_moment(tmp_path):
    """200 of them; nothing that is listed is damaged, and nothing stops the next one."""
    run_job("killed_writers", tmp_path / "store", 200)


def test_fifty_files_with_a_flipped_byte(tmp_path):
    catalog = Catalog(tmp_path, 10**6)
    for i in range(60):
        catalog.put(key(i), "window", arrays(i))
    rng = np.random.default_rng(1)
    for path in files(catalog)[:50]:
        data = bytearray(path.read_bytes())
        data[int(rng.integers(len(data)))] ^= int(rng.integers(1, 256))
        path.write_bytes(data)
    found = [catalog.get(key(i)) for i in range(60)]
    assert sum(some is None for some in found) == 50
    assert all(some is None or is_equal(some, arrays(i)) for i, some in enumerate(found))
    assert len(catalog.take_faults()) == 1
    assert len(files(catalog)) == 10


def test_one_array_is_looked_at_without_the_others(catalog):
    catalog.put("a" * 64, "conversation", arrays(1))
    catalog.put("b" * 64, "window", arrays(2))
    (entry,) = catalog.entries("a")
    np.testing.assert_array_equal(catalog.peek(entry, "seen"), arrays(1)["seen"])
    assert catalog.peek(entry, "none") is None
    files(catalog)[0].write_bytes(b"x")
    assert catalog.peek(entry, "seen") is None
    assert catalog.has("a" * 64)
    assert not catalog.has("c" * 64)
    assert catalog.entries("c") == []


def fail(*_):
    raise OSError(28, "No space left on device")


def test_a_catalog_that_fails_is_said(catalog):
    catalog.put(key("a"), "window", arrays(1))
    catalog.close()
    assert catalog.get(key("a")) is None
    assert not catalog.put(key("b"), "window", arrays(1))
    assert all("catalog of the store" in fault for fault in catalog.take_faults())


def test_what_a_killed_process_left_is_removed(catalog):
    catalog.put(key("a"), "window", arrays(1))
    left = [catalog.folder / f"{1:032x}.tmp", catalog.folder / f"{1:064x}-{2:016x}.kv"]
    fresh = catalog.folder / f"{5:032x}.tmp"
    for path in [*left, fresh]:
        path.write_bytes(b"x")
    for path in left:
        os.utime(path, (time.time() - 2 * MAX_AGE,) * 2)
    again = Catalog(catalog.folder, catalog.n_max)
    assert not any(path.exists() for path in left)
    assert fresh.exists()
    assert is_equal(again.get(key("a")), arrays(1))


def work(folder, seed):
    catalog, rng = Catalog(folder, 6 * n_bytes()), np.random.default_rng(seed)
    for _ in range(150):
        catalog.begin()
        i = int(rng.integers(10))
        found = catalog.get(key(i))
        if found is not None and not is_equal(found, arrays(i)):
            os._exit(1)
        catalog.put(key(i), "window", arrays(i))
    # what another one uses is not removed
    os._exit(2 if any("no room" not in fault for fault in catalog.take_faults()) else 0)


def test_processes_at_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=work, args=(tmp_path, seed)) for seed in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    catalog = Catalog(tmp_path, 6 * n_bytes())
    assert catalog.check() == 0
    assert sum(path.stat().st_size for path in files(catalog)) <= 7 * n_bytes()
    with sqlite3.connect(tmp_path / NAME) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
