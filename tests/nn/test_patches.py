"""Patches against torch's convolutions of the same step."""

import pytest
import torch
from torch.nn import functional

from medseg.nn.patches import Patches, Unpatches

FORMS = [(2, 4), (2, 2), (3, 4), (3, 2)]


def _image(channels: int, dimensions: int, *, side: int) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(2, channels, *(side,) * dimensions, requires_grad=True)


@pytest.mark.parametrize(("dimensions", "side"), FORMS)
def test_patches_are_a_strided_convolution(dimensions, side) -> None:
    layer = Patches(in_channels=3, out_channels=5, side=side, dimensions=dimensions)
    image = _image(3, dimensions, side=8)
    convolution = functional.conv2d if dimensions == 2 else functional.conv3d
    expected = convolution(image, layer.weight, layer.bias, stride=side)
    torch.testing.assert_close(layer(image), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("dimensions", "side"), FORMS)
def test_unpatches_are_a_transposed_convolution(dimensions, side) -> None:
    layer = Unpatches(in_channels=6, out_channels=4, side=side, dimensions=dimensions)
    image = _image(6, dimensions, side=3)
    convolution = functional.conv_transpose2d if dimensions == 2 else functional.conv_transpose3d
    expected = convolution(image, layer.weight, layer.bias, stride=side)
    torch.testing.assert_close(layer(image), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("dimensions", "side"), FORMS)
@pytest.mark.parametrize("channels", [16, 24])
def test_bfloat16_gradients_are_those_of_float32(dimensions, side, channels) -> None:
    forms = {"dimensions": dimensions, "side": side}
    for layer, small in (
        (Patches(in_channels=channels, out_channels=16, **forms), 4 * side),
        (Unpatches(in_channels=channels, out_channels=16, **forms), 4),
    ):
        image = _image(channels, dimensions, side=small)
        given = (image, *layer.parameters())
        found = []
        for autocast in (False, True):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
                output = layer(image)
            weight = torch.linspace(-1, 1, output.numel()).view_as(output).sin()
            found.append(torch.autograd.grad((output.float() * weight).sum(), given))
        for exact, rounded in zip(*found, strict=True):
            alike = torch.cosine_similarity(exact.flatten(), rounded.flatten(), dim=0)
            assert alike > 0.99
