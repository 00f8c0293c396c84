"""Gradients of convolutions in bfloat16 on maps that are smaller than the kernel."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from medseg.nn import drop_in, small_maps
from medseg.nn.convolution import Convolution


def _fill_memory_with_no_numbers() -> None:
    """What is freed here is what the next tensors get."""
    for size in range(10, 20):
        del [torch.full((1 << size,), torch.nan) for _ in range(8)][:]


def _gradients(network: nn.Module, x: Tensor, *, bf16: bool) -> list[Tensor]:
    x, weights = x.clone().requires_grad_(), list(network.parameters())
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        y = network(x)
    assert y.dtype == (torch.bfloat16 if bf16 else torch.float32)
    slope = torch.randn(y.shape, generator=torch.Generator().manual_seed(3))
    return list(torch.autograd.grad(y, [x, *weights], slope.to(y.dtype)))


@pytest.mark.parametrize("size", [(2, 2, 2), (2, 5, 4), (1, 3, 3)], ids=str)
@pytest.mark.parametrize(
    "made",
    [
        lambda: small_maps.Conv3d(32, 24, 3, padding=1),
        lambda: drop_in.Conv3d(32, 24, 3, padding=1, bias=False),
        lambda: small_maps.Conv3d(32, 24, 5, padding=2),
        lambda: small_maps.Conv3d(32, 24, 3, stride=2, padding=1),
        lambda: Convolution(in_channels=32, out_channels=24),
    ],
    ids=["3", "drop in", "5", "step 2", "convolution"],
)
@pytest.mark.parametrize("batch", [1, 2])
def test_gradients_are_near_those_in_float32(made, size, batch) -> None:
    torch.manual_seed(1)
    network, x = made(), torch.randn(batch, 32, *size)
    expected = _gradients(network, x, bf16=False)
    for _ in range(3):
        _fill_memory_with_no_numbers()
        found = _gradients(network, x, bf16=True)
        for ours, truth in zip(found, expected, strict=True):
            assert (ours.float() - truth).abs().max() < 0.05 * truth.abs().max()


def test_other_maps_and_prediction_stay_in_bfloat16(monkeypatch) -> None:
    seen = []
    plain = functional.conv3d
    monkeypatch.setattr(
        functional,
        "conv3d",
        lambda x, *rest, **more: (seen.append(x.dtype), plain(x, *rest, **more))[1],
    )
    network = small_maps.Conv3d(4, 4, 3, padding=1).to(torch.bfloat16)
    for side in (3, 2):
        x = torch.randn(1, 4, side, 3, 3, dtype=torch.bfloat16)
        assert network(x).dtype == torch.bfloat16
        with torch.no_grad():
            assert network(x).dtype == torch.bfloat16
    bf16, exact = torch.bfloat16, torch.float32
    assert seen == [bf16, bf16, exact, bf16]


def test_a_guarded_network_has_its_own_layers_and_weights() -> None:
    network = nn.Sequential(nn.Conv3d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 3, 1))
    names = list(network.state_dict())
    small_maps.guard(network)
    assert [type(layer) for layer in network] == [small_maps.Conv3d, nn.ReLU, nn.Conv2d]
    assert list(network.state_dict()) == names
