"""ParaTransCNN against what its authors' network gave, and its sizes."""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medseg.bundle.bundle import load_bundle
from medseg.cli.main import main
from medseg.fault import InputFault
from medseg.models.checkpoints.para_trans_cnn import load_reference
from medseg.models.cost import cost
from medseg.models.para_trans_cnn import ParaTransCNN


@pytest.fixture(scope="module")
def golden(request: pytest.FixtureRequest) -> dict[str, Any]:
    return json.loads(
        (request.config.rootpath / "tests/parity/paratranscnn_dim64.json").read_text()
    )


def _filled(key: str, shape: list[int]) -> np.ndarray:
    """The fixture's weights: normal numbers from the name's checksum, scaled by their kind."""
    drawn = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(shape)
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if key.endswith("running_var"):
        return 1 + 0.1 * np.abs(drawn)
    if key.endswith("running_mean"):
        return 0.05 * drawn
    if len(shape) >= 2:
        return drawn / np.sqrt(np.prod(shape[1:]))
    return 1 + 0.1 * drawn if key.endswith("weight") else 0.05 * drawn


def _state(golden: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(np.asarray(_filled(key, shape))) for key, shape in golden["keys"]}


def _image() -> torch.Tensor:
    drawn = np.random.RandomState(zlib.crc32(b"input:image"))
    return torch.from_numpy(drawn.standard_normal((1, 3, 64, 96)))


def test_logits_are_the_authors_in_double_precision(golden: dict[str, Any]) -> None:
    model = ParaTransCNN(in_channels=3, out_channels=9, size="xs").double().eval()
    assert load_reference(model, _state(golden)).tensors == 377
    with torch.no_grad():
        logits = model(_image()[..., None])[..., 0].numpy()
    expected = golden["outputs"]["logits"]
    assert list(logits.shape) == expected["shape"]
    flat = logits.ravel()
    np.testing.assert_allclose(flat[expected["idx"]], expected["val"], rtol=1e-9, atol=1e-12)
    for name, found in (("mean", flat.mean()), ("std", flat.std(ddof=1)), ("min", flat.min())):
        assert found == pytest.approx(expected[name], rel=1e-9)
    assert np.linalg.norm(flat) == pytest.approx(expected["l2"], rel=1e-9)


def test_the_authors_checkpoint_becomes_a_bundle(golden: dict[str, Any], tmp_path: Path) -> None:
    state = {name: value.float() if value.ndim else value for name, value in _state(golden).items()}
    torch.save(state, tmp_path / "epoch_145.pth")
    words = ["import", "reference", str(tmp_path / "epoch_145.pth"), "model.size=xs"]
    words += [f"data.root={tmp_path / 'nowhere'}", "plan.patch_size=[64,96,1]"]
    words += ["--model", "para_trans_cnn", "--recipe", "synapse_para_trans_cnn"]
    # The fixture has 9 classes and the card 14.
    assert main([*words, "-o", str(tmp_path / "made")]) == 2
    assert not (tmp_path / "made").exists()
    state["out.weight"] = state["out.weight"].repeat(2, 1, 1, 1)[:14]
    state["out.bias"] = state["out.bias"].repeat(2)[:14]
    torch.save(state, tmp_path / "epoch_145.pth")
    assert main([*words, "-o", str(tmp_path / "made")]) == 0
    model = load_bundle(tmp_path / "made").models[0].eval()
    gray = _image().float()[:, :1]
    direct = ParaTransCNN(in_channels=3, out_channels=14, size="xs").eval()
    load_reference(direct, state)
    with torch.no_grad():
        expected = direct(gray.repeat(1, 3, 1, 1)[..., None])
        torch.testing.assert_close(model(gray[..., None]), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("size", "millions", "gflops"),
    [("l", 245.47, 493.8), ("m", 84.6, 171), ("s", 67.7, 135), ("xs", 53.8, 103.5)],
)
def test_sizes_have_the_weights_and_products_of_the_authors_code(size, millions, gflops) -> None:
    with torch.device("meta"):
        model = ParaTransCNN(in_channels=3, out_channels=9, size=size)
    found = cost(model, in_channels=3, patch_size=(224, 224, 1))
    assert found.parameters / 1e6 == pytest.approx(millions, abs=0.06)
    assert 2 * found.gmacs == pytest.approx(gflops, rel=5e-3)


def test_heads_that_do_not_divide_the_channels_are_refused() -> None:
    with pytest.raises(InputFault, match="5 heads do not divide the 16 channels"):
        ParaTransCNN(in_channels=1, out_channels=2, size="tiny", heads=5)
