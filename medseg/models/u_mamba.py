"""U-Mamba: nnU-Net's residual UNet with Mamba layers in its encoder or bottleneck.

Ma, Li and Wang, arXiv 2401.04722. Written after the paper and the shapes of the authors' network
(`checkpoints/u_mamba.py` reads its weights for `faithful=True`). What differs: where a map has no
more voxels than channels, the authors' encoder reads channels as tokens, so weights get the size of
the patch and the network takes no other. Here tokens are voxels everywhere; `faithful=True` reads
as they do and fixes the patch.
"""

from dataclasses import replace
from math import prod
from typing import Literal

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from medseg.models.planned_hybrid import (
    MAMBA_FIRST,
    Axis,
    HybridPlan,
    Variant,
    channel_stages,
    mixed_stages,
    plan_hybrid,
    sizes_taken,
)
from medseg.models.topology import Axes, Spacing
from medseg.nn.hybrid_form import Dimensions
from medseg.nn.hybrid_unet import HybridUNet
from medseg.nn.mamba import Mamba
from medseg.nn.slicewise import SliceWise

Mixing = Literal["learned", "identity"]


class UMamba(nn.Module):
    """U-Mamba as deep as `patch_size` and `spacing_mm` ask for, by nnU-Net's rule.

    `variant` says where Mamba stands: behind the encoder's stages, or on the deepest map alone.
    With `dimensions=2` the network sees slices across `slice_axis`. In training with
    `deep_supervision` it returns logits at each decoder resolution, full resolution first.
    `mixing="identity"` leaves Mamba out.

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
        by_channel = channel_stages(plan, variant, first=MAMBA_FIRST) if faithful else ()
        self.shape_policy = sizes_taken(
            plan, patch_size, variant, first=MAMBA_FIRST, faithful=faithful
        )
        # The authors' 2D encoder variant has no skip connection at full resolution.
        form = replace(plan.form, joins_last=not (dimensions == 2 and variant == "encoder"))
        mixed = (
            ()
            if mixing == "identity"
            else mixed_stages(form, variant, first=MAMBA_FIRST, faithful=faithful)
        )
        network = HybridUNet(
            in_channels=in_channels,
            out_channels=out_channels,
            form=form,
            mixers=[
                _mixer(plan, stage, by_channel=stage in by_channel)
                if stage in mixed
                else nn.Identity()
                for stage in range(form.stages)
            ],
            deep_supervision=deep_supervision,
        )
        network.initialize_convolutions()
        self.network = network if dimensions == 3 else SliceWise(network, axis=slice_axis)

    def forward(self, x: Float[Tensor, "b c i j k"]) -> Tensor | list[Tensor]:
        """Logits "b o i j k", or a list of them, each coarser than the one before."""
        self.shape_policy.require(tuple(x.shape[2:]), "U-Mamba")
        return self.network(x)


class MambaMixer(nn.Module):
    """Mamba over the voxels of a map, row by row, or over its channels; not added to its input."""

    def __init__(self, *, channels: int, by_channel: bool) -> None:
        super().__init__()
        self.by_channel = by_channel
        self.norm = nn.LayerNorm(channels)
        self.mamba = Mamba(channels=channels)

    def forward(self, x: Float[Tensor, "b c ..."]) -> Float[Tensor, "b c ..."]:
        """The mixed map."""
        tokens = x.flatten(2)
        if self.by_channel:
            return self.mamba(self.norm(tokens)).reshape(x.shape)
        mixed = self.mamba(self.norm(rearrange(tokens, "b c n -> b n c")))
        return rearrange(mixed, "b n c -> b c n").reshape(x.shape)


def _mixer(plan: HybridPlan, stage: int, *, by_channel: bool) -> MambaMixer:
    channels = prod(plan.grids[stage]) if by_channel else plan.form.features[stage]
    return MambaMixer(channels=channels, by_channel=by_channel)
