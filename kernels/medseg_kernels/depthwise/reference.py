"""torch's own convolutions: the truth of the other backends."""

from torch import Tensor
from torch.nn import functional


def forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, *, stride: int, dilation: int, transposed: bool
) -> Tensor:
    """Each channel convolved with its own kernel."""
    padding = [side // 2 * dilation for side in weight.shape[2:]]
    if transposed:
        return functional.conv_transpose3d(
            x, weight, bias, stride, padding, groups=len(weight), dilation=dilation
        )
    return functional.conv3d(x, weight, bias, stride, padding, dilation, groups=len(weight))
