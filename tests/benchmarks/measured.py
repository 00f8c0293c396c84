"""What a call takes: processor time of one thread, and the largest memory above what was held."""

import gc
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.inference import memory


@dataclass(frozen=True)
class Measured:
    """The result of a call, the least processor seconds and the bytes of the first run."""

    result: Any
    seconds: float
    above: int


def measured(call: Callable[[], Any], *, repeats: int = 1) -> Measured:
    """`call` run `repeats` times."""
    gc.collect()
    memory.reset_peak()
    before = memory.resident()
    result, seconds = _timed(call)
    above = max(memory.peak() - before, 0)
    for _ in range(repeats - 1):
        seconds = min(seconds, _timed(call)[1])
    return Measured(result, seconds, above)


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    began = time.process_time()
    result = call()
    return result, time.process_time() - began


def machine() -> str:
    """The processor, for the line above a table."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, one thread"
