"""How much memory is free, and sizes as people write them."""

import argparse
from pathlib import Path

import pytest
from helpers.shapes import GIB, MIB

from dapq_edge.errors import UsageError
from dapq_edge.planning import ram
from dapq_edge.planning.ram import free_memory, parse_bytes


def test_parse_bytes():
    sizes = {"0": 0, "1000B": 1000, "512M": 512 * MIB, "4G": 4 * GIB, "4g": 4 * GIB, "4GiB": 4 * GIB, "4GB": 4 * GIB}
    sizes |= {"1.5 GB": 3 * GIB // 2, " 2k ": 2048, "1T": 2**40, "100B": 100, "0.5K": 512}
    assert {text: parse_bytes(text) for text in sizes} == sizes
    for text in ["", "G", "-1G", "4X", "4iB", "1e9", "4 G B", ".5G", "1,5G", "inf", "nan", "9" * 5000, "4G\n4"]:
        with pytest.raises(UsageError, match=r"^ram .*give a number with a unit"):
            parse_bytes(text)
    for text in ["1", "4.5", "8000000000"]:
        with pytest.raises(
            UsageError, match=rf"^ram {text}: of what\? Give a unit: {text}G, {text}M, or {text}B for bytes"
        ):
            parse_bytes(text)


def write_files(folder: Path, **texts: str) -> None:
    folder.mkdir(parents=True)
    for name, text in texts.items():
        (folder / name.replace("memory_", "memory.", 1)).write_text(text)


def test_free_memory(tmp_path, monkeypatch):
    """The least of the system and of all control groups, with what they cache of files."""
    monkeypatch.setattr(ram.psutil, "virtual_memory", lambda: argparse.Namespace(available=5 * GIB))
    monkeypatch.setattr(ram, "CGROUP_ROOT", tmp_path)
    monkeypatch.setattr(ram, "CGROUPS", tmp_path / "cgroups")
    assert free_memory() == 5 * GIB
    write_files(tmp_path / "a", memory_max=f"{2 * GIB}\n", memory_current=f"{GIB}\n",
                memory_stat=f"anon 7\nactive_file {3 * MIB}\ninactive_file {MIB}\n")  # fmt: skip
    write_files(tmp_path / "a" / "b", memory_max="max\n", memory_current="5\n", memory_stat="")
    (tmp_path / "cgroups").write_text("0::/a/b\n")
    assert free_memory() == GIB + 4 * MIB
    write_files(tmp_path / "memory" / "c", memory_limit_in_bytes=f"{GIB}", memory_usage_in_bytes=f"{GIB + 5}",
                memory_stat="total_active_file 3\ntotal_inactive_file 1\n")  # fmt: skip
    (tmp_path / "cgroups").write_text("9:cpu,cpuacct:/a\n4:memory:/c\n")
    assert free_memory() == 0
    (tmp_path / "memory" / "c" / "memory.limit_in_bytes").write_text("9223372036854771712")
    assert free_memory() == free_memory([]) == 5 * GIB
    assert (free_memory([9 * GIB]), free_memory([GIB, 2 * GIB])) == (5 * GIB, 3 * GIB)
