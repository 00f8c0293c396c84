"""D-Former: a U-shaped transformer with attention among near and among far tokens.

Wu et al., arXiv 2201.00462 (Neural Computing and Applications 2022). Written anew after the paper
and the behavior of the only public code (kkk55596/D-Former; whether it is the authors' is not
known). Equal to that code with `faithful=True`; where both take a size and nothing is padded, the
two modes are equal too. What the code does otherwise, and `faithful=True` keeps for parity:

- It dilates an axis by n // g, which fails or makes larger groups where g does not divide n, and
  pads to multiples of another number (`intervals`). Here every axis is padded to a multiple of
  its group and dilated by n / g, so any size of input is taken.
- Where only the depth is padded, its far groups attend to padding. Here padding is never seen.
- It looks at one axis to tell that a grid is smaller than a group. Here at all three.
- It has three heads, of which the third is never used. Here there are as many as there are outputs.

Nothing is kept from one call to the next (the code shrinks its groups for good when it meets a
small input), and the number of classes is the caller's. Axes are the caller's too: the paper's
token and group are flat along the first (depth, height, width), so where depth is the last axis
take `token_size=(4, 4, 2)` and `group_size=(8, 8, 2)`.
"""

import math
from collections.abc import Sequence
from itertools import islice
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from medseg.fault import InputFault
from medseg.models.d_former_sizes import STAGES, reference_refuses, shape_policy
from medseg.nn.drop_in import Linear
from medseg.nn.dynamic_position import DynamicPosition
from medseg.nn.group_attention import GroupAttention
from medseg.nn.patch_expand import PatchExpand, unfold_cells
from medseg.nn.swin import Mlp, Offsets, PatchMerging, SwinBlock
from medseg.nn.token_groups import scope

Triple = tuple[int, int, int]
Four = tuple[int, int, int, int]

_TWICE = (2, 2, 2)
# Values of voxels that a head holds at a time, for each item of the batch.
_SLAB = 1 << 22
# The last axis fastest.
_NEIGHBORS: Offsets = (
    (0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1), (1, 0, 0), (1, 0, 1), (1, 1, 0), (1, 1, 1),
)  # fmt: skip


class DFormer(nn.Module):
    """Logits at full resolution; in training with deep supervision also at half.

    Blocks alternate between local scope (boxes of `group_size` tokens) and global scope (as many
    tokens, evenly spread over the grid). `depths` are the blocks of the four encoder stages; the
    decoder has those of the first three. `mixing="identity"` leaves attention out. `intervals`
    matter only with `faithful`.

    Raises:
        InputFault: heads that do not divide the channels; in `forward`, a size the network
            cannot take (E_SHAPE).
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        feature_size: int = 96,
        token_size: Triple = (2, 4, 4),
        group_size: Triple = (2, 8, 8),
        depths: Four = (2, 2, 6, 2),
        heads: Four = (3, 6, 12, 24),
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        attention_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        deep_supervision: bool = True,
        mixing: Literal["learned", "identity"] = "learned",
        intervals: Four = (8, 4, 2, 1),
        faithful: bool = False,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        _check(feature_size, depths, heads)
        self.token_size, self.group_size = token_size, group_size
        self.intervals, self.faithful = intervals, faithful
        self.deep_supervision = deep_supervision
        self.shape_policy = shape_policy(token_size, faithful=faithful)
        blocks = Blocks(
            group_size=group_size,
            mlp_ratio=mlp_ratio,
            drop_rate=drop_rate,
            attention_drop_rate=attention_drop_rate,
            attends=mixing == "learned",
            gradient_checkpointing=gradient_checkpointing,
        )
        stages = [
            {
                "channels": feature_size * 2**stage,
                "heads": heads[stage],
                "interval": intervals[stage] if faithful else None,
                "drop_path_rates": rates,
            }
            for stage, rates in enumerate(_drop_path_rates(drop_path_rate, depths))
        ]
        self.backbone = DFormerBackbone(
            embed=TokenEmbedding(
                in_channels=in_channels, out_channels=feature_size, token_size=token_size
            ),
            drop_rate=drop_rate,
            down=[blocks.stage(**numbers) for numbers in stages],
            up=[blocks.stage(**numbers) for numbers in stages[-2::-1]],
        )
        used = 2 if deep_supervision else 1
        self.heads = nn.ModuleList(
            ExpandingHead(
                in_channels=feature_size * 2**level,
                out_channels=out_channels,
                token_size=token_size,
                gradient_checkpointing=gradient_checkpointing,
            )
            for level in range(3 if faithful and deep_supervision else used)
        )

    def forward(
        self, x: Float[Tensor, "b c i j k"]
    ) -> Float[Tensor, "b d i j k"] | list[Float[Tensor, "b d i2 j2 k2"]]:
        """Logits of the size of the input, or a list of them and of those at half of it."""
        i, j, k = size = x.shape[2], x.shape[3], x.shape[4]
        self._require(size)
        _, half, full = self.backbone(x)
        logits = self.heads[0](full)[:, :, :i, :j, :k]
        if not (self.deep_supervision and self.training):
            return logits
        i, j, k = (-(-side // 2) for side in size)
        return [logits, self.heads[1](half)[:, :, :i, :j, :k]]

    def _require(self, size: Triple) -> None:
        self.shape_policy.require(size, "D-Former")
        refusal = self.faithful and reference_refuses(
            size,
            token_size=self.token_size,
            group_size=self.group_size,
            intervals=self.intervals,
        )
        if refusal:
            raise InputFault(f"D-Former's input: {refusal}.", code="E_SHAPE")


class DFormerBackbone(nn.Module):
    """Four stages down, three up; a skip connection carries what entered a stage."""

    def __init__(
        self,
        *,
        embed: "TokenEmbedding",
        drop_rate: float,
        down: "Sequence[DFormerStage]",
        up: "Sequence[DFormerStage]",
    ) -> None:
        super().__init__()
        assert len(down) == STAGES == len(up) + 1, "one stage less on the way up"
        channels = [stage.channels for stage in down]
        self.embed, self.drop = embed, nn.Dropout(drop_rate)
        self.down = nn.ModuleList(down)
        self.merges = nn.ModuleList(
            PatchMerging(channels=c, offsets=_NEIGHBORS) for c in channels[:-1]
        )
        self.norm = nn.LayerNorm(channels[-1])
        self.expands = nn.ModuleList(
            PatchExpand(in_channels=2 * c, out_channels=c, factors=_TWICE) for c in channels[-2::-1]
        )
        self.joins = nn.ModuleList(Linear(2 * c, c) for c in channels[-2::-1])
        self.up = nn.ModuleList(up)
        self.final_norm = nn.LayerNorm(channels[0])

    def forward(self, x: Float[Tensor, "b c i j k"]) -> list[Float[Tensor, "b i2 j2 k2 d"]]:
        """The decoder's tokens at 1/4, 1/2 and the whole of the token grid, coarsest first."""
        x = self.drop(self.embed(x))
        *stages, bottleneck = self.down
        skips = []
        for stage, merge in zip(stages, self.merges, strict=True):
            skips.append(x)
            x = merge(stage(x))
        x, levels = self.norm(bottleneck(x)), []
        for expand, join, stage in zip(self.expands, self.joins, self.up, strict=True):
            skip = skips.pop()
            _, i, j, k, _ = skip.shape
            # An odd grid was padded before it was merged: the padding goes again.
            x = unfold_cells(expand(x), _TWICE)[:, :i, :j, :k]
            levels.append(x)
            x = stage(join(torch.cat([x, skip], dim=-1)))
        return [*levels[:-1], self.final_norm(x)]


class TokenEmbedding(nn.Module):
    """Boxes of voxels become tokens; zeros fill the last boxes."""

    def __init__(self, *, in_channels: int, out_channels: int, token_size: Triple) -> None:
        super().__init__()
        self.projection = nn.Conv3d(in_channels, out_channels, token_size, stride=token_size)
        self.norm = nn.LayerNorm(out_channels)

    def forward(self, x: Float[Tensor, "b c i j k"]) -> Float[Tensor, "b i2 j2 k2 d"]:
        """The normed tokens."""
        weight = self.projection.weight
        p, q, r = weight.shape[2:]
        i, j, k = (-side % box for side, box in zip(x.shape[2:], (p, q, r), strict=True))
        boxes = rearrange(
            functional.pad(x, (0, k, 0, j, 0, i)),
            "b c (i p) (j q) (k r) -> b i j k (c p q r)", p=p, q=q, r=r,
        )  # fmt: skip
        return self.norm(functional.linear(boxes, weight.flatten(1), self.projection.bias))


class DFormerStage(nn.Module):
    """The tokens learn their positions, then see near and far ones in turn."""

    def __init__(self, *, channels: int, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.channels = channels
        self.position = DynamicPosition(channels=channels)
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Float[Tensor, "b i j k c"]) -> Float[Tensor, "b i j k c"]:
        """The tokens of the stage."""
        return self.blocks(self.position(x))


class Blocks:
    """Makes the blocks of stages, which share these settings."""

    def __init__(
        self,
        *,
        group_size: Triple,
        mlp_ratio: float,
        drop_rate: float,
        attention_drop_rate: float,
        attends: bool,
        gradient_checkpointing: bool,
    ) -> None:
        self.group_size, self.mlp_ratio = group_size, mlp_ratio
        self.drop_rate, self.attention_drop_rate = drop_rate, attention_drop_rate
        self.attends, self.gradient_checkpointing = attends, gradient_checkpointing

    def stage(
        self, *, channels: int, heads: int, interval: int | None, drop_path_rates: Sequence[float]
    ) -> DFormerStage:
        """A stage with a block for each rate, of local and global scope in turn."""
        kinds: tuple[Literal["local", "global"], ...] = ("local", "global")
        return DFormerStage(
            channels=channels,
            blocks=[
                self.block(
                    channels=channels,
                    heads=heads,
                    kind=kinds[position % 2],
                    interval=interval,
                    drop_path_rate=rate,
                )
                for position, rate in enumerate(drop_path_rates)
            ],
        )

    def block(
        self,
        *,
        channels: int,
        heads: int,
        kind: Literal["local", "global"],
        interval: int | None,
        drop_path_rate: float = 0.0,
    ) -> SwinBlock:
        """A block whose tokens see near or far ones."""
        attention = GroupAttention(
            channels=channels,
            heads=heads,
            scope=scope(kind, self.group_size, interval=interval),
            drop_rate=self.drop_rate,
            attention_drop_rate=self.attention_drop_rate,
        )
        return SwinBlock(
            channels=channels,
            attention=attention if self.attends else nn.Identity(),
            mlp=Mlp(
                channels=channels, hidden=int(channels * self.mlp_ratio), drop_rate=self.drop_rate
            ),
            drop_path_rate=drop_path_rate,
            gradient_checkpointing=self.gradient_checkpointing,
        )


class ExpandingHead(nn.Module):
    """Logits of the voxels of each token, a slab of the grid at a time.

    The voxels have as many channels as the tokens, at full resolution: most of the network's
    memory if they were held at once. Where the way back needs them they are, or, with
    `gradient_checkpointing`, computed again.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        token_size: Triple,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.gradient_checkpointing = gradient_checkpointing
        self.expand = PatchExpand(
            in_channels=in_channels, out_channels=in_channels, factors=token_size
        )
        self.mix = Linear(in_channels, out_channels, bias=False)

    def forward(self, x: Float[Tensor, "b i j k c"]) -> Float[Tensor, "b d i2 j2 k2"]:
        """The logits, channels first."""
        again = torch.is_grad_enabled() and self.gradient_checkpointing
        if torch.is_grad_enabled() and not again:
            return self._logits(x)
        values = x.shape[2:].numel() * math.prod(self.expand.factors)
        slabs = x.split(max(1, _SLAB // values), dim=1)
        if again:
            logits = [checkpoint(self._logits, slab, use_reentrant=False) for slab in slabs]
        else:
            logits = [self._logits(slab) for slab in slabs]
        return torch.cat(logits, dim=2)

    def _logits(self, x: Tensor) -> Tensor:
        voxels = self.mix(self.expand.cells(x), self.expand.norm)
        voxels = unfold_cells(voxels, self.expand.factors)
        return rearrange(voxels, "b i j k d -> b d i j k")


def _drop_path_rates(last: float, depths: Sequence[int]) -> list[list[float]]:
    """A rate for each block of each stage, growing evenly from 0 to `last`."""
    blocks = sum(depths)
    rates = iter(last * n / max(1, blocks - 1) for n in range(blocks))
    return [list(islice(rates, depth)) for depth in depths]


def _check(feature_size: int, depths: Sequence[int], heads: Sequence[int]) -> None:
    if len(depths) != STAGES or len(heads) != STAGES:
        raise InputFault(
            f"D-Former has four stages: depths {tuple(depths)} and heads {tuple(heads)} need four "
            "numbers each."
        )
    for stage, number in enumerate(heads):
        channels = feature_size * 2**stage
        if number < 1 or channels % number:
            raise InputFault(
                f"D-Former, stage {stage}: {number} heads do not divide {channels} channels "
                f"(feature_size {feature_size}); with heads (3, 6, 12, 24) take a multiple of 3."
            )
