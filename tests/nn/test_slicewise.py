"""A 2D network on volumes."""

import pytest
import torch
from torch import Tensor, nn

from medseg.nn.slicewise import SliceWise


class _Halving(nn.Module):
    """Two levels, the second at half the size; the mean of a slice in its second channel."""

    def forward(self, x: Tensor) -> list[Tensor]:
        whole = torch.cat([x, x.mean(dim=(2, 3), keepdim=True).expand_as(x)], dim=1)
        return [whole, whole[:, :, ::2, ::2]]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_each_slice_is_seen_alone_and_comes_back_to_its_place(axis: int) -> None:
    volume = torch.randn(2, 1, 4, 6, 8)
    whole, half = SliceWise(_Halving(), axis=axis)(volume)
    assert torch.equal(whole[:, :1], volume)
    within = [side for side in (2, 3, 4) if side != 2 + axis]
    torch.testing.assert_close(
        whole[:, 1:], volume.mean(dim=within, keepdim=True).expand_as(volume)
    )
    sides = [side if place == axis else side // 2 for place, side in enumerate((4, 6, 8))]
    assert half.shape == (2, 2, *sides)


def test_a_single_tensor_stays_one() -> None:
    volume = torch.randn(1, 3, 4, 4, 2)
    assert torch.equal(SliceWise(nn.Identity(), axis=2)(volume), volume)
