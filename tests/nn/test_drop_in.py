"""Layers with fast kernels in the place of torch's."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from medseg.nn.drop_in import Conv3d, InstanceNorm3d, Linear, drop_in
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
    ],
    ids=str,
)
def test_a_convolution_of_any_kind_equals_torchs(options) -> None:
    torch.manual_seed(2)
    theirs = nn.Conv3d(12, 8, **options)
    ours = Conv3d(12, 8, **options)
    ours.load_state_dict(theirs.state_dict())
    expected = theirs(_image())
    torch.testing.assert_close(ours(_image()), expected, rtol=1e-4, atol=1e-4)
    choose_kernels(ours, "reference")
    assert torch.equal(ours(_image()), expected)


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


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("kernels", ["fast", "reference"])
@pytest.mark.parametrize("options", [{}, {"affine": True}, {"track_running_stats": True}], ids=str)
def test_a_norm_equals_torchs_with_what_follows_it(options, kernels, layout) -> None:
    theirs, ours = nn.InstanceNorm3d(12, **options), InstanceNorm3d(12, **options)
    choose_kernels(ours, kernels)
    x = _image().contiguous(memory_format=layout)
    residual = torch.roll(x, 1, dims=1).contiguous(memory_format=layout)
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
