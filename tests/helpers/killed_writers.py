"""Processes that write into a store and are killed at any moment: it opens, and has nothing wrong."""

import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np

from dapq_edge.store.catalog import Catalog

# bytes of an entry, so that a kill often falls into the middle of a file
N = 300_000


def arrays(seed):
    return {"cells": np.random.default_rng(seed).integers(256, size=N, dtype=np.uint8)}


def write_on(folder, first):
    catalog = Catalog(folder, 40 * N)
    for i in range(first, first + 1000):
        catalog.begin()
        catalog.put(f"{i % 60:064x}", "window", arrays(i % 60))


def kill_one(folder, seconds, first):
    pid = os.fork()
    if pid == 0:
        write_on(folder, first)
        os._exit(0)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def main(folder, n_kills):
    rng, n_found = random.Random(0), 0
    for i in range(n_kills):
        kill_one(folder, rng.uniform(0.002, 0.06), 7 * i)
        catalog = Catalog(folder, 40 * N)
        assert catalog.take_faults() == [], i
        entries = catalog.entries()
        for entry in rng.sample(entries, min(3, len(entries))):
            found = catalog.get(entry.key)
            # its file was removed, to make room
            if found is not None:
                assert np.array_equal(found["cells"], arrays(int(entry.key, 16))["cells"]), i
                n_found += 1
        assert catalog.take_faults() == [], i
        catalog.close()
    catalog = Catalog(folder, 40 * N)
    catalog.check()
    assert catalog.take_faults() == []
    print(f"{n_kills} kills, {n_found} entries looked at, {len(catalog.entries())} at the end")
    assert n_found > n_kills
    print("same")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
