"""All backends as one operator, which writes to the sums and counts that it is given."""

import torch
from torch import Tensor

from medseg_kernels.window_sum import compiled, reference


@torch.library.custom_op("medseg::add_window", mutates_args=("sums", "counts"))
def add_window(
    sums: Tensor, counts: Tensor, features: Tensor, weight: Tensor, backend: str
) -> None:
    """See `medseg_kernels.window_sum.add_window`."""
    if sums.numel() == 0:
        return
    if backend == "triton":
        from medseg_kernels.window_sum import triton  # noqa: PLC0415

        triton.add_window(sums, counts, features, weight)
    elif backend == "compiled":
        compiled.add_window(sums, counts, features, weight)
    else:
        reference.add_window(sums, counts, features, weight)


@add_window.register_fake
def _add_window_fake(
    sums: Tensor, counts: Tensor, features: Tensor, weight: Tensor, backend: str
) -> None:
    """Nothing is returned, and nothing else is made."""
