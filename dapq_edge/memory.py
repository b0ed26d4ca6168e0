"""The memory of the machine."""

import re
from collections.abc import Iterator
from pathlib import Path

import psutil

from .devices import gpus
from .errors import UsageError

MIB = 2**20

CGROUPS, CGROUP_ROOT = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def free_memory(n_gpu_layers: int = 0) -> int:
    """Bytes that a model can still take: what the system has, what its control groups allow, and what GPUs have.

    n_gpu_layers: the layers on the GPUs, -1 for all. Where layers are, is known too late to count them one by one.
    """
    free = [psutil.virtual_memory().available, *_free_in_cgroups()]
    on_gpus = [device.free for device in gpus()] if n_gpu_layers else []
    return min([*free, sum(on_gpus)] if on_gpus else free)


def _free_in_cgroups() -> Iterator[int]:
    """Bytes that each control group above the process has left; what it caches of files can be dropped."""
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


def parse_bytes(text: str) -> int:
    """Read "4G", "512MiB", "1.5 GB" or plain bytes; all units count in 1,024s. Raises `UsageError`."""
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?(?:([KMGT])i?)?B?", text.strip(), re.IGNORECASE)
    if not match:
        raise UsageError(f"--ram {text!r}: give bytes, or a number with K, M, G or T (4G)")
    return int(float(match[1]) * 1024 ** " KMGT".index((match[2] or " ").upper()))
