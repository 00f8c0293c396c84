"""The model sections: a name, the constructor's arguments, and what a patch must be like."""

import importlib
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from medseg.fault import InputFault
from medseg.models.shape import ShapePolicy
from medseg.models.topology import topology
from medseg.recipe.section import Count, Positive, Section, Share
from medseg.volume import Task

if TYPE_CHECKING:
    from torch import nn

Patch = tuple[int, int, int]
Spacing = tuple[float, float, float]


class SwinUNETRSection(Section):
    """Swin UNETR (arXiv 2201.01266)."""

    name: Literal["swin_unetr"]
    feature_size: Annotated[int, Field(ge=12, multiple_of=12)] = 48
    depths: tuple[Count, Count, Count, Count] = (2, 2, 2, 2)
    heads: tuple[Count, Count, Count, Count] = (3, 6, 12, 24)
    window_size: Annotated[int, Field(ge=2)] = 7
    mlp_ratio: Positive = 4.0
    drop_rate: Share = 0.0
    attention_drop_rate: Share = 0.0
    drop_path_rate: Share = 0.0
    v2: bool = False
    legacy_merging: bool = False
    faithful: bool = False
    gradient_checkpointing: bool = False

    def build(self, task: Task) -> "nn.Module":
        """The network for `task`."""
        from medseg.models.swin_unetr import SwinUNETR

        return SwinUNETR(
            in_channels=task.in_channels, out_channels=task.out_channels, **self.settings()
        )

    def shape_policy(self, patch_size: Patch, spacing_mm: Spacing) -> ShapePolicy:  # noqa: ARG002
        """The sizes of input the network takes."""
        return ShapePolicy(divisor=(32, 32, 32), minimum=(32, 32, 32), voxels=2 * 32**3)


class _NnUNet(Section):
    stages: Annotated[int, Field(ge=2)] | None = None
    deep_supervision: bool = True

    def shape_policy(self, patch_size: Patch, spacing_mm: Spacing) -> ShapePolicy:
        """The sizes of input the network takes: as often as its topology halves them."""
        form = topology(patch_size, spacing_mm)
        form = form if self.stages is None else form.shallower(self.stages)
        return form.shape_policy


class NnUNetPlainSection(_NnUNet):
    """nnU-Net's plain UNet."""

    name: Literal["nnunet_plain"]
    base_features: Count = 32
    max_features: Count = 320
    blocks: tuple[Count, ...] = (2,)

    def build(self, task: Task) -> "nn.Module":
        """The network for `task`."""
        from medseg.models.nnunet import plain_unet

        return plain_unet(**_nnunet_task(task), **self.settings())


class NnUNetResEncSection(_NnUNet):
    """nnU-Net's UNet with a residual encoder; what is null is taken from `size`."""

    name: Literal["nnunet_resenc"]
    size: Literal["s", "m", "l"] = "m"
    base_features: Count | None = None
    max_features: Count | None = None
    blocks: tuple[Count, ...] | None = None

    def build(self, task: Task) -> "nn.Module":
        """The network for `task`."""
        from medseg.models.nnunet import residual_unet

        return residual_unet(**_nnunet_task(task), **self.settings())


class MedNeXtSection(Section):
    """MedNeXt (arXiv 2303.09975), MONAI's layers."""

    name: Literal["mednext"]
    size: Literal["s", "b", "m", "l"] = "s"
    kernel_size: Literal[3, 5] = 3
    base_features: Count = 32
    deep_supervision: bool = True

    def build(self, task: Task) -> "nn.Module":
        """The network for `task`."""
        from medseg.models.mednext import MedNeXt

        return MedNeXt(
            in_channels=task.in_channels, out_channels=task.out_channels, **self.settings()
        )

    def shape_policy(self, patch_size: Patch, spacing_mm: Spacing) -> ShapePolicy:  # noqa: ARG002
        """The sizes of input the network takes."""
        return ShapePolicy(divisor=(16, 16, 16), minimum=(16, 16, 16), voxels=2 * 16**3)


class SegResNetSection(Section):
    """SegResNet (arXiv 1810.11654), MONAI's layers."""

    name: Literal["segresnet"]
    base_features: Annotated[int, Field(ge=8, multiple_of=8)] = 16
    blocks_down: tuple[Count, ...] = (1, 2, 2, 4)
    blocks_up: tuple[Count, ...] = (1, 1, 1)
    dropout_rate: Share = 0.0
    deep_supervision: bool = False

    def build(self, task: Task) -> "nn.Module":
        """The network for `task`."""
        from medseg.models.segresnet import SegResNet

        return SegResNet(
            in_channels=task.in_channels, out_channels=task.out_channels, **self.settings()
        )

    def shape_policy(self, patch_size: Patch, spacing_mm: Spacing) -> ShapePolicy:  # noqa: ARG002
        """The sizes of input the network takes."""
        side = 2 ** len(self.blocks_up)
        return ShapePolicy(divisor=(side,) * 3, minimum=(side,) * 3)


class CustomSection(Section):
    """A network of the user's own: the one place where a recipe names code to import.

    `target` is "package.module:Class"; it is called with in_channels, out_channels and
    `arguments`, and has an attribute `shape_policy` (medseg.models.shape.ShapePolicy).
    """

    name: Literal["custom"]
    target: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
    arguments: dict[str, Any] = Field(default_factory=dict)

    def build(self, task: Task) -> "nn.Module":
        """The network for `task`."""
        module, _, name = self.target.partition(":")
        try:
            maker = getattr(importlib.import_module(module), name)
            return maker(
                in_channels=task.in_channels, out_channels=task.out_channels, **self.arguments
            )
        except (ImportError, AttributeError, TypeError) as error:
            raise InputFault(
                f"model.target {self.target}: it cannot be made ({error}); it must be importable "
                "and take in_channels, out_channels and the stated arguments.",
                code="E_CUSTOM",
            ) from error

    def shape_policy(self, patch_size: Patch, spacing_mm: Spacing) -> ShapePolicy:  # noqa: ARG002
        """Unknown before the code is imported; the network itself refuses what it cannot take."""
        return ShapePolicy()


ModelSection = Annotated[
    SwinUNETRSection
    | NnUNetPlainSection
    | NnUNetResEncSection
    | MedNeXtSection
    | SegResNetSection
    | CustomSection,
    Field(discriminator="name"),
]


def _nnunet_task(task: Task) -> dict[str, Any]:
    return {
        "in_channels": task.in_channels,
        "out_channels": task.out_channels,
        "patch_size": task.patch_size,
        "spacing_mm": task.spacing_mm,
    }
