"""The model sections: a name, the constructor's arguments, and what a patch must be like."""

import importlib
import json
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import Field

from medseg.fault import InputFault
from medseg.models.shape import ShapePolicy
from medseg.models.topology import topology
from medseg.recipe.section import BelowOne, Count, Positive, Section
from medseg.volume import Task

if TYPE_CHECKING:
    from torch import nn

Patch = tuple[int, int, int]
Spacing = tuple[float, float, float]
Features = Annotated[int, Field(ge=1, le=2048)]
Blocks = Annotated[tuple[Count, ...], Field(min_length=1, max_length=16)]


class SwinUNETRSection(Section):
    """Swin UNETR (arXiv 2201.01266)."""

    name: Literal["swin_unetr"]
    """The network's name."""
    feature_size: Annotated[int, Field(ge=1, le=768)] = 48
    """Channels at half resolution, doubled at each stage; a multiple of 12 with these heads."""
    depths: tuple[Count, Count, Count, Count] = (2, 2, 2, 2)
    """Transformer blocks of each stage; every second one shifts its windows."""
    heads: tuple[Count, Count, Count, Count] = (3, 6, 12, 24)
    """Attention heads of each stage; they divide its channels."""
    window_size: Annotated[int, Field(ge=2, le=32)] = 7
    """Side of an attention window, in tokens."""
    mlp_ratio: Positive = 4.0
    """Width of the hidden layer of a block, in those of the block."""
    drop_rate: BelowOne = 0.0
    """Dropout after embedding, projections and hidden layers."""
    attention_drop_rate: BelowOne = 0.0
    """Dropout of attention weights."""
    drop_path_rate: BelowOne = 0.0
    """Largest chance that a block is left out; it rises from 0 with depth."""
    v2: bool = False
    """A residual convolution before each stage (Swin UNETR-V2, MICCAI 2023)."""
    legacy_merging: bool = False
    """Join patches as MONAI did before 1.5: for weights from then, not for new training."""
    faithful: bool = False
    """Relative positions of cut windows as MONAI reads them; false: by true offsets."""
    gradient_checkpointing: bool = False
    """Less memory for more time: blocks are computed again on the way back."""

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


class MedNeXtSection(Section):
    """MedNeXt (arXiv 2303.09975), MONAI's layers."""

    name: Literal["mednext"]
    """The network's name."""
    size: Literal["s", "b", "m", "l"] = "s"
    """The paper's sizes, from 5.6 to 62 million weights."""
    kernel_size: Literal[3, 5] = 3
    """Side of the depthwise convolutions."""
    base_features: Features = 32
    """Channels at full resolution, doubled at each halving."""
    deep_supervision: bool = True
    """In training, a loss at each resolution of the decoder."""

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
    """The network's name."""
    base_features: Annotated[int, Field(ge=8, le=1024, multiple_of=8)] = 16
    """Channels at full resolution, doubled at each halving; groups of 8 are normalized."""
    blocks_down: Blocks = (1, 2, 2, 4)
    """Residual blocks of each encoder stage."""
    blocks_up: Annotated[tuple[Count, ...], Field(min_length=1, max_length=7)] = (1, 1, 1)
    """Residual blocks of each decoder stage, one stage less than the encoder has."""
    dropout_rate: BelowOne = 0.0
    """Dropout after the first convolution."""
    deep_supervision: bool = False
    """In training, a loss at each resolution of the decoder."""

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
    """The network's name."""
    target: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
    """What to import and call: "package.module:Class"."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Its arguments beside in_channels and out_channels."""

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


def settings_of_network(name: str) -> list[tuple[str, str, str]]:
    """Each setting of a network: its name, its default as YAML, and what it is."""
    sections = get_args(get_args(ModelSection)[0])
    (section,) = (one for one in sections if one.model_fields["name"].annotation == Literal[name])
    return [
        (
            key,
            "" if about.is_required() else json.dumps(about.get_default(call_default_factory=True)),
            about.description or "",
        )
        for key, about in section.model_fields.items()
        if key != "name"
    ]


def _nnunet_task(task: Task) -> dict[str, Any]:
    return {
        "in_channels": task.in_channels,
        "out_channels": task.out_channels,
        "patch_size": task.patch_size,
        "spacing_mm": task.spacing_mm,
    }
