"""The sums one channel after the other, in torch: the truth."""

from torch import Tensor


def add_window(
    sums: Tensor,  # (f, i, j, k)
    counts: Tensor,  # (i, j, k)
    features: Tensor,  # (f, i, j, k)
    weight: Tensor,  # (i, j, k) float32
) -> None:
    """Products and sums in float32, rounded once more where sums have fewer bits."""
    counts.copy_(counts.float() + weight)
    for total, values in zip(sums, features, strict=True):
        total.copy_(total.float() + values.float() * weight)
