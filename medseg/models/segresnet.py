"""SegResNet, the residual encoder-decoder that won BraTS 2018, without its autoencoder branch.

Myronenko, 3D MRI brain tumor segmentation using autoencoder regularization (BrainLes 2018). The
layers are MONAI's. What is added: deep supervision, by one output head a decoder resolution, made
like the network's own; it is off by default, as in the paper.
"""

from jaxtyping import Float
from monai.networks.nets.segresnet import SegResNet as SuppliedSegResNet
from torch import Tensor, nn

from medseg.fault import InputFault
from medseg.models.shape import ShapePolicy

GROUPS = 8


class SegResNet(nn.Module):
    """SegResNet with `base_features` channels at full resolution, doubled at each halving.

    `blocks_down` and `blocks_up` count the residual blocks of each encoder and decoder stage.
    In training with `deep_supervision` it returns logits at each decoder resolution, the full one
    first; else the logits at full resolution.

    Raises:
        InputFault: `base_features` cannot be normalized in groups of 8, or the two block lists do
            not meet.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        base_features: int = 16,
        blocks_down: tuple[int, ...] = (1, 2, 2, 4),
        blocks_up: tuple[int, ...] = (1, 1, 1),
        dropout_rate: float = 0.0,
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        _refuse(base_features, blocks_down, blocks_up)
        self.deep_supervision = deep_supervision
        side = 2 ** len(blocks_up)
        self.shape_policy = ShapePolicy(divisor=(side, side, side), minimum=(side, side, side))
        self.network = SuppliedSegResNet(
            spatial_dims=3,
            init_filters=base_features,
            in_channels=in_channels,
            out_channels=out_channels,
            dropout_prob=dropout_rate or None,
            norm=("GROUP", {"num_groups": GROUPS}),
            blocks_down=blocks_down,
            blocks_up=blocks_up,
        )
        coarser = range(1, len(blocks_up)) if deep_supervision else ()
        self.coarser_heads = nn.ModuleList(
            _head(base_features * 2**level, out_channels) for level in reversed(coarser)
        )

    def forward(self, x: Float[Tensor, "b c i j k"]) -> Tensor | list[Tensor]:
        """Logits "b o i j k", or a list of them, each half the size of the one before."""
        self.shape_policy.require(tuple(x.shape[2:]), "SegResNet")
        if not (self.deep_supervision and self.training):
            return self.network(x)
        below, skips = self.network.encode(x)
        skips.pop()
        levels = []
        for up, blocks in zip(self.network.up_samples, self.network.up_layers, strict=True):
            below = blocks(up(below) + skips.pop())
            levels.append(below)
        heads = (*self.coarser_heads, self.network.conv_final)
        return [head(level) for head, level in zip(heads, levels, strict=True)][::-1]


def _head(features: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.GroupNorm(GROUPS, features),
        nn.ReLU(inplace=True),
        nn.Conv3d(features, out_channels, kernel_size=1),
    )


def _refuse(base_features: int, blocks_down: tuple[int, ...], blocks_up: tuple[int, ...]) -> None:
    if base_features < GROUPS or base_features % GROUPS:
        raise InputFault(
            f"base_features {base_features}: segresnet normalizes in {GROUPS} groups, so it must "
            f"be a multiple of {GROUPS}; nearest {max(1, round(base_features / GROUPS)) * GROUPS}.",
            code="E_MODEL",
        )
    if len(blocks_down) != len(blocks_up) + 1 or not blocks_up:
        raise InputFault(
            f"blocks_down {blocks_down}, blocks_up {blocks_up}: the encoder has one stage more "
            "than the decoder, and the decoder at least one.",
            code="E_MODEL",
        )
