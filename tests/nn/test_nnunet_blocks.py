"""nnU-Net's blocks as one pass against those of dynamic-network-architectures."""

import copy

import pytest
import torch
from dynamic_network_architectures.building_blocks.residual import BasicBlockD
from dynamic_network_architectures.building_blocks.simple_conv_blocks import ConvDropoutNormReLU
from torch import Tensor, nn

from medseg.nn.drop_in import drop_in
from medseg.nn.kernels import choose_kernels
from medseg.nn.nnunet_blocks import ResidualBlock, Unit, fuse_blocks

LAYERS = {
    "conv_op": nn.Conv3d,
    "kernel_size": (3, 3, 3),
    "conv_bias": True,
    "norm_op": nn.InstanceNorm3d,
    "norm_op_kwargs": {"affine": True},
    "nonlin": nn.LeakyReLU,
    "nonlin_kwargs": {"inplace": True},
}


def _network(**changes: object) -> nn.Sequential:
    """A convolution, a residual block of its size, one that halves, and one that widens."""
    layers = LAYERS | changes
    network = nn.Sequential(
        ConvDropoutNormReLU(input_channels=2, output_channels=6, stride=1, **layers),
        BasicBlockD(input_channels=6, output_channels=6, stride=1, **layers),
        BasicBlockD(input_channels=6, output_channels=10, stride=2, **layers),
        BasicBlockD(input_channels=10, output_channels=12, stride=1, **layers),
    )
    for module in network.modules():
        if isinstance(module, nn.InstanceNorm3d) and module.affine:
            nn.init.uniform_(module.weight, 0.3, 2)
            nn.init.normal_(module.bias)
    return network


def _fused(network: nn.Sequential) -> nn.Sequential:
    made = copy.deepcopy(network)
    drop_in(made)
    fuse_blocks(made)
    return made


def _run(network: nn.Module, x: Tensor) -> list[Tensor]:
    """The result, and the gradients of the image and of all weights."""
    image = x.clone().requires_grad_()
    y = network(image.contiguous(memory_format=torch.channels_last_3d))
    leaves = [image, *network.parameters()]
    slope = torch.linspace(0, 9, y.numel(), dtype=y.dtype).sin().view_as(y)
    return [y.detach(), *torch.autograd.grad(y, leaves, slope)]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"norm_op_kwargs": {"affine": False}},
        {"dropout_op": nn.Dropout3d, "dropout_op_kwargs": {"p": 0.0}},
    ],
    ids=["affine", "plain norm", "dropout"],
)
@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 5e-4), (torch.float64, 1e-12)])
def test_results_and_gradients_are_those_of_the_library(changes, dtype, near) -> None:
    """In single precision by the kernels, in double by torch's own operations."""
    network = _network(**changes).to(dtype)
    fused, x = _fused(network), torch.randn(2, 2, 12, 10, 8, dtype=dtype)
    expected = _run(network.double(), x.double())
    for setting in ("fast", "reference"):
        choose_kernels(fused, setting)
        found = _run(fused, x)
        assert len(found) == len(expected) > 10
        for ours, exact in zip(found, expected, strict=True):
            limit = near * (1 + exact.abs().max())
            assert (ours.double() - exact).abs().max() <= limit


def test_names_and_shapes_of_weights_stay_and_every_block_is_one_of_ours() -> None:
    network = _network()
    fused = _fused(network)
    assert fused.state_dict().keys() == network.state_dict().keys()
    assert sum(isinstance(module, ResidualBlock) for module in fused) == 3
    # The first, two a block, and one for each change of channels.
    assert sum(isinstance(module, Unit) for module in fused.modules()) == 9


@pytest.mark.parametrize(
    "changes",
    [
        {"nonlin": nn.ReLU},
        {"stochastic_depth_p": 0.1},
        {"squeeze_excitation": True},
        {"norm_op": nn.BatchNorm3d},
    ],
    ids=["ReLU", "stochastic depth", "squeeze", "batch norm"],
)
def test_other_blocks_are_left_alone(changes) -> None:
    block = BasicBlockD(input_channels=4, output_channels=6, stride=1, **(LAYERS | changes))
    x = torch.randn(1, 4, 6, 6, 6, dtype=torch.float64)
    block = block.double().eval()
    fused = _fused(nn.Sequential(block))
    assert type(fused[0]) is BasicBlockD
    found, expected = fused(x), block(x)
    assert torch.allclose(found, expected, rtol=1e-10, atol=1e-12)
    found.sum().backward()  # what a norm keeps was not written over


def test_half_is_kept_between_the_passes() -> None:
    """Of a block of one size: the two maps that its convolutions keep, and the result."""
    block = BasicBlockD(input_channels=16, output_channels=16, stride=1, **LAYERS)
    x = torch.randn(1, 16, 24, 24, 24).contiguous(memory_format=torch.channels_last_3d)
    fused, maps = _fused(nn.Sequential(block)), []
    held: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.numel() == x.numel():
            held[tensor.untyped_storage().data_ptr()] = tensor.detach()
        return tensor

    for network in (block, fused):
        held.clear()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            _result = network(x.clone().requires_grad_())
        maps.append(len(held))
    assert maps == [5, 3]
