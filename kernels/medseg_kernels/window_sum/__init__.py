"""Results of windows, weighted and summed over a volume."""

import torch
from torch import Tensor

from medseg_kernels.window_sum.operator import Backend, refuses

__all__ = ["Backend", "add_window", "refuses"]


def add_window(
    sums: Tensor,  # (f, i, j, k), written to
    counts: Tensor,  # (i, j, k), written to
    features: Tensor,  # (f, i, j, k)
    weight: Tensor,  # (i, j, k) float32
    *,
    backend: Backend | None = None,
) -> None:
    """Add a window in place: sums += features * weight, counts += weight.

    The mean over all windows is then sums / counts. Parts of a volume are added as views: of any
    strides, though sums that lie as features do (channels last, or first) take one pass over
    memory. Sums, counts and features are float32, float16 or bfloat16; products and sums are
    float32 and are rounded once more where they are kept in 16 bits. Not a bit depends on the
    `backend`: by default the first of compiled (C, for a CPU, where there is a compiler), triton
    (CUDA) and reference that does not refuse. No gradient flows through it.

    Raises:
        ValueError: shapes or types that do not fit each other, or a forced backend that refuses.
    """
    _check(sums, counts, features, weight)
    torch.ops.medseg.add_window(sums, counts, features, weight, backend)


def _check(sums: Tensor, counts: Tensor, features: Tensor, weight: Tensor) -> None:
    shape = tuple(sums.shape)
    if sums.ndim != 4 or features.shape != sums.shape:
        raise ValueError(f"sums {shape} and features {tuple(features.shape)} must be (f, i, j, k)")
    for name, tensor in (("counts", counts), ("weight", weight)):
        if tensor.shape != sums.shape[1:]:
            raise ValueError(f"{name} {tuple(tensor.shape)} must be as large as sums {shape}")
    kinds = [tensor.dtype for tensor in (sums, counts, features)]
    if weight.dtype is not torch.float32 or sums.dtype is not counts.dtype:
        raise ValueError(
            f"weight {weight.dtype} must be float32, and sums and counts ({kinds[0]}, {kinds[1]}) "
            "of one type"
        )
    if not all(kind.is_floating_point for kind in kinds):
        raise ValueError(f"sums, counts and features {kinds} must be floating-point numbers")
