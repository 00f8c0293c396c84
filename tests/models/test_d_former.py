"""D-Former: its sizes and costs, its two modes, its reference's weights."""

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from medseg.fault import InputFault
from medseg.models import d_former
from medseg.models.checkpoints.d_former import load_reference, our_name
from medseg.models.cost import cost
from medseg.models.d_former import DFormer, ExpandingHead
from medseg.models.d_former_sizes import reference_refuses

PAPER = {"token_size": (2, 4, 4), "group_size": (2, 8, 8), "intervals": (8, 4, 2, 1)}
PATCH = (64, 128, 128)


def _small(*, seed: int = 0, **settings) -> DFormer:
    torch.manual_seed(seed)
    narrow = {"feature_size": 12, "group_size": (2, 4, 4), "depths": (2, 2, 2, 2)}
    return DFormer(in_channels=1, out_channels=3, **{**narrow, **settings})


def _image(*size: int, batch: int = 1) -> Tensor:
    return torch.randn((batch, 1, *size), generator=torch.Generator().manual_seed(5))


def _count(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def _whole(**settings) -> DFormer:
    with torch.device("meta"):
        return DFormer(in_channels=1, out_channels=14, **settings)


def test_parameters_are_those_of_the_reference() -> None:
    faithful, one_head = _whole(faithful=True), _whole(deep_supervision=False)
    assert _count(faithful.backbone) == 44_353_344
    assert _count(faithful) == 50_557_248
    assert len(faithful.state_dict()) == 322
    assert _count(one_head) == 44_353_344 + 296_448
    assert [len(_whole().heads), len(faithful.heads), len(one_head.heads)] == [2, 3, 1]


def test_multiply_adds_are_those_of_the_reference() -> None:
    model = _whole(faithful=True)
    backbone = cost(model.backbone, in_channels=1, patch_size=PATCH).gmacs
    heads = [_head_gmacs(head, stage) for stage, head in enumerate(model.heads)]
    assert backbone == pytest.approx(41.7, abs=0.05)
    assert backbone + heads[0] == pytest.approx(52.7, abs=0.05)
    assert backbone + sum(heads) == pytest.approx(60.4, abs=0.05)


def _head_gmacs(head: nn.Module, stage: int) -> float:
    """A linear layer for each token, and one for each of the 32 voxels it becomes."""
    tokens, channels = (32 // 2**stage) ** 3, 96 * 2**stage
    assert _count(head) == channels * 32 * channels + 2 * channels + channels * 14
    return tokens * 32 * channels * (channels + 14) / 1e9


def test_both_modes_are_one_where_nothing_is_padded() -> None:
    faithful, mended = _small(faithful=True, deep_supervision=False), _small(deep_supervision=False)
    mended.load_state_dict(faithful.state_dict())
    image = _image(32, 64, 64, batch=2)
    with torch.no_grad():
        torch.testing.assert_close(faithful(image), mended(image), rtol=1e-5, atol=1e-5)


def test_the_modes_differ_where_the_reference_pads_otherwise() -> None:
    # 3 tokens along the second axis of the last stage: one group there, padded to 2 groups here.
    single = {"token_size": (1, 1, 1), "group_size": (2, 2, 2), "deep_supervision": False}
    faithful, mended = _small(faithful=True, **single), _small(**single)
    mended.load_state_dict(faithful.state_dict())
    image = _image(16, 24, 16)
    with torch.no_grad():
        assert (faithful(image) - mended(image)).abs().max() > 1e-3


def test_a_call_leaves_nothing_behind() -> None:
    model = _small().eval()
    before, image = copy.deepcopy(model.state_dict()), _image(32, 64, 64)
    with torch.no_grad():
        first = model(image)
        model(_image(4, 8, 8))
        assert torch.equal(model(image), first)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("size", [(1, 1, 1), (2, 37, 5), (17, 33, 41), (9, 100, 31)])
def test_every_size_of_input_comes_back(size) -> None:
    model = _small()
    with torch.no_grad():
        full, half = model.train()(_image(*size))
        assert model.eval()(_image(*size)).shape == (1, 3, *size)
    assert full.shape == (1, 3, *size)
    assert half.shape == (1, 3, *(-(-side // 2) for side in size))
    assert full.isfinite().all()
    assert half.isfinite().all()


def test_voxels_that_fill_the_last_token_are_zeros() -> None:
    model, image = _small().eval(), _image(7, 30, 41)
    with torch.no_grad():
        filled = model(nn.functional.pad(image, (0, 3, 0, 2, 0, 1)))
        torch.testing.assert_close(model(image), filled[:, :, :7, :30, :41])


def test_axes_may_change_places_with_the_token_and_the_group() -> None:
    """Depth first or last: the same network, its weights turned."""
    first = _small(deep_supervision=False).eval()
    last = _small(token_size=(4, 4, 2), group_size=(4, 4, 2), deep_supervision=False).eval()
    last.load_state_dict({key: _turned(key, value) for key, value in first.state_dict().items()})
    image = _image(16, 32, 64)
    with torch.no_grad():
        found = last(image.movedim(2, -1)).movedim(-1, 2)
        torch.testing.assert_close(found, first(image), rtol=1e-4, atol=1e-4)


def _turned(key: str, value: Tensor) -> Tensor:
    """A weight for axes (j, k, i) from one for (i, j, k)."""
    if value.ndim == 5:
        return value.movedim(2, -1)
    if "expand.weight" in key and "mlp" not in key:
        cell = (2, 4, 4) if key.startswith("heads") else (2, 2, 2)
        return value.unflatten(0, (*cell, -1)).movedim(0, 2).flatten(0, 3)
    if "merges" in key:
        return value.unflatten(-1, (2, 2, 2, -1)).movedim(-4, -2).flatten(-4)
    return value


def test_without_attention_nothing_of_it_is_left() -> None:
    learned, identity = _small(), _small(mixing="identity")
    left = {key for key in learned.state_dict() if key not in identity.state_dict()}
    assert left == {key for key in learned.state_dict() if ".attention." in key}
    assert len(left) == 4 * 14


def test_a_head_gives_the_same_by_slabs_and_at_once() -> None:
    torch.manual_seed(0)
    head = ExpandingHead(in_channels=96, out_channels=3, token_size=(2, 4, 4))
    tokens = torch.randn(1, 7, 24, 30, 96)
    with torch.no_grad():
        slabs = head(tokens)
    assert tokens.numel() * 32 > 2 * d_former._SLAB
    torch.testing.assert_close(slabs, head(tokens).detach())


def test_an_exported_network_takes_any_number_of_items() -> None:
    model, batch = _small().eval(), {0: torch.export.Dim("batch", max=16)}
    with torch.no_grad():
        exported = torch.export.export(
            model, (_image(9, 32, 33, batch=2),), dynamic_shapes=(batch,), strict=False
        )
        images = _image(9, 32, 33, batch=3)
        torch.testing.assert_close(exported.module()(images), model(images), rtol=1e-4, atol=1e-4)


def test_checkpointed_blocks_have_the_same_gradients() -> None:
    gradients = []
    for again in (False, True):
        model = _small(gradient_checkpointing=again, drop_path_rate=0.2).train()
        torch.manual_seed(1)
        full, half = model(_image(16, 32, 32, batch=2))
        (full.square().mean() + half.square().mean()).backward()
        gradients.append([weight.grad for weight in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("size", [
    (64, 128, 128), (96, 96, 96), (128, 128, 128), (64, 64, 64), (32, 96, 96), (48, 160, 160),
    (16, 160, 160), (32, 128, 128),
])  # fmt: skip
def test_the_reference_s_sizes_are_taken(size) -> None:
    assert reference_refuses(size, **PAPER) is None
    with torch.no_grad():
        assert (
            _whole(faithful=True).eval()(torch.empty(1, 1, *size, device="meta")).shape[2:] == size
        )


@pytest.mark.parametrize(
    ("size", "said"),
    [
        ((64, 224, 224), "28 // 8 with `faithful: true`; the nearest that fits is 64x256x256"),
        ((16, 256, 256), "shorter than its group of 2"),
        ((60, 128, 128), "the nearest is 64x128x128"),
    ],
)
def test_what_the_reference_cannot_take_is_refused_with_what_it_can(size, said) -> None:
    with pytest.raises(InputFault, match=said) as fault:
        _whole(faithful=True)(torch.empty(1, 1, *size, device="meta"))
    assert fault.value.code == "E_SHAPE"
    with torch.no_grad():
        assert _whole()(torch.empty(1, 1, *size, device="meta"))[0].shape[2:] == size


@pytest.mark.parametrize("numbers", [{"heads": (5, 6, 12, 24)}, {"depths": (2, 2, 2)}])
def test_numbers_that_do_not_fit_are_refused(numbers) -> None:
    with pytest.raises(InputFault, match="heads"):
        _small(**numbers)


def test_the_reference_s_names_are_all_known() -> None:
    known = [our_name(name) for name in _reference_names(depths=(2, 2, 6, 2))]
    assert len(known) == 322
    assert set(known) == set(_whole(faithful=True).state_dict())


def _reference_names(*, depths: tuple[int, int, int, int]) -> Iterator[str]:
    """The names in a checkpoint of the public code."""
    parts = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    down, both = "model_down.", ("weight", "bias")

    def with_bias(*names: str) -> Iterator[str]:
        yield from (f"{name}.{kind}" for name in names for kind in both)

    yield from with_bias(f"{down}patch_embed.proj", f"{down}patch_embed.norm")
    stages = [(f"{down}layers.{n}", depth) for n, depth in enumerate(depths)]
    stages += [(f"{down}layers_up.{n}", depths[3 - n]) for n in (1, 2, 3)]
    for stage, depth in stages:
        yield from with_bias(f"{stage}.pos_block.proj.0")
        for n in range(depth):
            yield from with_bias(*(f"{stage}.blocks.{n}.{part}" for part in parts))
    for n in range(3):
        yield f"{down}layers.{n}.downsample.reduction.weight"
        yield from with_bias(f"{down}layers.{n}.downsample.norm")
    for stage in ("layers_up.0", "layers_up.1.upsample", "layers_up.2.upsample"):
        yield f"{down}{stage}.expand.weight"
        yield from with_bias(f"{down}{stage}.norm")
    yield from with_bias(*(f"{down}concat_back_dim.{n}" for n in (1, 2, 3)))
    yield from with_bias(f"{down}norm", f"{down}norm_up")
    for n in range(3):
        yield from (f"final.{n}.{name}.weight" for name in ("0.expand", "0.norm", "1"))
        yield f"final.{n}.0.norm.bias"


def _reference_state(model: DFormer) -> dict[str, Tensor]:
    """The network's weights as a checkpoint of the public code has them."""
    state = model.state_dict()
    named = {name: state[our_name(name)] for name in _reference_names(depths=(2, 2, 2, 2))}
    return {
        name: value[..., None, None, None] if name.endswith(".1.weight") and "final" in name
        else value
        for name, value in named.items()
    }  # fmt: skip


def test_the_reference_s_weights_fill_the_network_and_give_its_logits() -> None:
    first, second = _small(faithful=True, seed=1).eval(), _small(faithful=True, seed=2).eval()
    state = {f"module.{name}": value for name, value in _reference_state(first).items()}
    loaded = load_reference(second, {"state_dict": state})
    assert loaded.tensors == len(state) == len(first.state_dict())
    assert loaded.left_out == ()
    with torch.no_grad():
        assert torch.equal(first(_image(16, 32, 32)), second(_image(16, 32, 32)))


@pytest.mark.parametrize(("deep_supervision", "left"), [(True, 4), (False, 8)])
def test_heads_that_are_not_made_are_left_out_and_told(deep_supervision, left) -> None:
    reference = _small(faithful=True, seed=1)
    model = _small(deep_supervision=deep_supervision)
    loaded = load_reference(model, _reference_state(reference))
    assert len(loaded.left_out) == left
    assert all(name.startswith(("final.1.", "final.2.")) for name in loaded.left_out)
    assert loaded.tensors == len(model.state_dict())


def test_a_state_of_another_network_is_refused_and_nothing_is_loaded() -> None:
    state = _reference_state(_small(faithful=True, seed=1))
    state["final.3.1.weight"] = state.pop("model_down.norm_up.weight")
    model = _small(faithful=True)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InputFault, match=r"final_norm\.weight: missing") as fault:
        load_reference(model, state)
    assert fault.value.code == "E_CHECKPOINT"
    assert "heads.3.mix.weight: not part" in str(fault.value)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
