"""One contract for every network a recipe can name, and for each of its forms."""

import copy
import inspect
import itertools
import pickle

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from medseg.fault import InputFault
from medseg.losses.deep import DeepSupervisionLoss
from medseg.losses.dice_ce import DiceCELoss
from medseg.models.catalog import CATALOG, ModelEntry
from medseg.models.cost import cost
from medseg.recipe.models import section_of_network
from medseg_kernels import native
from tests.models.small import CLASSES, SMALL, image, network, section, task

FROM_TASK = {"self", "in_channels", "out_channels", "patch_size", "spacing_mm"}
FORMS = [(name, form) for name, small in SMALL.items() for form in ("", *small.forms)]

each_network = pytest.mark.parametrize("name", SMALL)
each_form = pytest.mark.parametrize(("name", "form"), FORMS)
each_entry = pytest.mark.parametrize("entry", CATALOG, ids=lambda entry: entry.name)


def test_every_network_of_the_catalog_is_held_to_the_contract() -> None:
    assert {entry.name for entry in CATALOG} == set(SMALL)


@each_network
def test_settings_and_defaults_are_those_of_the_network(name: str) -> None:
    taken = {
        key: parameter.default
        for key, parameter in inspect.signature(SMALL[name].builds).parameters.items()
        if key not in FROM_TASK
    }
    made = section_of_network(name)
    arguments = made.model_fields.keys() - {"name", *made.not_arguments}
    defaults = {key: made.model_fields[key].get_default() for key in arguments}
    assert taken == defaults


@each_entry
def test_parameters_and_multiply_adds_are_those_stated(entry: ModelEntry) -> None:
    example = entry.example
    whole = section_of_network(entry.name)(name=entry.name)
    with torch.device("meta"):
        model = whole.build(
            task(example.patch_size, channels=example.in_channels, classes=example.out_channels)
        )
    found = cost(model, in_channels=example.in_channels, patch_size=example.patch_size)
    assert found.parameters == example.parameters
    assert found.gmacs == pytest.approx(example.gmacs, rel=5e-3)


@each_form
def test_training_and_evaluation_give_logits_of_the_size_of_the_patch(name: str, form: str) -> None:
    model, patch = network(name, form), image(name, batch=3)
    levels = _levels(model.train()(patch))
    assert len(levels) == (1 if "single" in form else SMALL[name].levels)
    assert levels[0].shape == (3, CLASSES, *patch.shape[2:])
    for finer, coarser in itertools.pairwise(levels):
        assert coarser.shape[2:].numel() < finer.shape[2:].numel()
    with torch.no_grad():
        logits = model.eval()(patch)
    assert isinstance(logits, Tensor)
    assert logits.shape == (3, CLASSES, *patch.shape[2:])
    assert logits.isfinite().all()


@each_form
def test_each_parameter_has_a_gradient_of_the_loss(name: str, form: str) -> None:
    """Distributed training waits for a gradient of every parameter."""
    model, patch = network(name, form).train(), image(name, batch=2)
    target = torch.zeros(2, 1, *patch.shape[2:], dtype=torch.uint8)
    target[:, :, patch.shape[2] // 2 :] = 1
    target[:, :, :, patch.shape[3] // 2 :] = 2
    loss = DeepSupervisionLoss(DiceCELoss())(model(patch), target)
    loss.backward()
    assert loss.isfinite()
    gradients = {key: weight.grad for key, weight in model.named_parameters()}
    assert [key for key, gradient in gradients.items() if gradient is None] == []
    assert all(gradient.isfinite().all() for gradient in gradients.values())


@each_form
def test_no_parameter_is_without_effect(name: str, form: str) -> None:
    """The sum over all levels depends on every parameter, or it were dead weight."""
    model, patch = network(name, form).train(), image(name, batch=2)
    _wake(model)
    levels = _levels(model(patch))
    torch.stack([(one * one.detach().sin()).sum() for one in levels]).sum().backward()
    dead = [
        key
        for key, weight in model.named_parameters()
        if weight.grad is None or not weight.grad.any()
    ]
    assert dead == []


@each_form
def test_saved_weights_give_a_fresh_network_the_same_logits(name: str, form: str) -> None:
    first, second = (network(name, form, seed=seed).eval() for seed in (0, 1))
    patch = image(name)
    with torch.no_grad():
        expected = first(patch)
        assert not torch.equal(second(patch), expected)
        # safetensors refuses two names for one tensor, so there are none
        second.load_state_dict(load(save(first.state_dict())))
        assert torch.equal(second(patch), expected)


@each_form
def test_a_network_goes_to_another_process(name: str, form: str) -> None:
    model, patch = network(name, form).eval(), image(name)
    with torch.no_grad():
        assert torch.equal(pickle.loads(pickle.dumps(model))(patch), model(patch))  # noqa: S301


@each_form
def test_a_step_is_the_same_each_time(name: str, form: str) -> None:
    """Two copies take one step each and end with the same weights, bit for bit."""
    model = network(name, form).train()
    after = []
    for one in (model, copy.deepcopy(model)):
        torch.manual_seed(7)
        optimizer = torch.optim.SGD(one.parameters(), lr=1e-3)
        torch.stack([level.square().mean() for level in _levels(one(image(name)))]).sum().backward()
        optimizer.step()
        after.append(one.state_dict())
    assert all(torch.equal(after[0][key], after[1][key]) for key in after[0])


@each_form
def test_bf16_stays_near_float32(name: str, form: str) -> None:
    model, patch = network(name, form).eval(), image(name)
    with torch.no_grad():
        expected = model(patch)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = model(patch)
    assert (found.float() - expected).abs().mean() / expected.std() < SMALL[name].bf16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        levels = _levels(model.train()(patch))
    torch.stack([level.float().square().mean() for level in levels]).sum().backward()
    assert all(weight.grad.isfinite().all() for weight in model.parameters())


@each_form
def test_bf16_weights_give_finite_logits(name: str, form: str) -> None:
    reason = SMALL[name].not_bf16
    if reason is not None:
        pytest.skip(reason)
    model = network(name, form).to(torch.bfloat16).eval()
    with torch.no_grad():
        assert model(image(name).bfloat16()).isfinite().all()


@each_network
def test_sizes_outside_the_shape_policy_are_refused_and_the_nearest_works(name: str) -> None:
    model, patch = network(name).eval(), SMALL[name].patch
    policy = section(name).shape_policy(patch, (1.0, 1.0, 1.0))
    assert policy == model.shape_policy
    assert policy.refuses(patch) is None
    smallest = policy.nearest((1, 1, 1))
    assert policy.refuses(smallest) is None
    for size in {smallest, policy.nearest((patch[0] + 1, patch[1] + 1, patch[2] + 1))}:
        with torch.no_grad():
            logits = model(torch.randn(1, 2, *size))
        assert logits.shape == (1, CLASSES, *size)
        assert logits.isfinite().all()
    if policy.refuses((1, 1, 1)) is None:
        return
    with pytest.raises(InputFault) as fault:
        model(torch.randn(1, 2, 1, 1, 1))
    assert fault.value.code == "E_SHAPE"


def _kept_mb(name: str) -> float:
    """What autograd holds between the passes in training, without the parameters."""
    model, kept = network(name).train(), {}
    own = {weight.untyped_storage().data_ptr() for weight in model.parameters()}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        _output = model(image(name))
    return sum(kept.values()) / 2**20


@each_network
def test_training_keeps_no_more_memory_than_stated(name: str) -> None:
    assert 0 < _kept_mb(name) < 1.02 * SMALL[name].kept_mb


@each_network
def test_what_is_stated_is_what_training_keeps_without_a_compiler(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In C convolutions keep no padded copies of small maps, and norms their results alone."""
    monkeypatch.setattr(native, "COMPILERS", ())
    native.forget()
    try:
        assert 0.9 * SMALL[name].kept_mb < _kept_mb(name) < 1.02 * SMALL[name].kept_mb
    finally:
        native.forget()


@each_form
def test_an_exported_network_gives_the_same_logits(name: str, form: str) -> None:
    reason = SMALL[name].not_exported
    if reason is not None:
        pytest.skip(reason)
    model, patch = network(name, form).eval(), image(name)
    exported = torch.export.export(model, (patch,), strict=False)
    with torch.no_grad():
        found, expected = exported.module()(patch), model(patch)
    # Norms of a few voxels enlarge what rounding leaves, and logits may be as large as 50.
    range_of_logits = (expected.max() - expected.min()).item()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * range_of_logits)


def _levels(outputs: Tensor | list[Tensor]) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


def _wake(model: nn.Module) -> None:
    """Weights that begin at zero hide what stands before them."""
    with torch.no_grad():
        for weight in model.parameters():
            if not weight.any():
                weight.normal_(std=0.1)
