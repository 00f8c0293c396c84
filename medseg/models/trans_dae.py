"""TransDAE: a U-shaped transformer with attention in space and across channels.

A reconstruction: Azad et al., arXiv 2409.02018, published no code, and its text says no more than
the following. Patches that overlap; stages of dual transformer blocks; in each a path in space by
attention with spatial reduction and a path across channels by efficient attention; skip connections
through an inter-scale interaction module that takes a large kernel apart. What was decided here:

- Four stages of two blocks, widths doubling from 48 (size s) or 64 (size b), heads 1, 2, 4 and 8,
  reductions 4, 2, 1 and 1. The block, its MLP and both attentions are DAE-Former's
  (arXiv 2212.13504), whose assignment (`spatial="efficient", channel="transposed"`) is an option.
- The interaction module's kernel is that of large kernel attention (arXiv 2202.09741): 5 wide, then
  7 wide with gaps of 3, together 23.
- The published Dice places the network among those that work on slices, `dimensions=2`.
  `dimensions=3` lifts it to volumes and is ours.
- Deep supervision at three scales.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from medseg.models.shape import ShapePolicy
from medseg.nn.depthwise import Depthwise
from medseg.nn.dimensions import CONVOLUTIONS
from medseg.nn.drop_in import Linear
from medseg.nn.dual_attention import (
    DualBlock,
    EfficientAttention,
    ReducedAttention,
    TransposedAttention,
)
from medseg.nn.hybrid_form import Dimensions
from medseg.nn.patch_expand import PatchExpand, unfold_cells
from medseg.nn.slicewise import SliceWise

Axis = Literal[0, 1, 2]
Size = Literal["s", "b", "tiny"]
Spatial = Literal["reduced", "efficient"]
Channel = Literal["efficient", "transposed"]
Triple = tuple[int, int, int]
HEADS, REDUCTIONS = (1, 2, 4, 8), (4, 2, 1, 1)
TRANSPOSED_HEADS = 8


@dataclass(frozen=True)
class Numbers:
    """Channels of the first stage, doubled at each, and dual blocks of every stage."""

    features: int
    blocks: int = 2


def small() -> Numbers:
    """17 million weights in 3D."""
    return Numbers(features=48)


def base() -> Numbers:
    """30 million weights in 3D."""
    return Numbers(features=64)


def tiny() -> Numbers:
    """For two CPU cores."""
    return Numbers(features=16, blocks=1)


SIZES = {"s": small, "b": base, "tiny": tiny}


class TransDAE(nn.Module):
    """TransDAE of a named `size`, its first tokens `token_size` voxels large.

    With `dimensions=2` the network sees slices across `slice_axis`, and the entry of `token_size`
    for that axis has no meaning. In training with `deep_supervision` it returns logits at full
    resolution and at those of the first two stages. `mixing="identity"` leaves attention out.

    Raises:
        InputFault: in `forward`, a size that is no multiple of eight tokens (E_SHAPE).
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        size: Size = "b",
        token_size: Triple = (4, 4, 4),
        spatial: Spatial = "reduced",
        channel: Channel = "efficient",
        dimensions: Dimensions = 2,
        slice_axis: Axis = 2,
        mixing: Literal["learned", "identity"] = "learned",
        deep_supervision: bool = True,
    ) -> None:
        super().__init__()
        numbers = SIZES[size]()
        kept = [axis for axis in range(3) if dimensions == 3 or axis != slice_axis]
        body = DualUNet(
            in_channels=in_channels,
            out_channels=out_channels,
            features=numbers.features,
            blocks=numbers.blocks,
            token_size=tuple(token_size[axis] for axis in kept),
            attend=_attentions(spatial, channel, dimensions, learned=mixing == "learned"),
            deep_supervision=deep_supervision,
        )
        self.network = body if dimensions == 3 else SliceWise(body, axis=slice_axis)
        self.shape_policy = shape_policy_of(token_size, dimensions, slice_axis)

    def forward(self, x: Float[Tensor, "b c i j k"]) -> Tensor | list[Tensor]:
        """Logits "b o i j k", or a list of them, each coarser than the one before."""
        self.shape_policy.require(tuple(x.shape[2:]), "TransDAE")
        return self.network(x)


def shape_policy_of(token_size: Triple, dimensions: int, slice_axis: int) -> ShapePolicy:
    """Sides are multiples of eight tokens: the first is halved three times."""
    i, j, k = (8 * side for side in token_size)
    if dimensions == 3:
        return ShapePolicy.of_volumes((i, j, k))
    first, second = (side for axis, side in enumerate((i, j, k)) if axis != slice_axis)
    return ShapePolicy.of_slices(slice_axis, divisor=(first, second))


Attend = Callable[[int, int], tuple[nn.Module, nn.Module]]


def _attentions(
    spatial: Spatial, channel: Channel, dimensions: Dimensions, *, learned: bool
) -> Attend:
    """What makes the attention in space and across channels, of a stage and its width."""

    def made(stage: int, width: int) -> tuple[nn.Module, nn.Module]:
        if not learned:
            return nn.Identity(), nn.Identity()
        return (
            ReducedAttention(
                channels=width,
                heads=HEADS[stage],
                ratio=REDUCTIONS[stage],
                dimensions=dimensions,
            )
            if spatial == "reduced"
            else EfficientAttention(channels=width),
            EfficientAttention(channels=width)
            if channel == "efficient"
            else TransposedAttention(channels=width, heads=TRANSPOSED_HEADS),
        )

    return made


class DualUNet(nn.Module):
    """The network on images or on volumes, by the length of `token_size`."""

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        features: int,
        blocks: int,
        token_size: tuple[int, ...],
        attend: Attend,
        deep_supervision: bool,
    ) -> None:
        super().__init__()
        dimensions = len(token_size)
        self.deep_supervision = deep_supervision
        widths = [features * 2**stage for stage in range(4)]

        def stage_of(stage: int) -> nn.Sequential:
            return nn.Sequential(
                *(_block(widths[stage], stage, attend, dimensions) for _ in range(blocks))
            )

        self.halved, self.token_size = (2,) * dimensions, token_size
        halved = self.halved
        self.embeds = nn.ModuleList(
            OverlappingEmbedding(in_channels=below, out_channels=width, steps=steps)
            for below, width, steps in zip(
                (in_channels, *widths), widths, (token_size, *(halved,) * 3), strict=False
            )
        )
        self.encoder = nn.ModuleList(stage_of(stage) for stage in range(4))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in widths)
        self.ups = nn.ModuleList(
            PatchExpand(in_channels=2 * width, out_channels=width, factors=halved)
            for width in widths[:3]
        )
        self.joins = nn.ModuleList(
            InterScaleInteraction(channels=width, dimensions=dimensions) for width in widths[:3]
        )
        self.decoder = nn.ModuleList(stage_of(stage) for stage in range(3))
        self.last = PatchExpand(
            in_channels=features, out_channels=features // 2, factors=token_size
        )
        self.head = Linear(features // 2, out_channels)
        coarser = widths[:2] if deep_supervision else []
        self.coarser_heads = nn.ModuleList(Linear(width, out_channels) for width in coarser)

    def forward(self, x: Float[Tensor, "b c ..."]) -> Tensor | list[Tensor]:
        """Logits of the size of the input, or a list of them, each one coarser."""
        skips = []
        for embed, stage, norm in zip(self.embeds, self.encoder, self.norms, strict=True):
            tokens = norm(stage(embed(x)))
            skips.append(tokens)
            x = tokens.movedim(-1, 1)
        tokens, levels = skips.pop(), []
        for number in (2, 1, 0):
            finer = unfold_cells(self.ups[number](tokens), self.halved)
            tokens = self.decoder[number](self.joins[number](skips.pop(), finer))
            levels.append(tokens)
        # The head before the cells are unfolded: there are fewer channels to move.
        voxels = self.head(self.last.cells(tokens), self.last.norm)
        logits = unfold_cells(voxels, self.token_size).movedim(-1, 1)
        if not (self.deep_supervision and self.training):
            return logits
        coarser = zip(self.coarser_heads, reversed(levels[1:]), strict=True)
        return [logits, *(head(level).movedim(-1, 1) for head, level in coarser)]


class OverlappingEmbedding(nn.Module):
    """A convolution of steps `steps` whose kernel reaches into its neighbors, and a norm."""

    def __init__(self, *, in_channels: int, out_channels: int, steps: tuple[int, ...]) -> None:
        super().__init__()
        self.conv = CONVOLUTIONS[len(steps)](
            in_channels,
            out_channels,
            tuple(2 * step - 1 for step in steps),
            steps,
            tuple(step - 1 for step in steps),
        )
        self.norm = nn.LayerNorm(out_channels)

    def forward(self, x: Float[Tensor, "b c ..."]) -> Float[Tensor, "b ... d"]:
        """The coarser tokens."""
        return self.norm(self.conv(x).movedim(1, -1))


class InterScaleInteraction(nn.Module):
    """Encoder and decoder joined, then gated by what a kernel of 23 sees, taken apart in two."""

    def __init__(self, *, channels: int, dimensions: int) -> None:
        super().__init__()
        self.join = Linear(2 * channels, channels)
        self.value = Linear(channels, channels)
        self.near = Depthwise(channels=channels, side=5, dimensions=dimensions)
        self.far = Depthwise(channels=channels, side=7, dilation=3, dimensions=dimensions)
        self.gate = Linear(channels, channels)
        self.proj = Linear(channels, channels)

    def forward(
        self, skip: Float[Tensor, "b ... c"], x: Float[Tensor, "b ... c"]
    ) -> Float[Tensor, "b ... c"]:
        """The joined tokens."""
        joined = self.join(torch.cat([skip, x], dim=-1))
        value = functional.gelu(self.value(joined))
        seen = self.far(self.near(value.movedim(-1, 1))).movedim(1, -1)
        return joined + self.proj(value * self.gate(seen))


def _block(width: int, stage: int, attend: Attend, dimensions: int) -> DualBlock:
    spatial, across = attend(stage, width)
    return DualBlock(channels=width, spatial=spatial, across=across, dimensions=dimensions)
