"""Dice and cross entropy, for labels that exclude each other and for regions that overlap.

MONAI's Dice in float32 whatever the precision of the network. The Dice is taken over the batch as
one volume (`batch_dice`), as nnU-Net does: a small label that a patch lacks then weighs nothing.
"""

import torch
from jaxtyping import Float, Integer
from monai.losses.dice import DiceLoss
from torch import Tensor, nn
from torch.nn import functional


class DiceCELoss(nn.Module):
    """Softmax Dice over the foreground labels, plus cross entropy over all of them.

    Args:
        batch_dice: one Dice over the whole batch rather than the mean of one a sample.
        include_background: whether background counts in the Dice.
        smooth: added to numerator and denominator of the Dice.
        dice_weight: factor of the Dice term.
        ce_weight: factor of the cross entropy.
    """

    def __init__(
        self,
        *,
        batch_dice: bool = True,
        include_background: bool = False,
        smooth: float = 1e-5,
        dice_weight: float = 1.0,
        ce_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.dice = DiceLoss(
            include_background=include_background,
            to_onehot_y=True,
            softmax=True,
            batch=batch_dice,
            smooth_nr=smooth,
            smooth_dr=smooth,
        )
        self.dice_weight = dice_weight
        self.ce_weight = ce_weight

    def forward(
        self, logits: Float[Tensor, "b c i j k"], target: Integer[Tensor, "b 1 i j k"]
    ) -> Float[Tensor, ""]:
        """The loss of logits against class indices."""
        logits = logits.float()
        cross = functional.cross_entropy(logits, target[:, 0].long())
        return self.dice_weight * self.dice(logits, target) + self.ce_weight * cross


class RegionLoss(nn.Module):
    """Sigmoid Dice over the regions, plus binary cross entropy (arguments as in DiceCELoss)."""

    def __init__(
        self,
        *,
        batch_dice: bool = True,
        smooth: float = 1e-5,
        dice_weight: float = 1.0,
        ce_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.dice = DiceLoss(sigmoid=True, batch=batch_dice, smooth_nr=smooth, smooth_dr=smooth)
        self.dice_weight = dice_weight
        self.ce_weight = ce_weight

    def forward(
        self, logits: Float[Tensor, "b r i j k"], target: Integer[Tensor, "b r i j k"]
    ) -> Float[Tensor, ""]:
        """The loss of logits against 0/1 masks."""
        logits = logits.float()
        masks = target.to(torch.float32)
        cross = functional.binary_cross_entropy_with_logits(logits, masks)
        return self.dice_weight * self.dice(logits, masks) + self.ce_weight * cross
