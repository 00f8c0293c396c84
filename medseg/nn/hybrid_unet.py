"""nnU-Net's planned UNet with residual blocks and layers that look far, in two or three dimensions.

The body that U-Mamba (arXiv 2401.04722) and xLSTM-UNet (arXiv 2407.01530) share: an encoder of
residual stages after each of which a given layer may mix distant voxels, a decoder that doubles by
repetition and mixes with the skip connection. The 1x1 convolution behind the doubling is done
before it: the same numbers for an eighth of the work.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from medseg.nn.dimensions import CONVOLUTIONS, INSTANCE_NORMS
from medseg.nn.drop_in import InstanceNorm3d
from medseg.nn.hybrid_form import HybridForm

Sides = Sequence[int]
_SLOPE = 0.01


class HybridUNet(nn.Module):
    """Logits from an encoder with a layer of `mixers` behind each stage, and a plain decoder.

    In training with `deep_supervision` it returns logits at each decoder resolution, the full one
    first; else those of full resolution, and the other heads are not made.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        form: HybridForm,
        mixers: Sequence[nn.Module],
        deep_supervision: bool,
    ) -> None:
        super().__init__()
        self.deep_supervision = deep_supervision
        self.encoder = HybridEncoder(in_channels=in_channels, form=form, mixers=mixers)
        self.decoder = HybridDecoder(form=form)
        convolution = CONVOLUTIONS[form.dimensions]
        supervised = form.features[-2::-1] if deep_supervision else form.features[:1]
        self.heads = nn.ModuleList(convolution(f, out_channels, 1) for f in supervised)

    def initialize_convolutions(self) -> None:
        """He's normal numbers for spatial convolutions, as nnU-Net; other layers keep theirs."""
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Conv3d)):
                nn.init.kaiming_normal_(module.weight, a=_SLOPE)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Float[Tensor, "b c ..."]) -> Tensor | list[Tensor]:
        """Logits "b o ..." of the size of the input, or a list of them, each one coarser."""
        levels = self.decoder(self.encoder(x))
        if self.deep_supervision and self.training:
            return [head(y) for head, y in zip(self.heads, levels, strict=True)][::-1]
        return self.heads[-1](levels[-1])


class HybridEncoder(nn.Module):
    """The stem at full resolution, then stages: residual blocks and a mixer."""

    def __init__(self, *, in_channels: int, form: HybridForm, mixers: Sequence[nn.Module]) -> None:
        super().__init__()
        assert len(mixers) == form.stages, "one mixer a stage"
        still = (1,) * form.dimensions
        self.stem = _stage(
            in_channels, form.features[0], form.encoder_blocks[0], form.kernel_sizes[0], still
        )
        below = (form.features[0], *form.features[:-1])
        self.stages = nn.ModuleList(
            _stage(*numbers)
            for numbers in zip(
                below,
                form.features,
                form.encoder_blocks,
                form.kernel_sizes,
                form.strides,
                strict=True,
            )
        )
        self.mixers = nn.ModuleList(mixers)

    def forward(self, x: Float[Tensor, "b c ..."]) -> list[Tensor]:
        """The maps of all stages, finest first."""
        x = self.stem(x)
        maps = []
        for stage, mixer in zip(self.stages, self.mixers, strict=True):
            x = mixer(stage(x))
            maps.append(x)
        return maps


class HybridDecoder(nn.Module):
    """From the deepest map to full resolution, a skip connection at a time."""

    def __init__(self, *, form: HybridForm) -> None:
        super().__init__()
        convolution = CONVOLUTIONS[form.dimensions]
        skips, strides = form.features[-2::-1], form.strides[:0:-1]
        self.strides = [tuple(float(s) for s in stride) for stride in strides]
        self.joins = [form.joins_last or n + 1 < len(skips) for n in range(len(skips))]
        self.ups = nn.ModuleList(
            convolution(deep, skip, 1)
            for deep, skip in zip(form.features[:0:-1], skips, strict=True)
        )
        self.stages = nn.ModuleList(
            _stage((2 if joins else 1) * skip, skip, blocks, kernel, (1,) * form.dimensions)
            for joins, skip, blocks, kernel in zip(
                self.joins, skips, form.decoder_blocks, form.kernel_sizes[-2::-1], strict=True
            )
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """The decoder's map at each resolution, coarsest first."""
        *skips, x = maps
        levels = []
        for up, stage, stride, joins in zip(
            self.ups, self.stages, self.strides, self.joins, strict=True
        ):
            skip = skips.pop()
            x = functional.interpolate(up(x), scale_factor=list(stride), mode="nearest")
            x = stage(torch.cat([x, skip], dim=1) if joins else x)
            levels.append(x)
        return levels


class PlannedResidualBlock(nn.Module):
    """Two convolutions with norm and leaky ReLU, added to their input.

    With `projects` the input goes through a 1x1 convolution of the block's stride, with bias and
    without norm, also where its size would not ask for it.
    """

    def __init__(
        self, *, in_channels: int, out_channels: int, kernel: Sides, stride: Sides, projects: bool
    ) -> None:
        super().__init__()
        dimensions = len(kernel)
        convolution, norm = CONVOLUTIONS[dimensions], INSTANCE_NORMS[dimensions]
        padding, kernel, stride = tuple(k // 2 for k in kernel), tuple(kernel), tuple(stride)
        self.conv1 = convolution(in_channels, out_channels, kernel, stride, padding)
        self.norm1 = norm(out_channels, affine=True)
        self.conv2 = convolution(out_channels, out_channels, kernel, 1, padding)
        self.norm2 = norm(out_channels, affine=True)
        self.shortcut = (
            convolution(in_channels, out_channels, 1, stride) if projects else nn.Identity()
        )

    def forward(self, x: Float[Tensor, "b c ..."]) -> Float[Tensor, "b d ..."]:
        """The block's output."""
        hidden = _rectified(self.norm1, self.conv1(x), None)
        return _rectified(self.norm2, self.conv2(hidden), self.shortcut(x))


def _rectified(norm: nn.Module, x: Tensor, residual: Tensor | None) -> Tensor:
    if isinstance(norm, InstanceNorm3d):
        return norm(x, residual, _SLOPE, overwrite=True)
    y = norm(x)
    return functional.leaky_relu(y if residual is None else y + residual, _SLOPE)


def residual_mixer(form: HybridForm, stage: int) -> PlannedResidualBlock:
    """A residual block in the place of a layer that looks far."""
    features = form.features[stage]
    return PlannedResidualBlock(
        in_channels=features,
        out_channels=features,
        kernel=form.kernel_sizes[stage],
        stride=(1,) * form.dimensions,
        projects=False,
    )


def _stage(
    in_channels: int, out_channels: int, blocks: int, kernel: Sides, stride: Sides
) -> nn.Sequential:
    first = PlannedResidualBlock(
        in_channels=in_channels,
        out_channels=out_channels,
        kernel=kernel,
        stride=stride,
        projects=True,
    )
    further = (
        PlannedResidualBlock(
            in_channels=out_channels,
            out_channels=out_channels,
            kernel=kernel,
            stride=(1,) * len(kernel),
            projects=False,
        )
        for _ in range(blocks - 1)
    )
    return nn.Sequential(first, *further)
