"""Our convolutions against torch's modules."""

import pytest
import torch
from torch import Tensor, nn

from medseg.nn.convolution import Convolution, PatchEmbedding, Pointwise

CASES = {
    "3x3x3": (
        lambda c, d: Convolution(in_channels=c, out_channels=d),
        lambda c, d: nn.Conv3d(c, d, 3, padding=1, bias=False),
    ),
    "1x1x1": (
        lambda c, d: Pointwise(in_channels=c, out_channels=d, bias=True),
        lambda c, d: nn.Conv3d(c, d, 1),
    ),
    "patches": (
        lambda c, d: PatchEmbedding(in_channels=c, out_channels=d),
        lambda c, d: nn.Conv3d(c, d, 2, stride=2),
    ),
}


def _run(module: nn.Module, x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    y = module(x)
    (y * torch.linspace(0, 5, y.numel()).view_as(y).cos()).sum().backward()
    return [y.detach(), x.grad, *(p.grad for p in module.parameters())]


@pytest.mark.parametrize("size", [(6, 4, 2), (2, 2, 2), (8, 48, 64)], ids=str)
@pytest.mark.parametrize(("batch", "channels"), [(1, 1), (1, 5), (2, 1), (3, 4)])
@pytest.mark.parametrize("kind", CASES)
def test_output_and_gradients_equal_torch(kind, batch, channels, size) -> None:
    ours, theirs = (make(channels, 3) for make in CASES[kind])
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(batch, channels, *size).contiguous(memory_format=torch.channels_last_3d)
    found, expected = _run(ours, x), _run(theirs, x)
    assert len(found) == len(expected) >= 3
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * b.abs().max().item())
    assert found[0].is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("size", [(1, 4, 4), (3, 3, 3), (5, 2, 1)], ids=str)
def test_odd_sizes_are_convolved_right(size) -> None:
    ours, theirs = (make(2, 3) for make in CASES["3x3x3"])
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(1, 2, *size)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", CASES)
def test_weights_start_as_torch_starts_them(kind) -> None:
    torch.manual_seed(0)
    ours, theirs = (make(16, 64) for make in CASES[kind])
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert a.shape == b.shape
        assert a.abs().max().item() == pytest.approx(b.abs().max().item(), rel=0.1)
