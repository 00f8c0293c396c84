"""The depthwise convolution against torch's."""

import pytest
import torch
from torch.nn import functional

from medseg.nn.depthwise import Depthwise


@pytest.mark.parametrize("size", [(2, 3, 1), (7, 6, 5), (9, 12, 10)])
@pytest.mark.parametrize(("side", "dilation"), [(3, 1), (5, 1), (7, 3), (3, 2)])
def test_outputs_and_gradients_are_torchs(
    size: tuple[int, int, int], side: int, dilation: int
) -> None:
    torch.manual_seed(0)
    layer = Depthwise(channels=4, side=side, dilation=dilation).double()
    image = torch.randn(2, 4, *size, dtype=torch.float64, requires_grad=True)
    expected = functional.conv3d(
        image,
        layer.weight,
        layer.bias,
        padding=side // 2 * dilation,
        dilation=dilation,
        groups=4,
    )
    found = layer(image)
    torch.testing.assert_close(found, expected)
    given = (image, layer.weight, layer.bias)
    weight = torch.linspace(-1, 1, found.numel(), dtype=torch.float64).view_as(found)
    torch.testing.assert_close(
        torch.autograd.grad((found * weight).sum(), given),
        torch.autograd.grad((expected * weight).sum(), given),
    )
    with torch.no_grad():
        torch.testing.assert_close(layer(image), expected)


def test_images_are_convolved_too() -> None:
    layer = Depthwise(channels=3, side=5, dilation=2, dimensions=2)
    image = torch.randn(1, 3, 8, 9)
    expected = functional.conv2d(image, layer.weight, layer.bias, 1, 4, 2, 3)
    torch.testing.assert_close(layer(image), expected)
