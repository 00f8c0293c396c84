"""ParaTransCNN: a convolutional and a transformer pyramid side by side, joined at three scales.

Sun et al., arXiv 2401.15307: a 2D network, applied to volumes slice by slice. Written after the
paper and the shapes of the authors' network; equal to it with `dimensions=2` and their weights
(`checkpoints/para_trans_cnn.py` reads them). What differs:

- `dimensions=3` is ours: the same graph with 3D convolutions and tokens of 4x4x4 voxels, and
  instance norm, since batches of volumes are small.
- The paper states 42.7 million weights; its code has 245.5 at the settings it trains with, and 53.8
  at the smallest it has. The named sizes hold that code's numbers.
- `faithful=True` repeats a gray image to three channels, for weights made so; otherwise the network
  takes as many channels as there are.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from medseg.fault import InputFault
from medseg.models.shape import ShapePolicy
from medseg.nn.dimensions import CONVOLUTIONS, batch_or_item_norm
from medseg.nn.drop_in import Linear
from medseg.nn.hybrid_form import Dimensions
from medseg.nn.patches import Patches, Unpatches
from medseg.nn.self_attention import SelfAttention
from medseg.nn.slicewise import SliceWise

Axis = Literal[0, 1, 2]
Size = Literal["l", "m", "s", "xs", "tiny"]
DIVISOR = 16


@dataclass(frozen=True)
class Numbers:
    """Channels of the first tokens (doubled twice), and the convolutional branch's."""

    feature_size: int
    cnn_features: int = 64
    cnn_blocks: tuple[int, int, int, int] = (3, 4, 6, 3)


def large() -> Numbers:
    """What the authors train: 245 million weights in 2D."""
    return Numbers(feature_size=320)


def medium() -> Numbers:
    """85 million weights in 2D."""
    return Numbers(feature_size=128)


def small() -> Numbers:
    """68 million weights in 2D."""
    return Numbers(feature_size=96)


def extra_small() -> Numbers:
    """54 million weights in 2D."""
    return Numbers(feature_size=64)


def tiny() -> Numbers:
    """Our own, for two CPU cores."""
    return Numbers(feature_size=16, cnn_features=12, cnn_blocks=(1, 2, 2, 1))


SIZES = {"l": large, "m": medium, "s": small, "xs": extra_small, "tiny": tiny}


class ParaTransCNN(nn.Module):
    """Logits from a ResNet and a transformer pyramid, joined at 1/4, 1/8 and 1/16 of the input.

    `depths` are the transformer layers of each scale. With `dimensions=2` the network sees slices
    across `slice_axis`. `mixing="identity"` leaves attention out.

    Raises:
        InputFault: heads that do not divide the channels (E_MODEL); in `forward`, a size that is
            no multiple of 16 (E_SHAPE).
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        size: Size = "l",
        heads: int = 8,
        depths: tuple[int, int, int] = (3, 3, 3),
        drop_rate: float = 0.1,
        dimensions: Dimensions = 2,
        slice_axis: Axis = 2,
        mixing: Literal["learned", "identity"] = "learned",
        faithful: bool = False,
    ) -> None:
        super().__init__()
        numbers = SIZES[size]()
        if numbers.feature_size % heads:
            raise InputFault(
                f"para_trans_cnn: {heads} heads do not divide the {numbers.feature_size} channels "
                f"of size {size}.",
                code="E_MODEL",
            )
        self.repeats = 3 if faithful and in_channels == 1 else 1
        body = ParallelUNet(
            in_channels=in_channels * self.repeats,
            out_channels=out_channels,
            numbers=numbers,
            layer=lambda channels: TransformerLayer(
                channels=channels, heads=heads, drop_rate=drop_rate, attends=mixing == "learned"
            ),
            depths=depths,
            dimensions=dimensions,
        )
        flat = dimensions == 2
        self.network = SliceWise(body, axis=slice_axis) if flat else body
        sides = (DIVISOR, DIVISOR, DIVISOR)
        self.shape_policy = (
            ShapePolicy.of_slices(slice_axis, divisor=sides[:2])
            if flat
            else ShapePolicy.of_volumes(sides)
        )

    def forward(self, x: Float[Tensor, "b c i j k"]) -> Float[Tensor, "b o i j k"]:
        """Logits of the size of the input."""
        self.shape_policy.require(tuple(x.shape[2:]), "ParaTransCNN")
        return self.network(x.repeat_interleave(self.repeats, dim=1) if self.repeats > 1 else x)


class ParallelUNet(nn.Module):
    """Both pyramids and their decoder, on images or on volumes."""

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        numbers: Numbers,
        layer: Callable[[int], nn.Module],
        depths: tuple[int, int, int],
        dimensions: Dimensions,
    ) -> None:
        super().__init__()
        d, f = numbers.feature_size, numbers.cnn_features
        self.cnn = ConvolutionalPyramid(
            in_channels=in_channels, features=f, blocks=numbers.cnn_blocks, dimensions=dimensions
        )
        self.transformer = TransformerPyramid(
            in_channels=in_channels,
            features=d,
            layer=layer,
            depths=depths,
            dimensions=dimensions,
        )
        fine, middle, coarse = d + 2 * f, 2 * d + 4 * f, 4 * d + 8 * f
        self.joins = nn.ModuleList(ChannelGate(c, dimensions) for c in (fine, middle, coarse))
        self.mix_coarse = _double_convolution(coarse, dimensions)
        self.up_coarse = _up(coarse, middle, 2, dimensions)
        self.mix_middle = _double_convolution(2 * middle, dimensions)
        self.up_middle = _up(2 * middle, middle, 2, dimensions)
        self.mix_fine = _double_convolution(fine + middle, dimensions)
        self.up_fine = _up(fine + middle, d, 4, dimensions)
        self.head = CONVOLUTIONS[dimensions](d, out_channels, 1)

    def forward(self, x: Float[Tensor, "b c ..."]) -> Float[Tensor, "b o ..."]:
        """Logits of the size of the input."""
        fine, middle, coarse = (
            join(torch.cat([tokens, features], dim=1))
            for join, tokens, features in zip(
                self.joins, self.transformer(x), self.cnn(x), strict=True
            )
        )
        x = self.up_coarse(self.mix_coarse(coarse))
        x = self.up_middle(self.mix_middle(torch.cat([middle, x], dim=1)))
        return self.head(self.up_fine(self.mix_fine(torch.cat([fine, x], dim=1))))


class ConvolutionalPyramid(nn.Module):
    """ResNet without its pooling: maps at 1/4, 1/8 and 1/16 of the input."""

    def __init__(
        self,
        *,
        in_channels: int,
        features: int,
        blocks: tuple[int, int, int, int],
        dimensions: Dimensions,
    ) -> None:
        super().__init__()
        widths = [features * 2**stage for stage in range(4)]
        self.stem = nn.Sequential(
            CONVOLUTIONS[dimensions](in_channels, features, 7, 2, 3, bias=False),
            batch_or_item_norm(features, dimensions),
            nn.ReLU(),
        )
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(
                    BasicBlock(
                        in_channels=below if number == 0 else width,
                        out_channels=width,
                        stride=2 if number == 0 and width > features else 1,
                        dimensions=dimensions,
                    )
                    for number in range(count)
                )
            )
            for below, width, count in zip((features, *widths), widths, blocks, strict=False)
        )

    def forward(self, x: Float[Tensor, "b c ..."]) -> list[Tensor]:
        """The three maps, finest first."""
        x = self.stages[0](self.stem(x))
        maps = []
        for stage in self.stages[1:]:
            x = stage(x)
            maps.append(x)
        return maps


class TransformerPyramid(nn.Module):
    """Tokens of 4 voxels a side, then merged by 2 twice: maps at 1/4, 1/8 and 1/16."""

    def __init__(
        self,
        *,
        in_channels: int,
        features: int,
        layer: Callable[[int], nn.Module],
        depths: tuple[int, int, int],
        dimensions: Dimensions,
    ) -> None:
        super().__init__()
        widths = (features, 2 * features, 4 * features)
        self.embeds = nn.ModuleList(
            Patches(in_channels=below, out_channels=width, side=side, dimensions=dimensions)
            for below, width, side in zip((in_channels, *widths), widths, (4, 2, 2), strict=False)
        )
        self.scales = nn.ModuleList(
            nn.Sequential(*(layer(width) for _ in range(depth)))
            for width, depth in zip(widths, depths, strict=True)
        )

    def forward(self, x: Float[Tensor, "b c ..."]) -> list[Tensor]:
        """The three maps, finest first."""
        maps = []
        for embed, layers in zip(self.embeds, self.scales, strict=True):
            x = embed(x)
            tokens = layers(rearrange(x.flatten(2), "b c n -> b n c"))
            x = rearrange(tokens, "b n c -> b c n").reshape(x.shape)
            maps.append(x)
        return maps


class TransformerLayer(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), twice as wide inside; no positions."""

    def __init__(self, *, channels: int, heads: int, drop_rate: float, attends: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.attention = (
            SelfAttention(
                channels=channels,
                heads=heads,
                qkv_bias=False,
                drop_rate=drop_rate,
                attention_drop_rate=drop_rate,
            )
            if attends
            else nn.Identity()
        )
        self.drop = nn.Dropout(drop_rate)
        self.mlp = nn.Sequential(
            Linear(channels, 2 * channels),
            nn.GELU(),
            nn.Dropout(drop_rate),
            Linear(2 * channels, channels),
            nn.Dropout(drop_rate),
        )

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """The tokens after both branches."""
        x = x + self.drop(self.attention(self.norm1(x)))
        return x + self.mlp(self.norm2(x))


class ChannelGate(nn.Module):
    """Squeeze and excitation: each channel weighed by what all of them are on average."""

    def __init__(self, channels: int, dimensions: Dimensions) -> None:
        super().__init__()
        self.axes = tuple(range(2, 2 + dimensions))
        # At least eight, or a narrow network's gate can begin with none that is active.
        hidden = max(channels // 16, 8)
        self.squeeze = Linear(channels, hidden, bias=False)
        self.excite = Linear(hidden, channels, bias=False)

    def forward(self, x: Float[Tensor, "b c ..."]) -> Float[Tensor, "b c ..."]:
        """The weighed map."""
        weights = self.excite(self.squeeze(x.mean(self.axes)).relu()).sigmoid()
        return x * weights[(..., *(None for _ in self.axes))]


class BasicBlock(nn.Module):
    """ResNet's block of two 3-wide convolutions; its shortcut is projected where sizes change."""

    def __init__(
        self, *, in_channels: int, out_channels: int, stride: int, dimensions: Dimensions
    ) -> None:
        super().__init__()
        convolution = CONVOLUTIONS[dimensions]
        self.conv1 = convolution(in_channels, out_channels, 3, stride, 1, bias=False)
        self.norm1 = batch_or_item_norm(out_channels, dimensions)
        self.conv2 = convolution(out_channels, out_channels, 3, 1, 1, bias=False)
        self.norm2 = batch_or_item_norm(out_channels, dimensions)
        self.shortcut = (
            nn.Sequential(
                convolution(in_channels, out_channels, 1, stride, bias=False),
                batch_or_item_norm(out_channels, dimensions),
            )
            if stride > 1 or in_channels != out_channels
            else nn.Identity()
        )

    def forward(self, x: Float[Tensor, "b c ..."]) -> Float[Tensor, "b d ..."]:
        """The block's output."""
        hidden = self.norm1(self.conv1(x)).relu()
        return (self.norm2(self.conv2(hidden)) + self.shortcut(x)).relu()


def _up(in_channels: int, out_channels: int, side: int, dimensions: Dimensions) -> Unpatches:
    return Unpatches(
        in_channels=in_channels, out_channels=out_channels, side=side, dimensions=dimensions
    )


def _double_convolution(channels: int, dimensions: Dimensions) -> nn.Sequential:
    # Instance norm takes off whatever a bias adds.
    convolution = partial(CONVOLUTIONS[dimensions], bias=dimensions == 2)
    return nn.Sequential(
        convolution(channels, channels, 3, 1, 1),
        batch_or_item_norm(channels, dimensions),
        nn.ReLU(),
        convolution(channels, channels, 3, 1, 1),
        batch_or_item_norm(channels, dimensions),
        nn.ReLU(),
    )
