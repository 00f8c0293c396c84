"""What rows become before they are multiplied by a matrix."""

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional


class Norm(NamedTuple):
    """A layer norm over the numbers of a row."""

    gain: Tensor  # (c,)
    shift: Tensor  # (c,)
    eps: float = 1e-5


class Step(NamedTuple):
    """A norm, then with `gelu` the exact GELU; or one of both, or nothing."""

    norm: Norm | None = None
    gelu: bool = False

    def taken(self, x: Tensor) -> Tensor:
        """The rows (..., c) after it, in torch's own operations."""
        if self.norm is not None:
            gain, shift, eps = self.norm
            x = functional.layer_norm(x, gain.shape, gain, shift, eps)
        return functional.gelu(x) if self.gelu else x
