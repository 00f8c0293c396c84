"""nnU-Net's networks in a recipe."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from medseg.fault import InputFault
from medseg.models.shape import ShapePolicy
from medseg.models.topology import topology
from medseg.recipe.networks.network import Blocks, Features, NetworkSection, Patch, Spacing
from medseg.volume import Task

if TYPE_CHECKING:
    from torch import nn


class _NnUNet(NetworkSection):
    stages: Annotated[int, Field(ge=2, le=16)] | None = None
    """Most resolutions; null: as many as nnU-Net's rule takes from patch and spacing."""
    deep_supervision: bool = True
    """In training, a loss at each resolution of the decoder."""

    def shape_policy(self, patch_size: Patch, spacing_mm: Spacing) -> ShapePolicy:
        """The sizes of input the network takes: as often as its topology halves them."""
        form = topology(patch_size, spacing_mm)
        if form.stages < 2:
            raise InputFault(
                f"{'x'.join(map(str, patch_size))} voxels cannot be halved even once; one side "
                "must be 12 voxels, or two sides 8.",
                code="E_PATCH",
            )
        form = form if self.stages is None else form.shallower(self.stages)
        return form.shape_policy


class NnUNetPlainSection(_NnUNet):
    """nnU-Net's plain UNet."""

    demo_settings: ClassVar[Mapping[str, Any]] = {"base_features": 8, "max_features": 96}

    name: Literal["nnunet_plain"]
    """The network's name."""
    base_features: Features = 32
    """Channels at full resolution, doubled at each halving."""
    max_features: Features = 320
    """Most channels of a stage."""
    blocks: Blocks = (2,)
    """Convolutions of each stage, down and up alike; the last number repeats."""

    def build(self, task: Task) -> "nn.Module":
        """The network for `task`."""
        from medseg.models.nnunet import plain_unet

        return plain_unet(**_nnunet_task(task), **self.settings())


class NnUNetResEncSection(_NnUNet):
    """nnU-Net's UNet with a residual encoder; what is null is taken from `size`."""

    demo_settings: ClassVar[Mapping[str, Any]] = {
        "size": "s",
        "base_features": 8,
        "max_features": 96,
        "blocks": None,
    }

    name: Literal["nnunet_resenc"]
    """The network's name."""
    size: Literal["s", "m", "l"] = "m"
    """m and l are nnU-Net's (l has a larger patch: plan.network resenc_l); s is for two cores."""
    base_features: Features | None = None
    """Channels at full resolution, doubled at each halving; null: by size."""
    max_features: Features | None = None
    """Most channels of a stage; null: by size."""
    blocks: Blocks | None = None
    """Residual blocks of each encoder stage, the last number repeats; null: by size."""

    def build(self, task: Task) -> "nn.Module":
        """The network for `task`."""
        from medseg.models.nnunet import residual_unet

        return residual_unet(**_nnunet_task(task), **self.settings())


def _nnunet_task(task: Task) -> dict[str, Any]:
    return {
        "in_channels": task.in_channels,
        "out_channels": task.out_channels,
        "patch_size": task.patch_size,
        "spacing_mm": task.spacing_mm,
    }
