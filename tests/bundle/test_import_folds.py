"""The folds of a recipe as one bundle, trained by medseg itself."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medseg.bundle.bundle import load_bundle, save_bundle
from medseg.bundle.imported.folds import import_folds
from medseg.bundle.manifest import sealed
from medseg.bundle.rebuilt import build_model
from medseg.bundle.self_test import seeded_input
from medseg.fault import InputFault
from medseg.inference.postprocess import KeepLargest
from medseg.preprocess.normalise import Normalisation
from medseg.preprocess.record import Preprocessing
from medseg.volume import LabelTable, Target, Task

TASK = Task(
    ("CT",),
    Target(LabelTable.from_names({1: "left kidney", 2: "right kidney"})),
    (1.0, 1.0, 1.0),
    (16, 16, 16),
)
CT = Normalisation("ct", lower=-100.0, upper=200.0, mean=10.0, std=50.0)
RECIPE = {
    "name": "kidneys",
    "model": {"name": "segresnet", "base_features": 8, "blocks_down": [1, 1], "blocks_up": [1]},
    "predict": {"overlap": 0.25, "mirror_axes": [0]},
}


def fold(folder: Path, seed: int, **changes: Any) -> Path:
    torch.manual_seed(seed)
    given: dict[str, Any] = {
        "recipe": RECIPE,
        "task": TASK,
        "preprocessing": Preprocessing((1.0, 1.0, 1.0), (CT,)),
        "training": {"fold": seed},
        "postprocess": (KeepLargest(labels=("left kidney",)),),
        **changes,
    }
    save_bundle(folder, model=build_model(given["recipe"], given["task"]), **given)
    return folder


def test_an_ensembles_logits_are_the_mean_of_its_folds(tmp_path: Path) -> None:
    folders = [fold(tmp_path / str(seed), seed) for seed in range(3)]
    made = import_folds(folders, tmp_path / "all")
    image = seeded_input((1, 20, 24, 16))
    alone = [load_bundle(one).predictor().logits(image) for one in folders]
    together = load_bundle(tmp_path / "all").predictor().logits(image)
    assert torch.allclose(together, torch.stack(alone).mean(dim=0), atol=1e-5)
    assert (alone[0] - alone[1]).abs().max() > 1e-2
    assert made.training["folds"] == [{"fold": 0}, {"fold": 1}, {"fold": 2}]
    assert made.postprocess == (KeepLargest(labels=("left kidney",)),)
    assert made.walk_settings() == load_bundle(folders[0]).walk_settings()
    assert np.unique([load_bundle(one).sha256 for one in folders]).size == 3


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"preprocessing": Preprocessing((1.0, 1.0, 2.0), (CT,))},
            r"its preprocessing .*spacing_mm \[1.0, 1.0, 2.0\] against \[1.0, 1.0, 1.0\]",
        ),
        ({"recipe": {**RECIPE, "predict": {"overlap": 0.5}}}, "its prediction .*overlap 0.5"),
        (
            {"recipe": {**RECIPE, "model": {**RECIPE["model"], "base_features": 16}}},
            "its network .*base_features 16 against 8",
        ),
        ({"postprocess": ()}, "its postprocessing"),
    ],
)
def test_bundles_of_other_recipes_are_refused(
    tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    one, other = fold(tmp_path / "0", 0), fold(tmp_path / "1", 1, **changes)
    with pytest.raises(InputFault, match=told) as caught:
        import_folds([one, other], tmp_path / "made")
    assert caught.value.code == "E_FOLD"
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("strange", [5, [5], [{}, {}], {"a": 1}, None])
def test_a_manifest_whose_folds_have_no_weights_is_refused(tmp_path: Path, strange: Any) -> None:
    folder = import_folds(
        [fold(tmp_path / "0", 0), fold(tmp_path / "1", 1)], tmp_path / "all"
    ).folder
    manifest = json.loads((folder / "bundle.json").read_text())
    manifest.pop("digest")
    (folder / "bundle.json").write_text(
        json.dumps(sealed({**manifest, "fold_self_tests": strange}))
    )
    with pytest.raises(InputFault, match="do not belong together"):
        load_bundle(folder)
