"""nnU-Net's networks: the plain UNet and the UNet with a residual encoder.

Isensee et al., nnU-Net (Nature Methods 2021) and nnU-Net Revisited (MICCAI 2024). The layers are
those of dynamic-network-architectures, initialized as nnunetv2 does it. What differs: the output
heads are given by the mode (a list in training with deep supervision, one tensor otherwise);
without deep supervision the heads nobody reads are not built; and the second names under which
the library registers the same layers are dropped, so a state dict names each weight once.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from dynamic_network_architectures.building_blocks.plain_conv_encoder import PlainConvEncoder
from dynamic_network_architectures.building_blocks.residual import BasicBlockD
from dynamic_network_architectures.building_blocks.residual_encoders import ResidualEncoder
from dynamic_network_architectures.building_blocks.simple_conv_blocks import ConvDropoutNormReLU
from dynamic_network_architectures.building_blocks.unet_decoder import UNetDecoder
from jaxtyping import Float
from torch import Tensor, nn

from medseg.fault import InputFault
from medseg.models.topology import Axes, Spacing, Topology, topology
from medseg.nn.drop_in import drop_in
from medseg.nn.nnunet_blocks import fuse_blocks

Size = Literal["s", "m", "l"]


@dataclass(frozen=True)
class ResidualNumbers:
    """What a named size of the residual-encoder UNet is made of; the last block count repeats."""

    base_features: int
    max_features: int
    blocks: tuple[int, ...]


def residual_small() -> ResidualNumbers:
    """Our own small size, for two CPU cores."""
    return ResidualNumbers(base_features=16, max_features=192, blocks=(1, 2, 2, 2))


def residual_medium() -> ResidualNumbers:
    """ResEnc M."""
    return ResidualNumbers(base_features=32, max_features=320, blocks=(1, 3, 4, 6))


def residual_large() -> ResidualNumbers:
    """ResEnc L: M's network; its larger patch (the plan `resenc_l`) is what makes it large."""
    return residual_medium()


SIZES = {"s": residual_small, "m": residual_medium, "l": residual_large}


def plain_unet(
    *,
    in_channels: int,
    out_channels: int,
    patch_size: Axes,
    spacing_mm: Spacing,
    base_features: int = 32,
    max_features: int = 320,
    blocks: tuple[int, ...] = (2,),
    stages: int | None = None,
    deep_supervision: bool = True,
) -> "NnUNet":
    """nnU-Net's plain UNet, as deep as `patch_size` and `spacing_mm` ask for.

    `blocks` counts the convolutions of each stage, going down and coming up alike (the last number
    repeats); `stages` limits the depth.

    Raises:
        InputFault: `patch_size` cannot be halved as often as the topology wants.
    """
    form = _topology_of(patch_size, spacing_mm, stages)
    network = PlainConvUNet(
        input_channels=in_channels,
        num_classes=out_channels,
        n_conv_per_stage=_repeated(blocks, form.stages),
        # the library counts decoder stages from the bottleneck up
        n_conv_per_stage_decoder=_repeated(blocks, form.stages - 1)[::-1],
        **_layers(form, base_features, max_features),
    )
    network.apply(PlainConvUNet.initialize)
    return NnUNet(
        encoder=network.encoder, decoder=network.decoder, form=form, deep=deep_supervision
    )


def residual_unet(
    *,
    in_channels: int,
    out_channels: int,
    patch_size: Axes,
    spacing_mm: Spacing,
    size: Size = "m",
    base_features: int | None = None,
    max_features: int | None = None,
    blocks: tuple[int, ...] | None = None,
    stages: int | None = None,
    deep_supervision: bool = True,
) -> "NnUNet":
    """nnU-Net's UNet with a residual encoder, as deep as `patch_size` and `spacing_mm` ask for.

    `base_features`, `max_features` and `blocks` (residual blocks of each encoder stage, the last
    number repeats) are those of `size` where they are None; `stages` limits the depth.

    Raises:
        InputFault: `patch_size` cannot be halved as often as the topology wants.
    """
    numbers = SIZES[size]()
    form = _topology_of(patch_size, spacing_mm, stages)
    network = ResidualEncoderUNet(
        input_channels=in_channels,
        num_classes=out_channels,
        n_blocks_per_stage=_repeated(blocks or numbers.blocks, form.stages),
        n_conv_per_stage_decoder=(1,) * (form.stages - 1),
        **_layers(
            form, base_features or numbers.base_features, max_features or numbers.max_features
        ),
    )
    network.apply(ResidualEncoderUNet.initialize)
    return NnUNet(
        encoder=network.encoder, decoder=network.decoder, form=form, deep=deep_supervision
    )


class NnUNet(nn.Module):
    """An encoder and a decoder of dynamic-network-architectures behind our interface.

    In training with `deep` it returns logits at each decoder resolution, full resolution first;
    else the logits at full resolution.
    """

    def __init__(
        self,
        *,
        encoder: PlainConvEncoder | ResidualEncoder,
        decoder: UNetDecoder,
        form: Topology,
        deep: bool,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.topology = form
        self.deep_supervision = deep
        self.shape_policy = form.shape_policy
        if not deep:
            decoder.seg_layers = nn.ModuleList([decoder.seg_layers[-1]])
        _drop_second_names(self)
        drop_in(self)
        fuse_blocks(self)

    def forward(self, x: Float[Tensor, "b c i j k"]) -> Tensor | list[Tensor]:
        """Logits "b o i j k", or a list of them, each half the size of the one before."""
        self.shape_policy.require(tuple(x.shape[2:]), "nnU-Net")
        *skips, below = self.encoder(x)
        levels = []
        for up, stage in zip(self.decoder.transpconvs, self.decoder.stages, strict=True):
            below = stage(torch.cat((up(below), skips.pop()), dim=1))
            levels.append(below)
        heads = self.decoder.seg_layers
        if self.deep_supervision and self.training:
            return [head(level) for head, level in zip(heads, levels, strict=True)][::-1]
        return heads[-1](levels[-1])


def _topology_of(patch_size: Axes, spacing_mm: Spacing, stages: int | None) -> Topology:
    form = topology(patch_size, spacing_mm)
    if form.stages < 2 or (stages is not None and stages < 2):
        raise InputFault(
            f"patch_size {tuple(patch_size)}, stages {stages}: a UNet halves its patch at least "
            "once, so at least one side must be 12 voxels or two sides 8, and stages 2.",
            code="E_PATCH",
        )
    form = form if stages is None else form.shallower(stages)
    refused = form.shape_policy.refuses(patch_size)
    if refused:
        raise InputFault(f"nnunet: {refused}", code="E_PATCH")
    return form


def _layers(form: Topology, base_features: int, max_features: int) -> dict:
    return {
        "n_stages": form.stages,
        "features_per_stage": form.features(base=base_features, most=max_features),
        "conv_op": nn.Conv3d,
        "kernel_sizes": form.kernel_sizes,
        "strides": form.strides,
        "conv_bias": True,
        "norm_op": nn.InstanceNorm3d,
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": nn.LeakyReLU,
        "nonlin_kwargs": {"inplace": True},
        "deep_supervision": True,
    }


def _repeated(counts: tuple[int, ...], length: int) -> tuple[int, ...]:
    return (*counts, *(counts[-1:] * length))[:length]


def _drop_second_names(network: NnUNet) -> None:
    # The library keeps each layer twice (by name and in a Sequential that runs them), and the
    # whole encoder a second time inside the decoder. Only the names that run are kept.
    del network.decoder.encoder
    for module in list(network.modules()):
        if isinstance(module, ConvDropoutNormReLU):
            for name in {"conv", "norm", "nonlin"} & dict(module.named_children()).keys():
                delattr(module, name)
        # The identity as a lambda cannot be pickled, so it could not go to another process.
        if isinstance(module, BasicBlockD) and not isinstance(module.skip, nn.Module):
            del module.skip
            module.skip = nn.Identity()
