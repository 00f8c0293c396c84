"""Swin UNETR against MONAI's network, and what it promises by itself."""

import numpy as np
import pytest
import torch
from monai.networks.nets.swin_unetr import SwinUNETR as Reference
from torch import Tensor

from medseg.fault import InputFault
from medseg.models.checkpoints.monai_swin_unetr import load_monai, load_monai_encoder, our_name
from medseg.models.swin_unetr import SwinUNETR
from medseg.nn.kernels import choose_kernels
from medseg.nn.swin import PatchMerging


def _pair(*, in_channels: int = 2, theirs=None, **ours):
    """MONAI's network with random weights, and ours filled from it."""
    torch.manual_seed(3)
    reference = Reference(
        in_channels=in_channels, out_channels=3, feature_size=12, **(theirs or {})
    )
    model = SwinUNETR(
        in_channels=in_channels, out_channels=3, feature_size=12, faithful=True, **ours
    )
    load_monai(model, reference.state_dict())
    return reference, model


def _image(*size: int, channels: int = 2, batch: int = 1) -> Tensor:
    return torch.randn((batch, channels, *size), generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize(
    ("size", "batch", "theirs", "ours"),
    [
        ((64, 64, 96), 1, {}, {}),  # windows of 7, 7 and 6 tokens an axis, padding everywhere
        ((64, 32, 32), 2, {}, {}),
        ((64, 32, 32), 1, {"use_v2": True}, {"v2": True}),
        ((64, 64, 32), 1, {"window_size": 4, "depths": (1, 3, 2, 1)},
         {"window_size": 4, "depths": (1, 3, 2, 1)}),
        ((64, 32, 32), 1, {"window_size": (3, 5, 7)}, {"window_size": (3, 5, 7)}),
    ],
    ids=["96 in one axis", "batch of two", "v2", "other windows and depths", "anisotropic windows"],
)  # fmt: skip
def test_output_equals_monai_with_its_weights(size, batch, theirs, ours) -> None:
    reference, model = _pair(theirs=theirs, **ours)
    with torch.no_grad():
        expected = reference(_image(*size, batch=batch))
        assert expected.abs().max() > 0.5
        for kernels, bound in (("reference", 1e-5), ("fast", 1e-4)):
            choose_kernels(model, kernels)
            assert (expected - model(_image(*size, batch=batch))).abs().max() <= bound


def test_gradients_equal_monai_in_double_precision() -> None:
    # Double, because in single precision MONAI's own gradients are off by 4e-3 of their largest
    # entry: leaky ReLU's kink, met at slightly different activations.
    reference, model = (network.double() for network in _pair())
    image, weight = _image(64, 32, 32).double(), torch.linspace(-1, 1, 3).view(1, 3, 1, 1, 1)
    for network in (reference, model):
        (network(image) * weight).square().sum().backward()
    ours = dict(model.named_parameters())
    compared = 0
    for name, parameter in reference.named_parameters():
        expected, found = parameter.grad, ours[our_name(name)].grad
        assert expected is not None
        assert (expected - found).abs().max() <= 1e-8 * expected.abs().max()
        compared += 1
    assert compared == len(ours) == 151


def test_faithful_and_geometric_position_differ_only_where_the_window_is_cut() -> None:
    faithful = _pair(window_size=2, theirs={"window_size": 2})[1]
    geometric = SwinUNETR(in_channels=2, out_channels=3, feature_size=12, window_size=2)
    geometric.load_state_dict(faithful.state_dict())
    with torch.no_grad():
        assert torch.equal(faithful(_image(64, 64, 64)), geometric(_image(64, 64, 64)))
    faithful = _pair()[1]
    geometric = SwinUNETR(in_channels=2, out_channels=3, feature_size=12)
    geometric.load_state_dict(faithful.state_dict())
    with torch.no_grad():
        assert not torch.allclose(faithful(_image(64, 64, 32)), geometric(_image(64, 64, 32)))


def test_legacy_merging_equals_monai_before_1_5(request) -> None:
    golden = np.load(request.config.rootpath / "tests/parity/swin_patchmerging_legacy_v09_14.npz")
    model = SwinUNETR(in_channels=1, out_channels=2, feature_size=12, legacy_merging=True)
    offsets = {stage.merge.offsets for stage in model.encoder.stages}
    assert len(offsets) == 1
    merge = PatchMerging(channels=4, offsets=offsets.pop())
    merge.load_state_dict({
        name.removeprefix("w/"): torch.from_numpy(golden[name])
        for name in golden.files
        if name.startswith("w/")
    })  # fmt: skip
    with torch.no_grad():
        found = merge(torch.from_numpy(golden["x"])).numpy()
    np.testing.assert_allclose(found, golden["y"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({"in_channels": 1, "out_channels": 14, "feature_size": 48}, 62_187_296),
        ({"in_channels": 1, "out_channels": 14, "feature_size": 24}, 15_703_304),
        ({"in_channels": 1, "out_channels": 14, "feature_size": 12}, 4_078_220),
        ({"in_channels": 4, "out_channels": 3, "feature_size": 48}, 62_191_941),
    ],
)
def test_parameter_counts_are_the_published_ones(options, count) -> None:
    with torch.device("meta"):
        model = SwinUNETR(**options)
    assert sum(p.numel() for p in model.parameters()) == count


def test_v2_has_the_published_size() -> None:
    with torch.device("meta"):
        model = SwinUNETR(in_channels=1, out_channels=14, v2=True)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 3) == 72.763


def test_every_parameter_gets_a_gradient() -> None:
    model = SwinUNETR(in_channels=1, out_channels=2, feature_size=12, v2=True, drop_rate=0.1)
    model(_image(64, 32, 32, channels=1)).square().sum().backward()
    idle = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


def test_checkpointed_gradients_are_the_same() -> None:
    plain, frugal = (
        SwinUNETR(in_channels=1, out_channels=2, feature_size=12, gradient_checkpointing=frugal)
        for frugal in (False, True)
    )
    frugal.load_state_dict(plain.state_dict())
    for model in (plain, frugal):
        model(_image(64, 32, 32, channels=1)).square().sum().backward()
    for ours, theirs in zip(plain.parameters(), frugal.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)


def test_randomness_in_training_is_the_global_generator_alone() -> None:
    model = SwinUNETR(
        in_channels=1, out_channels=2, feature_size=12,
        drop_rate=0.1, attention_drop_rate=0.1, drop_path_rate=0.3,
    )  # fmt: skip

    def run(seed: int) -> Tensor:
        torch.manual_seed(seed)
        with torch.no_grad():
            return model(_image(64, 32, 32, channels=1))

    assert torch.equal(run(1), run(1))
    assert not torch.equal(run(1), run(2))
    model.eval()
    assert torch.equal(run(1), run(2))


def test_bfloat16_autocast_stays_near_single_precision() -> None:
    torch.manual_seed(0)
    model = SwinUNETR(in_channels=1, out_channels=2, feature_size=12)
    image = _image(64, 32, 32, channels=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        coarse = model(image)
    coarse.float().square().mean().backward()
    exact = model(image)
    assert coarse.dtype == torch.bfloat16
    assert (coarse - exact).abs().mean() < 0.02 * exact.abs().mean() + 0.02
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("size", [(32, 32, 32), (48, 64, 64), (16, 64, 64)])
def test_a_size_it_cannot_take_is_refused_in_one_sentence(size) -> None:
    model = SwinUNETR(in_channels=1, out_channels=2, feature_size=12)
    with pytest.raises(InputFault, match="multiples of 32x32x32") as caught:
        model(_image(*size, channels=1))
    assert caught.value.code == "E_SHAPE"


@pytest.mark.parametrize(
    "options", [{"feature_size": 16}, {"depths": (2, 2)}, {"heads": (3, 6, 12)}]
)
def test_sizes_that_do_not_fit_each_other_are_refused(options) -> None:
    with pytest.raises(InputFault, match="Swin UNETR"):
        SwinUNETR(**{"in_channels": 1, "out_channels": 2, "feature_size": 12, **options})


def _encoder_state(reference) -> dict[str, Tensor]:
    """What a self-supervised checkpoint holds: the encoder by its old names, and two heads."""
    state = {
        "module."
        + name.removeprefix("swinViT.").replace("linear1", "fc1").replace("linear2", "fc2"): tensor
        for name, tensor in reference.state_dict().items()
        if name.startswith("swinViT.")
    }
    return state | {"module.rotation_head.weight": torch.zeros(4, 2)}


def test_self_supervised_encoder_is_loaded_and_its_heads_left_out() -> None:
    reference, _ = _pair()
    model = SwinUNETR(in_channels=2, out_channels=3, feature_size=12, faithful=True)
    loaded = load_monai_encoder(model, {"state_dict": _encoder_state(reference)})
    assert (loaded.tensors, loaded.indices) == (118, 8)
    assert loaded.left_out == ("rotation_head.weight",)
    with torch.no_grad():
        expected = reference.swinViT(_image(64, 32, 32))
        found = model.encoder(_image(64, 32, 32))
    assert len(found) == 5
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).abs().max() <= 1e-5


def test_all_159_entries_of_monai_have_a_place() -> None:
    state = Reference(in_channels=1, out_channels=14, feature_size=12).state_dict()
    with torch.device("meta"):
        model = SwinUNETR(in_channels=1, out_channels=14, feature_size=12)
    assert len(state) == 159
    names = {our_name(name) for name in state}
    own = set(model.state_dict())
    assert own <= names
    assert {name.rsplit(".", 1)[-1] for name in names - own} == {"relative_position_index"}
    assert len(names - own) == 8


def test_prefixed_and_wrapped_states_load_too() -> None:
    reference, expected = _pair()
    model = SwinUNETR(in_channels=2, out_channels=3, feature_size=12)
    wrapped = {f"module.{name}": tensor for name, tensor in reference.state_dict().items()}
    loaded = load_monai(model, {"state_dict": wrapped, "epoch": 3})
    assert (loaded.tensors, loaded.indices) == (151, 8)
    for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_partial_or_foreign_checkpoint_is_refused_and_loads_nothing() -> None:
    reference, _ = _pair()
    model = SwinUNETR(in_channels=2, out_channels=3, feature_size=12)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = dict(reference.state_dict())
    state["decoder9.strange"] = state.pop("out.conv.conv.weight")
    state["out.conv.conv.bias"] = torch.zeros(5)
    state["swinViT.layers1.0.blocks.0.attn.relative_position_index"] += 1
    with pytest.raises(InputFault) as caught:
        load_monai(model, state)
    assert caught.value.code == "E_CHECKPOINT"
    for words in ("150 of 151", "head.weight: missing", "decoder9.strange: not part",
                  "head.bias: shape (5,)", "another window"):  # fmt: skip
        assert words in str(caught.value)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_a_file_without_tensors_is_refused() -> None:
    model = SwinUNETR(in_channels=2, out_channels=3, feature_size=12)
    with pytest.raises(InputFault, match="no table of tensors"):
        load_monai(model, {"epoch": 3})
