"""The depthwise layer against torch's convolutions."""

import pytest
import torch
from torch.nn import functional

from medseg.nn.depthwise import Depthwise
from medseg.nn.kernels import choose_kernels


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [(2, 3, 1), (9, 12, 10), (8, 9)])
@pytest.mark.parametrize(("side", "dilation"), [(3, 1), (5, 1), (7, 3), (3, 2)])
def test_outputs_and_gradients_are_torchs(
    size: tuple[int, ...], side: int, dilation: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    layer = Depthwise(channels=4, side=side, dilation=dilation, dimensions=len(size)).to(dtype)
    image = torch.randn(2, 4, *size, dtype=dtype, requires_grad=True)
    convolve = functional.conv3d if len(size) == 3 else functional.conv2d
    expected = convolve(
        image,
        layer.weight,
        layer.bias,
        padding=side // 2 * dilation,
        dilation=dilation,
        groups=4,
    )
    given = (image, layer.weight, layer.bias)
    weight = torch.linspace(-1, 1, expected.numel(), dtype=dtype).view_as(expected)
    for kernels in ("fast", "reference"):
        choose_kernels(layer, kernels)
        found = layer(image)
        near = {} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-4}
        torch.testing.assert_close(found, expected, **near)
        torch.testing.assert_close(
            torch.autograd.grad((found * weight).sum(), given),
            torch.autograd.grad((expected * weight).sum(), given, retain_graph=True),
            **near,
        )
        with torch.no_grad():
            torch.testing.assert_close(layer(image), expected, **near)
