"""What a call takes: processor time, and what autograd holds for its backward pass."""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor


def seconds(call: Callable[[], object]) -> float:
    """Median processor time of three calls after one to warm up."""
    times = []
    for _ in range(4):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return statistics.median(times[1:])


def kept(call: Callable[[], Tensor]) -> int:
    """Bytes that autograd holds between the forward and the backward pass of `call`."""
    storages: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        _output = call()
    return sum(storages.values())
