"""SWTR-Unet: a residual network, a shifted-window transformer behind it, and a U-Net's decoder.

A reconstruction: Hille et al., arXiv 2201.10981 (Computer Methods and Programs in Biomedicine 2023)
published no code. The abstract names the three parts, pretrained weights of the first, and livers
and their lesions in MR and CT. What was decided here, after TransUNet (arXiv 2102.04306), which has
the same parts: ResNet-50 up to 1/16 of the input; six pairs of plain and shifted windows of 8
tokens a side, 768 wide with 12 heads; a decoder of 256, 128, 64 and 16 channels that doubles by
linear interpolation. Slices are published, `dimensions=2`; `dimensions=3` is ours, with instance
norm.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from medseg.models.shape import ShapePolicy
from medseg.nn.dimensions import CONVOLUTIONS, batch_or_item_norm
from medseg.nn.hybrid_form import Dimensions
from medseg.nn.slicewise import SliceWise
from medseg.nn.swin import Mlp, SwinBlock
from medseg.nn.window_attention import WindowAttention

Axis = Literal[0, 1, 2]
Size = Literal["base", "tiny"]
DIVISOR = 16
MLP_RATIO = 4
_POOLINGS: dict[int, Callable[..., nn.Module]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
_INTERPOLATIONS = {2: "bilinear", 3: "trilinear"}


@dataclass(frozen=True)
class Numbers:
    """Width and blocks of the residual network, form of the transformer, widths of the decoder."""

    stem: int
    blocks: tuple[int, int, int]
    channels: int
    heads: int
    pairs: int
    decoder: tuple[int, int, int, int]


def base() -> Numbers:
    """ResNet-50's stages and a transformer of ViT-B's width."""
    return Numbers(
        stem=64, blocks=(3, 4, 6), channels=768, heads=12, pairs=6, decoder=(256, 128, 64, 16)
    )


def tiny() -> Numbers:
    """Our own, for two CPU cores."""
    return Numbers(
        stem=8, blocks=(1, 1, 1), channels=96, heads=4, pairs=2, decoder=(64, 32, 16, 16)
    )


SIZES = {"base": base, "tiny": tiny}


class SWTRUNet(nn.Module):
    """SWTR-Unet of a named `size`, with windows of `window_size` tokens a side.

    With `dimensions=2` the network sees slices across `slice_axis`. `mixing="identity"` leaves
    attention out.

    Raises:
        InputFault: in `forward`, a size that is no multiple of 16 (E_SHAPE).
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        size: Size = "base",
        window_size: int = 8,
        drop_rate: float = 0.0,
        dimensions: Dimensions = 2,
        slice_axis: Axis = 2,
        mixing: Literal["learned", "identity"] = "learned",
    ) -> None:
        super().__init__()
        body = ResidualTransformerUNet(
            in_channels=in_channels,
            out_channels=out_channels,
            numbers=SIZES[size](),
            window_size=window_size,
            drop_rate=drop_rate,
            attends=mixing == "learned",
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

    @property
    def residual_network(self) -> "ResidualNetwork":
        """The part that ImageNet's weights can begin with."""
        network = self.network
        body = network.network if isinstance(network, SliceWise) else network
        assert isinstance(body, ResidualTransformerUNet)
        return body.residual

    def forward(self, x: Float[Tensor, "b c i j k"]) -> Float[Tensor, "b o i j k"]:
        """Logits of the size of the input."""
        self.shape_policy.require(tuple(x.shape[2:]), "SWTR-Unet")
        return self.network(x)


class ResidualTransformerUNet(nn.Module):
    """The network on images or on volumes."""

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        numbers: Numbers,
        window_size: int,
        drop_rate: float,
        attends: bool,
        dimensions: Dimensions,
    ) -> None:
        super().__init__()
        convolution = CONVOLUTIONS[dimensions]
        stem, channels = numbers.stem, numbers.channels
        self.residual = ResidualNetwork(
            in_channels=in_channels, stem=stem, blocks=numbers.blocks, dimensions=dimensions
        )
        self.embed = convolution(16 * stem, channels, 1)
        window = (window_size, window_size, window_size if dimensions == 3 else 1)
        self.transformer = nn.Sequential(
            *(
                SwinBlock(
                    channels=channels,
                    attention=_attention(channels, numbers.heads, window, position, drop_rate)
                    if attends
                    else nn.Identity(),
                    mlp=Mlp(channels=channels, hidden=MLP_RATIO * channels, drop_rate=drop_rate),
                )
                for position in range(2 * numbers.pairs)
            )
        )
        self.norm = nn.LayerNorm(channels)
        widths = numbers.decoder
        self.narrow = _convolved(channels, 2 * widths[0], dimensions)
        self.ups = nn.ModuleList(
            UpBlock(
                in_channels=below, skip_channels=skip, out_channels=width, dimensions=dimensions
            )
            for below, skip, width in zip(
                (2 * widths[0], *widths), (8 * stem, 4 * stem, stem, 0), widths, strict=False
            )
        )
        self.head = convolution(widths[-1], out_channels, 1)

    def forward(self, x: Float[Tensor, "b c ..."]) -> Float[Tensor, "b o ..."]:
        """Logits of the size of the input."""
        *skips, deepest = self.residual(x)
        x = self.narrow(self._transformed(self.embed(deepest)))
        for up in self.ups:
            x = up(x, skips.pop() if skips else None)
        return self.head(x)

    def _transformed(self, x: Tensor) -> Tensor:
        """The map after the transformer, which sees an image as a volume of one slice."""
        volume = x if x.ndim == 5 else x[..., None]
        tokens = self.norm(self.transformer(rearrange(volume, "b c i j k -> b i j k c")))
        return rearrange(tokens, "b i j k c -> b c i j k").reshape(x.shape)


class ResidualNetwork(nn.Module):
    """ResNet with bottleneck blocks up to its third stage, on images or on volumes."""

    def __init__(
        self, *, in_channels: int, stem: int, blocks: tuple[int, int, int], dimensions: Dimensions
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            CONVOLUTIONS[dimensions](in_channels, stem, 7, 2, 3, bias=False),
            batch_or_item_norm(stem, dimensions),
            nn.ReLU(),
        )
        self.pool = _POOLINGS[dimensions](3, 2, 1)
        inner = (stem, 2 * stem, 4 * stem)
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(
                    Bottleneck(
                        in_channels=below if number == 0 else 4 * width,
                        inner_channels=width,
                        stride=2 if number == 0 and width > stem else 1,
                        dimensions=dimensions,
                    )
                    for number in range(count)
                )
            )
            for below, width, count in zip((stem, 4 * stem, 8 * stem), inner, blocks, strict=True)
        )

    def forward(self, x: Float[Tensor, "b c ..."]) -> list[Tensor]:
        """Maps at 1/2, 1/4, 1/8 and 1/16 of the input."""
        maps = [self.stem(x)]
        x = self.pool(maps[0])
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class Bottleneck(nn.Module):
    """ResNet's block of 1-, 3- and 1-wide convolutions, four times as wide at its end."""

    def __init__(
        self, *, in_channels: int, inner_channels: int, stride: int, dimensions: Dimensions
    ) -> None:
        super().__init__()
        convolution, out_channels = CONVOLUTIONS[dimensions], 4 * inner_channels
        self.conv1 = convolution(in_channels, inner_channels, 1, bias=False)
        self.norm1 = batch_or_item_norm(inner_channels, dimensions)
        self.conv2 = convolution(inner_channels, inner_channels, 3, stride, 1, bias=False)
        self.norm2 = batch_or_item_norm(inner_channels, dimensions)
        self.conv3 = convolution(inner_channels, out_channels, 1, bias=False)
        self.norm3 = batch_or_item_norm(out_channels, dimensions)
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
        hidden = self.norm2(self.conv2(hidden)).relu()
        return (self.norm3(self.conv3(hidden)) + self.shortcut(x)).relu()


class UpBlock(nn.Module):
    """Twice the resolution by linear interpolation, the skip connection, two convolutions."""

    def __init__(
        self, *, in_channels: int, skip_channels: int, out_channels: int, dimensions: Dimensions
    ) -> None:
        super().__init__()
        self.mode = _INTERPOLATIONS[dimensions]
        self.mix = nn.Sequential(
            _convolved(in_channels + skip_channels, out_channels, dimensions),
            _convolved(out_channels, out_channels, dimensions),
        )

    def forward(
        self, x: Float[Tensor, "b c ..."], skip: Float[Tensor, "b d ..."] | None
    ) -> Float[Tensor, "b e ..."]:
        """The finer map."""
        x = functional.interpolate(x, scale_factor=2.0, mode=self.mode)
        return self.mix(x if skip is None else torch.cat([x, skip], dim=1))


def _attention(
    channels: int, heads: int, window: tuple[int, int, int], position: int, drop_rate: float
) -> WindowAttention:
    """Every second one moves its windows by half their size."""
    half = (window[0] // 2, window[1] // 2, window[2] // 2)
    return WindowAttention(
        channels=channels,
        heads=heads,
        window=window,
        shift=half if position % 2 else (0, 0, 0),
        drop_rate=drop_rate,
        attention_drop_rate=drop_rate,
    )


def _convolved(in_channels: int, out_channels: int, dimensions: Dimensions) -> nn.Sequential:
    return nn.Sequential(
        CONVOLUTIONS[dimensions](in_channels, out_channels, 3, 1, 1, bias=False),
        batch_or_item_norm(out_channels, dimensions),
        nn.ReLU(),
    )
