"""Dice and cross entropy, for labels that exclude each other and for regions that overlap.

Equal to MONAI's, in float32 whatever the precision of the network. Our own for two reasons: no
one-hot copy of the target is made (1.4 to 2 times faster on a CPU, a third less memory kept for
the backward pass), and the Dice of a batch reaches over all processes. The Dice is taken over the
batch as one volume (`batch_dice`), as nnU-Net does: a small label that a patch lacks then weighs
nothing.
"""

import torch
from einops import rearrange
from jaxtyping import Float, Integer
from torch import Tensor, nn
from torch.nn import functional

from medseg.losses.overlap import dice_loss


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
        self.batch_dice = batch_dice
        self.first_class = 0 if include_background else 1
        self.smooth = smooth
        self.dice_weight = dice_weight
        self.ce_weight = ce_weight

    def forward(
        self, logits: Float[Tensor, "b c i j k"], target: Integer[Tensor, "b 1 i j k"]
    ) -> Float[Tensor, ""]:
        """The loss of logits against class indices."""
        with torch.autocast(logits.device.type, enabled=False):
            classes = target.long()
            log_share = functional.log_softmax(logits.float(), dim=1)
            log_of_true = log_share.gather(1, classes)
            cross = -log_of_true.mean()
            first = self.first_class
            overlap, true = _sums_by_class(log_of_true.exp(), classes, logits.shape[1])
            predicted = log_share.exp().sum(dim=(2, 3, 4))
            dice = dice_loss(
                overlap[:, first:],
                predicted[:, first:],
                true[:, first:],
                over_batch=self.batch_dice,
                smooth=self.smooth,
            )
            return self.dice_weight * dice + self.ce_weight * cross


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
        self.batch_dice = batch_dice
        self.smooth = smooth
        self.dice_weight = dice_weight
        self.ce_weight = ce_weight

    def forward(
        self, logits: Float[Tensor, "b r i j k"], target: Integer[Tensor, "b r i j k"]
    ) -> Float[Tensor, ""]:
        """The loss of logits against 0/1 masks."""
        with torch.autocast(logits.device.type, enabled=False):
            logits = logits.float()
            masks = target.float()
            cross = functional.binary_cross_entropy_with_logits(logits, masks)
            share = logits.sigmoid()
            dice = dice_loss(
                (share * masks).sum(dim=(2, 3, 4)),
                share.sum(dim=(2, 3, 4)),
                masks.sum(dim=(2, 3, 4)),
                over_batch=self.batch_dice,
                smooth=self.smooth,
            )
            return self.dice_weight * dice + self.ce_weight * cross


def _sums_by_class(
    values: Float[Tensor, "b 1 i j k"], classes: Integer[Tensor, "b 1 i j k"], count: int
) -> tuple[Float[Tensor, "b c"], Float[Tensor, "b c"]]:
    """The sum of `values` over the voxels of each class, and the voxels of each class."""
    if values.device.type != "cpu":
        # Adding up into few places is slow and in no fixed order on a GPU.
        masks = [classes == number for number in range(count)]
        sums = [torch.where(mask, values, 0.0).sum(dim=(1, 2, 3, 4)) for mask in masks]
        voxels = [mask.sum(dim=(1, 2, 3, 4)) for mask in masks]
        return torch.stack(sums, 1), torch.stack(voxels, 1).float()
    # A row of voxels each on its own: a long sum in float32 would round every number it takes in.
    rows = rearrange(classes, "b 1 i j k -> b i (j k)")
    none = values.new_zeros(*rows.shape[:2], count)
    sums = none.scatter_add(2, rows, rearrange(values, "b 1 i j k -> b i (j k)"))
    voxels = none.scatter_add(2, rows, values.new_ones(1).expand(rows.shape))
    return sums.sum(dim=1), voxels.sum(dim=1)
