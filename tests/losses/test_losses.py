"""Losses against MONAI's and against what they must be by hand."""

import pytest
import torch
from monai.losses import DiceCELoss as Peer

from medseg.losses.deep import DeepSupervisionLoss, level_weights
from medseg.losses.dice_ce import DiceCELoss, RegionLoss


def test_dice_ce_equals_monais() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(2, 3, 6, 5, 4), torch.randint(0, 3, (2, 1, 6, 5, 4))
    peer = Peer(include_background=False, to_onehot_y=True, softmax=True, batch=True)
    torch.testing.assert_close(DiceCELoss()(logits, target), peer(logits, target))


def test_perfect_regions_lose_nothing_and_wrong_ones_much() -> None:
    target = torch.randint(0, 2, (2, 3, 6, 5, 4), dtype=torch.uint8)
    sure = (target.float() - 0.5) * 40
    assert float(RegionLoss()(sure, target)) < 1e-3
    assert float(RegionLoss()(-sure, target)) > 10


def test_the_loss_of_bf16_logits_is_float32() -> None:
    logits = torch.randn(1, 3, 4, 4, 4, dtype=torch.bfloat16)
    target = torch.zeros(1, 1, 4, 4, 4, dtype=torch.uint8)
    assert DiceCELoss()(logits, target).dtype == torch.float32


def test_level_weights_are_nnunets() -> None:
    assert level_weights(1) == (1.0,)
    assert level_weights(2) == pytest.approx((2 / 3, 1 / 3))
    assert level_weights(4) == pytest.approx((4 / 7, 2 / 7, 1 / 7, 0.0))


def test_deep_supervision_is_the_weighted_sum_over_levels() -> None:
    torch.manual_seed(0)
    loss = DiceCELoss()
    target = torch.randint(0, 3, (1, 1, 8, 8, 8)).repeat_interleave(2, 2)
    full = torch.randn(1, 3, 16, 8, 8)
    half = torch.randn(1, 3, 8, 4, 4)
    both = DeepSupervisionLoss(loss)([full, half], target)
    lower = torch.nn.functional.interpolate(target.float(), size=(8, 4, 4), mode="nearest-exact")
    expected = 2 / 3 * loss(full, target) + 1 / 3 * loss(half, lower.long())
    torch.testing.assert_close(both, expected)
    torch.testing.assert_close(DeepSupervisionLoss(loss)(full, target), loss(full, target))
