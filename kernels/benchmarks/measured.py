"""What a call takes: time, memory, and what autograd holds for its backward pass."""

import ctypes
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn


def seconds(call: Callable[[], object], *, warm: int = 1, repeats: int = 3) -> float:
    """Median processor time of some calls after `warm` others."""
    times = []
    for _ in range(warm + repeats):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return statistics.median(times[warm:])


def in_turn(
    calls: Sequence[Callable[[], object]], *, repeats: int, device: str = "cpu"
) -> list[list[float]]:
    """Milliseconds of each call, a list of `repeats` each; one round before only warms up.

    Processor time, or on a CUDA device the time between two of its events. What the rest of the
    machine does falls on all calls of a round alike, so ratios are to be taken within rounds.
    """
    clock = _processor_ms if device == "cpu" else _device_ms
    rounds = [[clock(call) for call in calls] for _ in range(repeats + 1)]
    return [list(column) for column in zip(*rounds[1:], strict=True)]


def ratio(times: list[float], to: list[float]) -> float:
    """The median over rounds of how many times longer a call takes than another."""
    return statistics.median(one / other for one, other in zip(times, to, strict=True))


def _processor_ms(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return 1e3 * (time.process_time() - start)


def _device_ms(call: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def peak(call: Callable[[], object], device: str = "cpu") -> int:
    """Bytes that a call takes at most beyond those held before it (on a CPU, of Linux).

    What calls before it have freed is given back first, or it would be counted for nothing.
    """
    if device != "cpu":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        return torch.cuda.max_memory_allocated() - before
    ctypes.CDLL(None).malloc_trim(0)
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    call()
    return _resident("VmHWM") - before


def _resident(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def kept(call: Callable[[], Tensor], model: nn.Module | None = None) -> int:
    """Bytes that autograd holds after the forward pass `call`, the parameters of `model` apart."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()} if model else set()
    storages: dict[int, int] = {}
    held = []  # or the allocator gives an address twice; detached, or a graph would hold itself

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage.nbytes()
            held.append(tensor.detach())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        _output = call()
    return sum(storages.values())
