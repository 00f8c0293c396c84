"""`medseg compare` from recipes to its table, on a small synthetic set."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from medseg.cli import main
from medseg.engine.compare_plan import Budget, entries
from medseg.fault import InputFault
from medseg.recipe import load_recipe

STEPS = 3
SHARED = [
    "plan.batch_size=1",
    "predict.overlap=0",
    "predict.mirror_axes=[]",
    "trainer.accelerator=cpu",
]
UNET = "model={name: nnunet_plain, base_features: 4, max_features: 8, stages: 3}"
SWIN = "model={name: swin_unetr, feature_size: 12, depths: [1, 1, 1, 1], heads: [1, 1, 2, 2]}"


@pytest.fixture(scope="module")
def recipes(hippocampi: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Two tiny recipes by name, as files."""
    folder = tmp_path_factory.mktemp("recipes")
    made = {}
    settings = [f"data.root={hippocampi}", "data.folds=3", *SHARED]
    for name, model, patch in (("one", UNET, "[24,32,24]"), ("two", SWIN, "[64,32,32]")):
        recipe = load_recipe(
            "hippocampus_unet", [*settings, model, f"name={name}", f"plan.patch_size={patch}"]
        )
        path = folder / f"{name}.yaml"
        path.write_text(recipe.to_yaml())
        made[name] = str(path)
    return made


@pytest.fixture(scope="module")
def compared(recipes: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished comparison."""
    output = tmp_path_factory.mktemp("compared")
    assert main(asked(recipes.values(), output, "--identity", "--quiet")) == 0
    return output


def asked(recipes: Any, output: Path, *more: str) -> list[str]:
    return ["compare", *recipes, "-o", str(output), "--steps", str(STEPS), *more]


def table(output: Path) -> dict[str, dict[str, Any]]:
    rows = json.loads((output / "comparison.json").read_bytes())["rows"]
    return {row["name"]: row for row in rows}


def test_each_row_is_a_network_trained_alike_with_its_twin(compared: Path) -> None:
    rows = table(compared)
    assert list(rows) == ["one", "two", "two+identity"]
    for row in rows.values():
        assert row["state"] == "done"
        assert row["steps"] == STEPS
        assert 0 <= row["dice_low"] <= row["dice"] <= row["dice_high"] <= 1
        assert row["gmacs"] > 0
        assert row["seconds_per_step"] > 0
        assert 0.1 < row["peak_memory_gb"] < 10
    assert rows["two+identity"]["parameters"] < rows["two"]["parameters"]
    splits = {path.read_bytes() for path in compared.glob("runs/*/fold_0/split.json")}
    assert len(splits) == 1


def test_every_run_is_an_ordinary_one_whose_bundle_predicts_the_same(
    compared: Path, hippocampi: Path, tmp_path: Path
) -> None:
    run = compared / "runs" / "two-identity" / "fold_0"
    (case, *_) = json.loads((run / "split.json").read_bytes())["validation"]
    image = hippocampi / "imagesTr" / f"{case}.nii.gz"
    assert main(["predict", str(run / "bundle"), str(image), "-o", str(tmp_path), "--quiet"]) == 0
    ours = (run / "predictions" / f"{case}.nii.gz").read_bytes()
    assert (tmp_path / f"{case}.nii.gz").read_bytes() == ours


def test_resume_does_again_only_what_is_missing(compared: Path, recipes: dict[str, str]) -> None:
    one, two = (compared / "runs" / name / "fold_0" for name in ("one", "two"))
    trained = (one / "measured.json").stat().st_mtime_ns, (two / "measured.json").stat().st_mtime_ns
    before = table(compared)
    (two / "evaluation" / "scores.json").unlink()
    (compared / "comparison.json").unlink()
    assert main(asked(recipes.values(), compared, "--identity", "--quiet")) == 2
    assert main(asked(recipes.values(), compared, "--identity", "--resume", "--quiet")) == 0
    assert table(compared) == before
    after = (one / "measured.json").stat().st_mtime_ns, (two / "measured.json").stat().st_mtime_ns
    assert after == trained
    assert main(asked(recipes.values(), compared, "--resume", "trainer.seed=1")) == 2


def test_a_run_that_fails_is_a_row_and_the_rest_is_done(
    compared: Path, recipes: dict[str, str], tmp_path: Path
) -> None:
    # With such steps the network's numbers leave what a float holds.
    broken = Path(recipes["two"]).with_name("broken.yaml")
    text = Path(recipes["two"]).read_text().replace("name: two\n", "name: broken\n")
    broken.write_text(text.replace("lr: 0.003", "lr: 1.0e+30"))
    assert broken.read_text() != Path(recipes["two"]).read_text()
    code = main(asked([str(broken), recipes["one"]], tmp_path, "--quiet"))
    rows = table(tmp_path)
    assert code == 3
    assert (rows["broken"]["state"], rows["broken"]["code"]) == ("failed", "E_LOSS")
    assert rows["one"]["dice"] == table(compared)["one"]["dice"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("data.split_seed=7", "data.split_seed"),
        ("data.root=elsewhere", "data.root"),
        ("data.folds=4", "data.folds"),
        ("data.fold=1", "data.fold"),
    ],
)
def test_recipes_that_do_not_share_their_split_are_refused(
    change: str, told: str, recipes: dict[str, str], tmp_path: Path
) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(load_recipe(recipes["two"], [change]).to_yaml())
    with pytest.raises(InputFault, match=told) as fault:
        entries(
            [recipes["one"], str(other)],
            [],
            budget=Budget(steps=3),
            folds=None,
            identity=False,
            cache=tmp_path,
        )
    assert fault.value.code == "E_COMPARE"


def test_networks_are_compared_on_cases_that_were_held_out(
    recipes: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(InputFault, match="nothing is held out") as fault:
        entries(
            [recipes["one"]],
            ["data.fold=all"],
            budget=Budget(steps=3),
            folds=None,
            identity=False,
            cache=tmp_path,
        )
    assert fault.value.code == "E_COMPARE"


@pytest.mark.parametrize("steps", [1, 7, 20, 251, 1000, 1009, 2500])
def test_a_budget_of_steps_is_kept_to_the_step(steps: int) -> None:
    settings = dict(text.split("=") for text in Budget(steps=steps).settings())
    epochs, epoch = int(settings["trainer.epochs"]), int(settings["trainer.steps_per_epoch"])
    assert epochs * epoch == steps
    assert settings["trainer.validate_every"] == settings["trainer.epochs"]


def test_wrong_use_is_told_before_torch_is_loaded(recipes: dict[str, str], tmp_path: Path) -> None:
    text = (
        "import sys; from medseg.cli import main; code = main(sys.argv[1:]); "
        "sys.exit(9 if 'torch' in sys.modules else code)"
    )
    for words in (
        ["no_such_recipe", "--steps", "3"],
        [recipes["one"], recipes["one"], "--steps", "3"],
        [recipes["one"], "--steps", "0"],
        [recipes["one"], "--steps", "3", "--folds", "5"],
    ):
        done = subprocess.run(
            [sys.executable, "-c", text, "compare", *words, "-o", str(tmp_path)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2, done.stderr
        assert done.stderr.startswith("medseg: ")
