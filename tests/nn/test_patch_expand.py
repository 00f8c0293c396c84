"""Tokens that become cells, and cells that become a grid."""

import torch
from torch.nn import functional

from medseg.nn.patch_expand import PatchExpand, unfold_cells


def test_a_cell_keeps_its_place_and_its_order() -> None:
    cells = torch.arange(2 * 3 * 8).view(1, 2, 3, 1, 8, 1)
    grid = unfold_cells(cells, (2, 2, 2))
    assert grid.shape == (1, 4, 6, 2, 1)
    assert grid[0, :2, :2, :, 0].flatten().tolist() == list(range(8))
    assert grid[0, 2:, 4:, :, 0].flatten().tolist() == list(range(40, 48))


def test_with_a_linear_layer_it_is_a_transposed_convolution_with_a_norm() -> None:
    torch.manual_seed(0)
    module = PatchExpand(in_channels=6, out_channels=5, factors=(1, 2, 3))
    tokens = torch.randn(2, 3, 4, 2, 6)
    kernel = module.expand.weight.view(1, 2, 3, 5, 6).permute(4, 3, 0, 1, 2)
    moved = functional.conv_transpose3d(tokens.movedim(-1, 1), kernel, stride=(1, 2, 3))
    expected = functional.layer_norm(moved.movedim(1, -1), (5,))
    torch.testing.assert_close(unfold_cells(module(tokens), (1, 2, 3)), expected)
