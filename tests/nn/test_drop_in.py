"""Layers with fast kernels in the place of torch's."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from medseg.nn.drop_in import (
    Conv3d,
    ConvTranspose3d,
    GroupNorm,
    InstanceNorm3d,
    Linear,
    drop_in,
)
from medseg.nn.kernels import choose_kernels
from medseg_kernels.linear import product


def _image(channels: int = 12) -> Tensor:
    return torch.randn(2, channels, 6, 7, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 1},
        {"kernel_size": (1, 3, 5), "padding": (0, 1, 2), "bias": False},
        {"kernel_size": 3, "padding": "same"},
        {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
        {"kernel_size": 3, "padding": 1, "stride": 2},
        {"kernel_size": 3, "padding": 2, "dilation": 2},
        {"kernel_size": 3, "padding": 1, "groups": 4},
        {"kernel_size": 3},
        {"kernel_size": 2, "padding": 1},
        {"kernel_size": 1, "stride": 2},
        {"kernel_size": 1, "groups": 4},
        {"out_channels": 12, "kernel_size": 3, "padding": 1, "groups": 12},
        {"out_channels": 12, "kernel_size": 5, "padding": 2, "groups": 12, "stride": 2},
        {"out_channels": 12, "kernel_size": 3, "padding": 2, "groups": 12, "dilation": 2},
        {"out_channels": 12, "kernel_size": 3, "padding": 1, "groups": 12, "stride": (1, 2, 2)},
        {"out_channels": 12, "kernel_size": 3, "groups": 12},
    ],
    ids=str,
)
def test_a_convolution_of_any_kind_equals_torchs(options) -> None:
    options = {"out_channels": 8} | options
    _assert_layers_agree(nn.Conv3d(12, **options), Conv3d(12, **options))


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "padding": 1, "groups": 12, "stride": 2},
        {"kernel_size": 5, "padding": 2, "groups": 12},
        {"kernel_size": 3, "padding": 1, "groups": 12, "stride": 2, "output_padding": 1},
        {"kernel_size": 2, "groups": 12, "stride": 2},
        {"kernel_size": 2, "stride": 2},
        {"kernel_size": (1, 2, 3), "stride": (1, 2, 3), "bias": False},
        {"kernel_size": 2, "stride": 2, "padding": 1},
        {"kernel_size": 2, "stride": 2, "dilation": 2},
        {"kernel_size": 2, "stride": 3},
        {"kernel_size": 1},
        {"kernel_size": 1, "stride": 2},
        {"kernel_size": 1, "stride": (1, 2, 3), "bias": False},
        {"kernel_size": 1, "stride": 2, "output_padding": 1},
        {"kernel_size": 1, "stride": 2, "groups": 4},
    ],
    ids=str,
)
def test_a_transposed_convolution_of_any_kind_equals_torchs(monkeypatch, options) -> None:
    monkeypatch.setattr(product, "LEAST_PRODUCTS", 1)
    monkeypatch.setattr(product, "_is_amd", lambda: True)
    _assert_layers_agree(nn.ConvTranspose3d(12, 12, **options), ConvTranspose3d(12, 12, **options))


def test_a_transposed_convolution_may_be_told_the_size_of_its_output() -> None:
    layer = ConvTranspose3d(12, 12, 3, stride=2, padding=1, groups=12)
    size = [12, 13, 16]
    expected = nn.ConvTranspose3d.forward(layer, _image(), size)
    assert torch.equal(layer(_image(), size), expected)


@pytest.mark.parametrize("groups", [12, 3])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_a_group_norm_equals_torchs(groups, layout) -> None:
    theirs, ours = nn.GroupNorm(groups, 12), GroupNorm(groups, 12)
    nn.init.normal_(theirs.weight)
    nn.init.normal_(theirs.bias)
    _assert_layers_agree(theirs, ours, _image().contiguous(memory_format=layout))
    assert ours(torch.ones(2, 12, 4)).shape == (2, 12, 4)


def _assert_layers_agree(theirs: nn.Module, ours: nn.Module, image: Tensor | None = None) -> None:
    image = (_image() if image is None else image).requires_grad_()
    ours.load_state_dict(theirs.state_dict())
    expected, found = theirs(image), ours(image)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    slope = torch.randn(expected.shape)
    of_theirs, of_ours = (
        torch.autograd.grad(y, [image, *layer.parameters()], slope)
        for y, layer in ((expected, theirs), (found, ours))
    )
    torch.testing.assert_close(of_ours, of_theirs, rtol=1e-4, atol=1e-4)
    choose_kernels(ours, "reference")
    assert torch.equal(ours(image), expected)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (nn.Linear(12, 8), Linear(12, 8)),
        (nn.Linear(8, 5, bias=False), Linear(8, 5, bias=False)),
        (nn.Conv3d(6, 5, 1), Conv3d(6, 5, 1)),
    ],
    ids=["linear", "without bias", "1x1x1"],
)
def test_a_product_of_matrices_equals_torchs(monkeypatch, theirs, ours) -> None:
    monkeypatch.setattr(product, "LEAST_PRODUCTS", 1)
    monkeypatch.setattr(product, "_is_amd", lambda: True)
    ours.load_state_dict(theirs.state_dict())
    x = _image(6) if isinstance(ours, Conv3d) else torch.randn(3, 4, ours.in_features)
    expected = theirs(x)
    torch.testing.assert_close(ours(x), expected, rtol=1e-4, atol=1e-5)
    choose_kernels(ours, "reference")
    assert torch.equal(ours(x), expected)


@pytest.mark.parametrize("of_residual", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("kernels", ["fast", "reference"])
@pytest.mark.parametrize("options", [{}, {"affine": True}, {"track_running_stats": True}], ids=str)
def test_a_norm_equals_torchs_with_what_follows_it(options, kernels, layout, of_residual) -> None:
    theirs, ours = nn.InstanceNorm3d(12, **options), InstanceNorm3d(12, **options)
    choose_kernels(ours, kernels)
    x = _image().contiguous(memory_format=layout)
    residual = torch.roll(x, 1, dims=1).contiguous(memory_format=of_residual)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)
    expected = functional.leaky_relu(theirs(x) + residual, 0.1)
    torch.testing.assert_close(ours(x, residual, 0.1), expected, rtol=1e-4, atol=1e-5)


def test_a_network_keeps_its_weights_and_gives_the_same() -> None:
    torch.manual_seed(3)
    network = nn.Sequential(
        nn.Conv3d(1, 12, 3, padding=1),
        nn.InstanceNorm3d(12, affine=True),
        nn.LeakyReLU(inplace=True),
        nn.Sequential(nn.Conv3d(12, 4, 3, padding=1), nn.InstanceNorm3d(4), nn.Linear(8, 3)),
    )
    state, expected = network.state_dict(), network(_image(1))
    drop_in(network)
    assert [type(layer) for layer in network] == [
        Conv3d,
        InstanceNorm3d,
        nn.LeakyReLU,
        nn.Sequential,
    ]
    assert list(network.state_dict()) == list(state)
    torch.testing.assert_close(network(_image(1)), expected, rtol=1e-4, atol=1e-4)
    network(_image(1)).sum().backward()
    assert all(one.grad is not None for one in network.parameters())
