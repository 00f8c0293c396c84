"""The baselines: their suppliers' networks behind our interface, held to the originals."""

import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from monai.networks.nets.mednext import create_mednext
from monai.networks.nets.segresnet import SegResNet as SuppliedSegResNet
from torch import nn

from medseg.fault import InputFault
from medseg.models.mednext import MedNeXt
from medseg.models.nnunet import plain_unet, residual_unet
from medseg.models.segresnet import SegResNet
from medseg.models.topology import topology
from medseg.nn.kernels import choose_kernels

PATCH = (16, 24, 16)
ISOTROPIC = (1.0, 1.0, 1.0)


def small_plain(*, deep_supervision):
    return plain_unet(
        in_channels=2,
        out_channels=3,
        patch_size=PATCH,
        spacing_mm=ISOTROPIC,
        base_features=4,
        deep_supervision=deep_supervision,
    )


def small_residual(*, deep_supervision):
    return residual_unet(
        in_channels=2,
        out_channels=3,
        patch_size=PATCH,
        spacing_mm=ISOTROPIC,
        size="s",
        base_features=4,
        deep_supervision=deep_supervision,
    )


def small_mednext(*, deep_supervision):
    return MedNeXt(
        in_channels=2, out_channels=3, base_features=4, deep_supervision=deep_supervision
    )


def small_segresnet(*, deep_supervision):
    return SegResNet(
        in_channels=2, out_channels=3, base_features=8, deep_supervision=deep_supervision
    )


BUILDERS = {
    "plain": (small_plain, PATCH, 2),
    "residual": (small_residual, PATCH, 2),
    "mednext": (small_mednext, (32, 32, 32), 5),
    "segresnet": (small_segresnet, (16, 24, 16), 3),
}
each_model = pytest.mark.parametrize("name", BUILDERS)


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def patch_of(name, *, batch=1):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, 2, *BUILDERS[name][1], generator=generator)


@each_model
def test_the_full_resolution_of_training_is_the_output_of_evaluation(name):
    network = BUILDERS[name][0](deep_supervision=True)
    with torch.no_grad():
        trained, evaluated = network.train()(patch_of(name))[0], network.eval()(patch_of(name))
    torch.testing.assert_close(trained, evaluated)


@each_model
def test_the_smallest_size_of_the_shape_policy_trains(name):
    network = BUILDERS[name][0](deep_supervision=True).train()
    smallest = network.shape_policy.nearest((1, 1, 1))
    assert network.shape_policy.refuses(smallest) is None
    sum(logits.sum() for logits in network(torch.randn(1, 2, *smallest))).backward()


def arguments_of_nnunet(patch_size, spacing_mm, *, base=32):
    form = topology(patch_size, spacing_mm)
    return form, {
        "input_channels": 1,
        "num_classes": 4,
        "n_stages": form.stages,
        "features_per_stage": [min(320, base * 2**n) for n in range(form.stages)],
        "conv_op": nn.Conv3d,
        "kernel_sizes": form.kernel_sizes,
        "strides": form.strides,
        "conv_bias": True,
        "norm_op": nn.InstanceNorm3d,
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": nn.LeakyReLU,
        "nonlin_kwargs": {"inplace": True},
    }


@pytest.mark.parametrize(
    ("patch_size", "spacing_mm", "stages"),
    [
        ((128, 128, 128), (1.0, 1.0, 1.0), 6),
        ((320, 256, 16), (0.625, 0.625, 3.6), 7),
        ((40, 56, 40), (1.0, 1.0, 1.0), 4),
    ],
)
def test_unets_have_the_weights_of_nnunet_stage_by_stage(patch_size, spacing_mm, stages):
    with torch.device("meta"):
        form, shared = arguments_of_nnunet(patch_size, spacing_mm)
        plain = PlainConvUNet(
            **shared, n_conv_per_stage=2, n_conv_per_stage_decoder=2, deep_supervision=True
        )
        residual = ResidualEncoderUNet(
            **shared,
            n_blocks_per_stage=(1, 3, 4, 6, 6, 6, 6)[:stages],
            n_conv_per_stage_decoder=1,
            deep_supervision=True,
        )
        ours = {"in_channels": 1, "out_channels": 4, "patch_size": patch_size}
        our_plain = plain_unet(**ours, spacing_mm=spacing_mm)
        our_medium = residual_unet(**ours, spacing_mm=spacing_mm, size="m")
        our_large = residual_unet(**ours, spacing_mm=spacing_mm, size="l")
    assert form.stages == stages
    assert parameters(our_plain) == parameters(plain)
    assert parameters(our_medium) == parameters(our_large) == parameters(residual)


@pytest.mark.parametrize("kind", ["plain", "residual"])
def test_unets_with_weights_of_nnunet_give_its_logits(kind):
    _, shared = arguments_of_nnunet(PATCH, ISOTROPIC, base=4)
    size = {"in_channels": 1, "out_channels": 4, "patch_size": PATCH, "spacing_mm": ISOTROPIC}
    torch.manual_seed(3)
    if kind == "plain":
        theirs = PlainConvUNet(
            **shared, n_conv_per_stage=2, n_conv_per_stage_decoder=2, deep_supervision=True
        )
        ours = plain_unet(**size, base_features=4)
    else:
        theirs = ResidualEncoderUNet(
            **shared,
            n_blocks_per_stage=(1, 3, 4)[: len(shared["strides"])],
            n_conv_per_stage_decoder=1,
            deep_supervision=True,
        )
        ours = residual_unet(**size, base_features=4, size="m")
    # their checkpoints name each weight more than once; ours are a part of those names
    ours.load_state_dict({key: theirs.state_dict()[key] for key in ours.state_dict()})
    image = torch.randn(1, 1, *PATCH)
    with torch.no_grad():
        expected = theirs(image)
        for our_logits, their_logits in zip(ours(image), expected, strict=True):
            torch.testing.assert_close(our_logits, their_logits, rtol=1e-4, atol=1e-4)
        choose_kernels(ours, "reference")
        for our_logits, their_logits in zip(ours(image), expected, strict=True):
            assert torch.equal(our_logits, their_logits)


def test_residual_blocks_begin_as_the_identity():
    network = small_residual(deep_supervision=False)
    last = [key for key in network.state_dict() if "conv2.all_modules.1.weight" in key]
    assert last
    assert all(network.state_dict()[key].abs().sum() == 0 for key in last)


@pytest.mark.parametrize("size", ["s", "b", "m", "l"])
@pytest.mark.parametrize("kernel_size", [3, 5])
def test_mednext_has_the_weights_of_the_original(size, kernel_size):
    with torch.device("meta"):
        theirs = create_mednext(
            size, in_channels=1, out_channels=4, kernel_size=kernel_size, deep_supervision=True
        )
        ours = MedNeXt(in_channels=1, out_channels=4, size=size, kernel_size=kernel_size)
    shapes = {key: value.shape for key, value in theirs.state_dict().items()}
    assert {key: v.shape for key, v in ours.network.state_dict().items()} == shapes


@pytest.mark.parametrize("kernels", ["fast", "reference"])
def test_mednext_with_monais_weights_gives_its_logits_and_gradients(kernels):
    torch.manual_seed(4)
    theirs = create_mednext("s", in_channels=2, out_channels=3, deep_supervision=False)
    ours = MedNeXt(in_channels=2, out_channels=3, deep_supervision=False)
    ours.network.load_state_dict(theirs.state_dict())
    choose_kernels(ours, kernels)
    image, found = torch.randn(1, 2, 32, 16, 16), []
    for network in (ours, theirs):
        logits = network(image)
        gradients = torch.autograd.grad(logits.square().mean(), list(network.parameters()))
        found.append([logits, *gradients])
    for our_values, their_values in zip(*found, strict=True):
        error = (our_values - their_values).abs().max()
        # Biases before a norm have no gradient but what rounding leaves, 1e-7 here.
        assert error <= 3e-4 * their_values.abs().max().clamp(min=1e-3)


def test_mednext_counts_are_those_of_the_paper():
    """Table 1 of the paper in millions, at kernel 3."""
    with torch.device("meta"):
        counts = {
            size: parameters(MedNeXt(in_channels=1, out_channels=4, size=size)) / 1e6
            for size in ("s", "b", "m", "l")
        }
    assert counts == pytest.approx({"s": 5.6, "b": 10.5, "m": 17.6, "l": 61.8}, rel=0.02)


def test_segresnet_has_the_weights_of_the_original():
    with torch.device("meta"):
        theirs = SuppliedSegResNet(
            init_filters=16, in_channels=4, out_channels=3, blocks_down=(1, 2, 2, 4)
        )
        ours = SegResNet(in_channels=4, out_channels=3)
    assert list(ours.network.state_dict()) == list(theirs.state_dict())
    assert parameters(ours) == parameters(theirs)


def test_a_patch_that_the_unet_cannot_halve_is_refused_with_the_nearest_one():
    with pytest.raises(InputFault, match="35") as fault:
        plain_unet(in_channels=1, out_channels=2, patch_size=(35, 51, 35), spacing_mm=ISOTROPIC)
    assert fault.value.code == "E_PATCH"
    with pytest.raises(InputFault, match="at least one side must be 12"):
        plain_unet(in_channels=1, out_channels=2, patch_size=(4, 4, 4), spacing_mm=ISOTROPIC)


def test_stages_and_blocks_limit_the_residual_unet():
    size = {"in_channels": 1, "out_channels": 2, "patch_size": (64, 64, 64)}
    with torch.device("meta"):
        full = residual_unet(**size, spacing_mm=ISOTROPIC)
        cut = residual_unet(**size, spacing_mm=ISOTROPIC, stages=3, blocks=(1,))
    assert full.topology.stages == 5
    assert cut.topology.stages == 3
    assert cut.shape_policy.divisor == (4, 4, 4)
    assert [len(stage.blocks) for stage in cut.encoder.stages] == [1, 1, 1]


def test_blocks_of_the_plain_unet_count_alike_down_and_up():
    with torch.device("meta"):
        network = plain_unet(
            in_channels=1,
            out_channels=2,
            patch_size=(32, 32, 32),
            spacing_mm=ISOTROPIC,
            blocks=(1, 2, 3, 2),
        )
    down = [len(stage[0].convs) for stage in network.encoder.stages]
    up = [len(stage.convs) for stage in network.decoder.stages]
    assert down == [1, 2, 3, 2]
    assert up == [3, 2, 1]


def test_segresnet_refuses_features_it_cannot_group():
    with pytest.raises(InputFault, match="multiple of 8; nearest 16"):
        SegResNet(in_channels=1, out_channels=2, base_features=13)
    with pytest.raises(InputFault, match="one stage more"):
        SegResNet(in_channels=1, out_channels=2, blocks_down=(1, 2), blocks_up=(1, 1))
