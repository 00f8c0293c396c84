"""What a call takes: processor time, and what autograd holds for its backward pass."""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn


def seconds(call: Callable[[], object]) -> float:
    """Median processor time of three calls after one to warm up."""
    times = []
    for _ in range(4):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return statistics.median(times[1:])


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
