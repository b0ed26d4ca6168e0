"""The memory of the machine."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from ..errors import UsageError

MIB = 2**20

# MiB for conversations that were left
CACHE_RAM = 256

CGROUPS, CGROUP_ROOT = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def free_memory(on_devices: Sequence[int] = ()) -> int:
    """Return the bytes that a model can still take: what the system has, and what its control groups allow.

    Args:
        on_devices: Free bytes of each GPU, if layers are on them. Where layers are, is known too late to count GPUs one
            by one.
    """
    free = [psutil.virtual_memory().available, *_free_in_cgroups()]
    return int(min([*free, sum(on_devices)] if on_devices else free))


def _free_in_cgroups() -> Iterator[int]:
    """Return the bytes that each control group above the process has left; what it caches of files can be dropped."""
    lines = CGROUPS.read_text().splitlines() if CGROUPS.exists() else []
    for _, controllers, group in (line.split(":", 2) for line in lines):
        if controllers not in ("", "memory"):
            continue
        root, names, cached = CGROUP_ROOT, ("memory.max", "memory.current"), ("active_file", "inactive_file")
        if controllers:
            root, names = root / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
            cached = "total_active_file", "total_inactive_file"
        folder = root / group.lstrip("/")
        for place in [folder, *folder.parents][: len(folder.parts) - len(root.parts) + 1]:
            try:
                limit, used = ((place / name).read_text().strip() for name in names)
                stat = dict(line.split() for line in (place / "memory.stat").read_text().splitlines())
            except OSError:
                continue
            if limit != "max":
                yield max(0, int(limit) - int(used) + sum(int(stat.get(name, 0)) for name in cached))


def for_conversations(cache_ram: int, ram: int) -> int:
    """Return the bytes for conversations that were left: `cache_ram` MiB, and at most an eighth of `ram` bytes.

    A negative number is no limit of its own.
    """
    return min(cache_ram * MIB, ram // 8) if cache_ram >= 0 else ram // 8


def parse_bytes(text: str, param: str = "ram") -> int:
    """Read "4G", "512MiB", "1.5 GB" or "1000B"; all units count in 1,024s. Raises `UsageError` of `param`.

    A number without a unit is refused, unless it is 0: llama.cpp's options of memory take MiB, other programs bytes.
    """
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([KMGT]i?B?|B)?", text.strip(), re.IGNORECASE)
    if not match:
        raise UsageError(f"{text!r}: give a number with a unit: K, M, G or T (4G), or B for bytes", param=param)
    number, unit = float(match[1]), (match[2] or "").upper()
    if number and not unit:
        raise UsageError(f"{text}: of what? Give a unit: {text}G, {text}M, or {text}B for bytes", param=param)
    return int(number * 1024 ** "BKMGT".index(unit[:1] or "B"))
