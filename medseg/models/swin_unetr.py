"""Swin UNETR: a shifted-window transformer encoder with a convolutional decoder.

Hatamizadeh et al., arXiv 2201.01266. Written anew after the paper; equal to MONAI 1.6's network of
the same name with `faithful=True` and MONAI's weights (`checkpoints/monai_swin_unetr.py` reads
them). What differs from it:

- The relative position bias of a window smaller than `window_size` (the deepest stage of a 96^3
  input) is read by true offsets. MONAI reads other entries; `faithful=True` does as MONAI does.
- `legacy_merging=True` joins patches as MONAI did before 1.5: two of eight neighbors twice, two
  never. Every published checkpoint was trained with that; it is not for new training.
- Feature maps lie in memory channels last, so that tokens and convolutions share one layout, and
  attention never holds its weights; both change nothing but speed and memory.
"""

from collections.abc import Sequence
from functools import partial
from itertools import islice
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from medseg.fault import InputFault
from medseg.models.shape import ShapePolicy
from medseg.nn.convolution import PatchEmbedding, Pointwise
from medseg.nn.residual import ResidualBlock, UpBlock
from medseg.nn.swin import Mlp, Offsets, PatchMerging, SwinBlock
from medseg.nn.window_attention import WindowAttention

Triple = tuple[int, int, int]

_EACH: Offsets = (
    (0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1), (1, 1, 1),
)  # fmt: skip
LEGACY: Offsets = (
    (0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 0), (0, 0, 1), (1, 1, 1),
)  # fmt: skip


class SwinUNETR(nn.Module):
    """Logits at full resolution from a transformer pyramid and a U-shaped decoder.

    Five maps, from 1/2 to 1/32 of the input, feed the decoder; each is layer-normalized over its
    channels, without parameters, before it does. `v2` puts a residual convolution block before
    every transformer stage (Swin UNETR-V2, MICCAI 2023). `mixing="identity"` leaves attention out:
    a block's tokens pass its place as they are.

    Raises:
        InputFault: heads that do not divide the channels; in `forward`, a size the network
            cannot take (E_SHAPE).
    """

    # Instance norm of the 1/32 map needs more than one voxel there.
    shape_policy = ShapePolicy(divisor=(32, 32, 32), minimum=(32, 32, 32), voxels=2 * 32**3)

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        feature_size: int = 48,
        depths: Sequence[int] = (2, 2, 2, 2),
        heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int | Triple = 7,
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        attention_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        mixing: Literal["learned", "identity"] = "learned",
        v2: bool = False,
        legacy_merging: bool = False,
        faithful: bool = False,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        _check(feature_size, depths, heads)
        f = feature_size
        blocks = partial(
            _blocks,
            window=_triple(window_size),
            mlp_ratio=mlp_ratio,
            drop_rate=drop_rate,
            attention_drop_rate=attention_drop_rate,
            attends=mixing == "learned",
            faithful=faithful,
            gradient_checkpointing=gradient_checkpointing,
        )
        stages = [
            SwinStage(
                residual=ResidualBlock(in_channels=c, out_channels=c) if v2 else None,
                blocks=blocks(channels=c, heads=number, drop_path_rates=rates),
                merge=PatchMerging(channels=c, offsets=LEGACY if legacy_merging else _EACH),
            )
            for c, number, rates in zip(
                (f, 2 * f, 4 * f, 8 * f),
                heads,
                _drop_path_rates(drop_path_rate, depths),
                strict=True,
            )
        ]
        self.encoder = SwinEncoder(
            embed=PatchEmbedding(in_channels=in_channels, out_channels=f),
            drop_rate=drop_rate,
            stages=stages,
        )
        self.stem = ResidualBlock(in_channels=in_channels, out_channels=f)
        self.skips = nn.ModuleList(
            ResidualBlock(in_channels=c, out_channels=c) for c in (f, 2 * f, 4 * f)
        )
        self.bottleneck = ResidualBlock(in_channels=16 * f, out_channels=16 * f)
        self.ups = nn.ModuleList(
            UpBlock(in_channels=c, out_channels=d)
            for c, d in ((16 * f, 8 * f), (8 * f, 4 * f), (4 * f, 2 * f), (2 * f, f), (f, f))
        )
        self.head = Pointwise(in_channels=f, out_channels=out_channels, bias=True)

    def forward(self, x: Float[Tensor, "b c i j k"]) -> Float[Tensor, "b d i j k"]:
        """Logits of the size of the input."""
        self.shape_policy.require(tuple(x.shape[2:]), "Swin UNETR")
        x = x.contiguous(memory_format=torch.channels_last_3d)
        *fine, coarse, deepest = self.encoder(x)
        skips = [
            self.stem(x),
            *(block(y) for block, y in zip(self.skips, fine, strict=True)),
            coarse,
        ]
        x = self.bottleneck(deepest)
        for up in self.ups:
            x = up(x, skips.pop())
        return self.head(x)


class SwinEncoder(nn.Module):
    """The pyramid: patches of 2^3 voxels, then stages that each halve the grid at their end."""

    def __init__(self, *, embed: nn.Module, drop_rate: float, stages: Sequence[nn.Module]) -> None:
        super().__init__()
        self.embed = embed
        self.drop = nn.Dropout(drop_rate)
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Float[Tensor, "b c i j k"]) -> list[Float[Tensor, "b d i2 j2 k2"]]:
        """The five maps, finest first, each normalized over its channels."""
        x = self.drop(self.embed(x))
        maps = [x]
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return [_channel_norm(y) for y in maps]


class SwinStage(nn.Module):
    """Transformer blocks at one resolution, then the merge to the next."""

    def __init__(
        self, *, residual: nn.Module | None, blocks: Sequence[nn.Module], merge: nn.Module
    ) -> None:
        super().__init__()
        self.residual = residual
        self.blocks = nn.Sequential(*blocks)
        self.merge = merge

    def forward(self, x: Float[Tensor, "b c i j k"]) -> Float[Tensor, "b d i2 j2 k2"]:
        """The map at half the resolution, with twice the channels."""
        if self.residual is not None:
            x = self.residual(x)
        tokens = rearrange(x, "b c i j k -> b i j k c")
        return rearrange(self.merge(self.blocks(tokens)), "b i j k c -> b c i j k")


def _blocks(
    *,
    channels: int,
    heads: int,
    drop_path_rates: Sequence[float],
    window: Triple,
    mlp_ratio: float,
    drop_rate: float,
    attention_drop_rate: float,
    attends: bool,
    faithful: bool,
    gradient_checkpointing: bool,
) -> list[SwinBlock]:
    """The blocks of one stage; every second one moves its windows by half their size."""
    half = (window[0] // 2, window[1] // 2, window[2] // 2)

    def attention(position: int) -> nn.Module:
        if not attends:
            return nn.Identity()
        return WindowAttention(
            channels=channels,
            heads=heads,
            window=window,
            shift=half if position % 2 else (0, 0, 0),
            drop_rate=drop_rate,
            attention_drop_rate=attention_drop_rate,
            faithful=faithful,
        )

    return [
        SwinBlock(
            channels=channels,
            attention=attention(position),
            mlp=Mlp(channels=channels, hidden=int(channels * mlp_ratio), drop_rate=drop_rate),
            drop_path_rate=rate,
            gradient_checkpointing=gradient_checkpointing,
        )
        for position, rate in enumerate(drop_path_rates)
    ]


def _drop_path_rates(last: float, depths: Sequence[int]) -> list[list[float]]:
    """A rate for each block of each stage, growing evenly from 0 to `last`."""
    blocks = sum(depths)
    rates = iter(last * n / max(1, blocks - 1) for n in range(blocks))
    return [list(islice(rates, depth)) for depth in depths]


def _channel_norm(x: Float[Tensor, "b c i j k"]) -> Float[Tensor, "b c i j k"]:
    tokens = rearrange(x, "b c i j k -> b i j k c")
    return rearrange(functional.layer_norm(tokens, tokens.shape[-1:]), "b i j k c -> b c i j k")


def _triple(window_size: int | Triple) -> Triple:
    if isinstance(window_size, int):
        return window_size, window_size, window_size
    return window_size


def _check(feature_size: int, depths: Sequence[int], heads: Sequence[int]) -> None:
    if len(depths) != 4 or len(heads) != 4:
        raise InputFault(
            f"Swin UNETR has four stages: depths {tuple(depths)} and heads {tuple(heads)} need "
            "four numbers each."
        )
    for stage, number in enumerate(heads):
        channels = feature_size * 2**stage
        if number < 1 or channels % number:
            raise InputFault(
                f"Swin UNETR, stage {stage + 1}: {number} heads do not divide {channels} channels "
                f"(feature_size {feature_size}); with heads (3, 6, 12, 24) take a multiple of 12."
            )
