"""A convolution of each channel by itself, on images or volumes."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from medseg.nn.kernels import Kernels
from medseg_kernels.depthwise import chosen, depthwise


class Depthwise(nn.Module):
    """A depthwise convolution of an odd `side`, of the same size, with gaps in its kernel."""

    def __init__(self, *, channels: int, side: int, dilation: int = 1, dimensions: int = 3) -> None:
        super().__init__()
        self.kernels: Kernels = "fast"
        self.dilation = dilation
        made = (nn.Conv3d if dimensions == 3 else nn.Conv2d)(
            channels, channels, side, groups=channels
        )
        assert made.bias is not None
        self.weight, self.bias = made.weight, made.bias

    def forward(self, x: Float[Tensor, "b c ..."]) -> Float[Tensor, "b c ..."]:
        """The convolved map."""
        backend = "reference" if self.kernels == "reference" else None
        if x.ndim == 5:
            return depthwise(x, self.weight, self.bias, dilation=self.dilation, backend=backend)
        flat, kernel = x.unsqueeze(2), self.weight.unsqueeze(2)  # volumes of one slice
        if backend is None and chosen(flat, kernel) == "compiled":
            return depthwise(flat, kernel, self.bias, dilation=self.dilation).squeeze(2)
        padding = self.weight.shape[-1] // 2 * self.dilation
        return functional.conv2d(
            x, self.weight, self.bias, 1, padding, self.dilation, groups=len(self.weight)
        )
