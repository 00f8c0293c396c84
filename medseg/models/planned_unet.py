"""nnU-Net's UNets exactly as a plans file describes them, for weights that nnU-Net trained.

The layers are those of dynamic-network-architectures, as in nnunetv2, with every name that they
have there. What a plans file may name is listed here: nothing is imported by name.
"""

import math
from collections.abc import Mapping
from typing import Any

from dynamic_network_architectures.architectures.unet import (
    PlainConvUNet,
    ResidualEncoderUNet,
    ResidualUNet,
)
from dynamic_network_architectures.building_blocks.residual import BasicBlockD, BottleneckD
from jaxtyping import Float
from torch import Tensor, nn

from medseg.fault import InputFault
from medseg.models.shape import ShapePolicy
from medseg.nn.drop_in import drop_in
from medseg.nn.nnunet_blocks import fuse_blocks

ARCHITECTURES = {kind.__name__: kind for kind in (PlainConvUNet, ResidualEncoderUNet, ResidualUNet)}
LAYERS = {
    kind.__name__: kind
    for kind in (
        nn.Conv2d,
        nn.Conv3d,
        nn.InstanceNorm2d,
        nn.InstanceNorm3d,
        nn.BatchNorm2d,
        nn.BatchNorm3d,
        nn.Dropout2d,
        nn.Dropout3d,
        nn.LeakyReLU,
        nn.ReLU,
        nn.ELU,
        nn.GELU,
        nn.SiLU,
        nn.PReLU,
        BasicBlockD,
        BottleneckD,
    )
}
NAMED = ("conv_op", "norm_op", "dropout_op", "nonlin", "block")


class PlannedUNet(nn.Module):
    """A network of dynamic-network-architectures; a network of planes gets one plane at a time."""

    def __init__(self, network: nn.Module, *, is_flat: bool, policy: ShapePolicy) -> None:
        super().__init__()
        drop_in(network)
        fuse_blocks(network)
        self.network = network
        self.is_flat = is_flat
        self.shape_policy = policy

    def forward(self, x: Float[Tensor, "b c i j k"]) -> Float[Tensor, "b o i j k"]:
        """Logits at full resolution."""
        return self.network(x[:, :, 0])[:, :, None] if self.is_flat else self.network(x)


def planned_unet(
    *, architecture: str, arguments: Mapping[str, Any], in_channels: int, out_channels: int
) -> PlannedUNet:
    """The network `architecture` with the `arguments` of a plans file, layers by their names.

    Raises:
        InputFault: an architecture, a layer or an argument that it does not know (E_PLANS).
    """
    if architecture not in ARCHITECTURES:
        raise InputFault(
            f"network {architecture}: medseg builds {', '.join(ARCHITECTURES)} of nnU-Net's "
            "plans; a network of somebody's own cannot be imported.",
            code="E_PLANS",
        )
    given = {name: _layer(value) if name in NAMED else value for name, value in arguments.items()}
    try:
        network = ARCHITECTURES[architecture](
            input_channels=in_channels,
            num_classes=out_channels,
            **{**given, "deep_supervision": False},
        )
    except (TypeError, ValueError, AssertionError, KeyError, IndexError) as error:
        raise InputFault(
            f"network {architecture}: the arguments of the plans do not build it ({error}); they "
            "are of another version of nnU-Net, or were edited.",
            code="E_PLANS",
        ) from error
    is_flat = given["conv_op"] is nn.Conv2d
    return PlannedUNet(network, is_flat=is_flat, policy=_policy(arguments["strides"], is_flat))


def _layer(name: str | None) -> type[nn.Module] | None:
    if name is None:
        return None
    last = str(name).rpartition(".")[2]
    if last not in LAYERS:
        raise InputFault(
            f"layer {name}: nnU-Net's plans name {', '.join(LAYERS)}; another one is not imported.",
            code="E_PLANS",
        )
    return LAYERS[last]


def _policy(strides: list, is_flat: bool) -> ShapePolicy:
    dims = 2 if is_flat else 3
    every = [[one] * dims if isinstance(one, int) else list(one) for one in strides]
    sides = [math.prod(stage[axis] for stage in every) for axis in range(dims)]
    i, j, k = [1] * (3 - dims) + sides
    # Instance norm needs two voxels at the bottleneck.
    return ShapePolicy(divisor=(i, j, k), minimum=(i, j, k), voxels=2 * i * j * k)


def trained_with_batch_norm(state: Mapping[str, Tensor]) -> bool:
    """Whether weights are of a network with batch norm, which keeps running means."""
    return any(name.endswith(".running_mean") for name in state)


def load_nnunet_weights(model: PlannedUNet, state: Mapping[str, Any]) -> None:
    """Load the weights of a checkpoint by nnU-Net's names; each must be there and fit.

    Raises:
        InputFault: they are of another network (E_WEIGHTS).
    """
    plain = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    wanted = model.network.state_dict()
    strange = sorted(plain.keys() ^ wanted.keys())
    strange += [
        f"{name} {_shape(plain[name])} for {_shape(wanted[name])}"
        for name in wanted
        if name in plain and _shape(plain[name]) != _shape(wanted[name])
    ]
    if strange:
        raise InputFault(
            f"{len(strange)} weights are not those of the network that the plans describe "
            f"({', '.join(strange[:3])}); the trainer built a network of its own, which cannot be "
            "imported.",
            code="E_WEIGHTS",
        )
    model.network.load_state_dict(plain)


def _shape(value: Any) -> tuple[int, ...] | str:
    return tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
