"""xLSTM-UNet: nnU-Net's residual UNet with Vision-LSTM layers in its encoder or bottleneck.

Chen et al., arXiv 2407.01530. Written after the paper and the shapes of the authors' network;
equal to it with `faithful=True` (`checkpoints/xlstm_unet.py` reads its weights). What differs:

- Where a map has no more voxels than channels, the authors' encoder reads channels as tokens, so
  weights get the size of the patch and the network takes no other. Here tokens are voxels
  everywhere; `faithful=True` reads as they do and fixes the patch.
- The last projection of a block starts smaller the more blocks there are, as the authors of
  Vision-LSTM meant it; their code does not tell a block how many there are, and users of the
  network met NaN. `faithful=True` starts as the code does.
- `bidirectional=True` puts a block that reads backward behind each, as the paper's text has it; the
  code reads forward only.
- An unused layer norm of each Vision-LSTM layer is left out.
- Deepest stages: the authors put Vision-LSTM at the fourth resolution and below; with fewer than
  four the deepest one has it.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Literal

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from medseg.models.planned_hybrid import (
    XLSTM_FIRST,
    Axis,
    HybridPlan,
    Variant,
    channel_stages,
    mixed_stages,
    plan_hybrid,
    sizes_taken,
)
from medseg.models.topology import Axes, Spacing
from medseg.nn.hybrid_form import Dimensions, HybridForm
from medseg.nn.hybrid_unet import HybridUNet, residual_mixer
from medseg.nn.slicewise import SliceWise
from medseg.nn.vision_lstm import VisionLSTMBlock

Mixing = Literal["learned", "identity"]


class XLSTMUNet(nn.Module):
    """xLSTM-UNet as deep as `patch_size` and `spacing_mm` ask for, by nnU-Net's rule.

    `variant` says where Vision-LSTM stands: in the encoder's coarser stages, or on the deepest map
    alone. With `dimensions=2` the network sees slices across `slice_axis`. In training with
    `deep_supervision` it returns logits at each decoder resolution, full resolution first.
    `mixing="identity"` leaves Vision-LSTM out.

    Raises:
        InputFault: a patch that cannot be halved (E_PATCH); in `forward`, a size that the network
            cannot take (E_SHAPE).
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        patch_size: Axes,
        spacing_mm: Spacing,
        variant: Variant = "encoder",
        dimensions: Dimensions = 3,
        slice_axis: Axis = 2,
        stages: int | None = None,
        base_features: int = 32,
        max_features: int = 320,
        bidirectional: bool = False,
        mixing: Mixing = "learned",
        faithful: bool = False,
        deep_supervision: bool = True,
    ) -> None:
        super().__init__()
        plan = plan_hybrid(
            patch_size=patch_size,
            spacing_mm=spacing_mm,
            dimensions=dimensions,
            slice_axis=slice_axis,
            stages=stages,
            base_features=base_features,
            max_features=max_features,
        )
        self.shape_policy = sizes_taken(
            plan, patch_size, variant, first=XLSTM_FIRST, faithful=faithful
        )
        network = mixed_unet(
            plan,
            in_channels=in_channels,
            out_channels=out_channels,
            variant=variant,
            bidirectional=bidirectional,
            mixing=mixing,
            faithful=faithful,
            deep_supervision=deep_supervision,
        )
        self.network = network if dimensions == 3 else SliceWise(network, axis=slice_axis)

    def forward(self, x: Float[Tensor, "b c i j k"]) -> Tensor | list[Tensor]:
        """Logits "b o i j k", or a list of them, each coarser than the one before."""
        self.shape_policy.require(tuple(x.shape[2:]), "xLSTM-UNet")
        return self.network(x)


class VisionLSTMMixer(nn.Module):
    """Vision-LSTM blocks over the voxels of a map, row by row, or over its channels."""

    def __init__(
        self, *, channels: int, by_channel: bool, backward: Sequence[bool], depth: int
    ) -> None:
        super().__init__()
        self.by_channel = by_channel
        self.blocks = nn.Sequential(
            *(VisionLSTMBlock(channels=channels, backward=one, depth=depth) for one in backward)
        )

    def forward(self, x: Float[Tensor, "b c ..."]) -> Float[Tensor, "b c ..."]:
        """The mixed map."""
        tokens = x.flatten(2)
        if not self.by_channel:
            tokens = rearrange(tokens, "b c n -> b n c")
        mixed = self.blocks(tokens)
        if not self.by_channel:
            mixed = rearrange(mixed, "b n c -> b c n")
        return mixed.reshape(x.shape)


def mixed_unet(
    plan: HybridPlan,
    *,
    in_channels: int,
    out_channels: int,
    variant: Variant,
    bidirectional: bool,
    mixing: Mixing,
    faithful: bool,
    deep_supervision: bool,
) -> HybridUNet:
    """The network on volumes or on slices, as the plan says."""
    # The authors' 2D encoder variant has no skip connection at full resolution.
    joins_last = not (plan.form.dimensions == 2 and variant == "encoder")
    form = replace(plan.form, joins_last=joins_last)
    mixed = mixed_stages(form, variant, first=XLSTM_FIRST, faithful=faithful)
    by_channel = channel_stages(plan, variant, first=XLSTM_FIRST) if faithful else ()
    backward = (False, True) if bidirectional else (False,)

    def mixer(stage: int) -> nn.Module:
        if stage not in mixed:
            return _plain_mixer(stage, form, variant)
        if mixing == "identity":
            return nn.Identity()
        return VisionLSTMMixer(
            channels=prod(plan.grids[stage]) if stage in by_channel else form.features[stage],
            by_channel=stage in by_channel,
            backward=backward,
            depth=1 if faithful else len(mixed) * len(backward),
        )

    network = HybridUNet(
        in_channels=in_channels,
        out_channels=out_channels,
        form=form,
        mixers=[mixer(stage) for stage in range(form.stages)],
        deep_supervision=deep_supervision,
    )
    network.initialize_convolutions()
    return network


def _plain_mixer(stage: int, form: HybridForm, variant: Variant) -> nn.Module:
    """What stands where Vision-LSTM does not: in the encoder variant, a residual block."""
    plain = (0, 1, 2) if form.dimensions == 3 else (1,)
    if variant == "encoder" and stage in plain:
        return residual_mixer(form, stage)
    return nn.Identity()
