"""Instance normalization without parameters, and the activation behind it."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def instance_norm(
    x: Float[Tensor, "b c i j k"], *, slope: float | None = None, eps: float = 1e-5
) -> Float[Tensor, "b c i j k"]:
    """Each channel of each item with mean 0 and variance 1, then leaky ReLU of that slope."""
    x = functional.instance_norm(x, eps=eps)
    return x if slope is None else functional.leaky_relu_(x, slope)
