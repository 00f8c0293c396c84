"""Networks in eight bits stay near themselves, and leave the network they are made of alone."""

import pytest
import torch
from torch import nn

from medseg.fault import InputFault
from medseg.inference.blend import without_head
from medseg.inference.predictor import Predictor
from medseg.inference.settings import WalkSettings
from medseg.nn.int8 import Int8Convolution, in_int8, refuses
from medseg.preprocess.normalise import Normalisation
from medseg.preprocess.record import Preprocessing
from medseg.volume import LabelTable, Target, Task
from tests.models.small import SMALL, image, network

_told = refuses(torch.device("cpu"))
fast = pytest.mark.skipif(_told is not None, reason=str(_told))

# The widest layers of the small forms decide: below eight channels nothing is rounded.
ROUNDED = {"swin_unetr": 10, "nnunet_plain": 4, "nnunet_resenc": 4, "segresnet": 4, "u_mamba": 4}


@pytest.mark.parametrize("name", ROUNDED)
def test_logits_stay_near_those_in_floats(name: str) -> None:
    model, patch = network(name).eval(), image(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    rounded = in_int8(model)
    found = [module for module in rounded.modules() if isinstance(module, Int8Convolution)]
    assert len(found) >= ROUNDED[name]
    with torch.no_grad():
        expected, made = model(patch), rounded(patch)
    # Weights at random, which no training has made robust.
    assert 0 < (made - expected).std() / expected.std() < 0.2
    assert not any(isinstance(module, Int8Convolution) for module in model.modules())
    after = model.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_what_multiplies_each_channel_alone_stays_in_floats() -> None:
    model = nn.Sequential(
        nn.Conv3d(2, 16, 3, padding=1),
        nn.Conv3d(16, 16, 3, padding=1, groups=16),
        nn.Conv3d(16, 16, 3, padding=2, dilation=2),
        nn.Conv3d(16, 16, 3, padding=1, padding_mode="reflect"),
        nn.Conv3d(16, 16, 3, padding="same"),
        nn.Conv3d(16, 16, 3, stride=2, padding=1),
        nn.Conv3d(16, 3, 1),
    )
    kinds = [type(module) for module in in_int8(model)]
    assert kinds == [*[nn.Conv3d] * 5, Int8Convolution, nn.Conv3d]


def test_the_head_of_a_network_in_eight_bits_is_found() -> None:
    rounded = in_int8(network("swin_unetr").eval())
    patch = image("swin_unetr")
    parts = without_head(rounded, tuple(patch.shape))
    assert parts is not None
    with torch.no_grad():
        logits = torch.einsum("of,bfijk->boijk", parts.weight, parts.trunk(patch))
        logits += parts.bias[:, None, None, None]
        torch.testing.assert_close(logits, rounded(patch), rtol=1e-4, atol=1e-4)


def _predictor(device: str, precision: str) -> Predictor:
    table = LabelTable.from_names({1: "one", 2: "two"})
    return Predictor(
        models=(network("swin_unetr"),),
        task=Task(("a", "b"), Target(table), (1.0, 1.0, 1.0), SMALL["swin_unetr"].patch),
        preprocessing=Preprocessing((1.0, 1.0, 1.0), (Normalisation("none"),) * 2),
        settings=WalkSettings(precision=precision),
        device=device,
    )


@fast
def test_a_predictor_works_in_eight_bits_when_asked() -> None:
    patch = image("swin_unetr")[0]
    exact, rounded = (
        _predictor("cpu", precision).logits(patch) for precision in ("float32", "int8")
    )
    assert 0 < (rounded - exact).std() / exact.std() < 0.1


def test_a_device_without_eight_bits_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medseg.nn.int8.refuses_map", lambda _x: "it has no bytes")
    with pytest.raises(InputFault, match="precision int8: it has no bytes") as fault:
        _predictor("cpu", "int8")
    assert fault.value.code == "E_DEVICE"
