"""What memory this process has, has taken and may take."""

import resource
import sys
from pathlib import Path

import torch

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")
MEMINFO = Path("/proc/meminfo")
# What a container allows, in cgroup v2 and v1.
CGROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ),
)


def resident() -> int:
    """Bytes of memory that this process holds now; 0 where the system does not tell."""
    return _status("VmRSS")


def reset_peak() -> bool:
    """Begin anew to watch the largest amount held; False where the system cannot."""
    try:
        CLEAR.write_text("5")
    except OSError:
        return False
    return True


def peak() -> int:
    """The largest amount held since `reset_peak`, or since the process began."""
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return _status("VmHWM") or largest * (1 if sys.platform == "darwin" else 1024)


def available() -> int | None:
    """Bytes that this process could still take without swapping; None where nothing tells."""
    free = [_of_meminfo(), *(_of_cgroup(most, used) for most, used in CGROUPS)]
    known = [number for number in free if number is not None]
    return min(known) if known else None


def available_on(device: torch.device) -> int:
    """Bytes that are free on a CUDA device, what torch keeps for itself included."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def shown(size: float) -> str:
    """A number of bytes for the reader."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size / 1e3:.1f} kB"


def _status(key: str) -> int:
    try:
        lines = STATUS.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(key)), 0)


def _of_meminfo() -> int | None:
    try:
        lines = MEMINFO.read_text().splitlines()
    except OSError:
        return None
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")]
    return found[0] if found else None


def _of_cgroup(most: Path, used: Path) -> int | None:
    try:
        limit, taken = most.read_text().strip(), int(used.read_text())
    except (OSError, ValueError):
        return None
    return int(limit) - taken if limit.isdecimal() else None
