import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from medseg.bundle.bundle import Bundle, load_bundle, save_bundle
from medseg.bundle.manifest import sealed
from medseg.bundle.rebuilt import build_model
from medseg.bundle.self_test import seeded_input
from medseg.fault import InputFault
from medseg.inference.postprocess import KeepLargest, RemoveSmall
from medseg.inference.settings import WalkSettings
from medseg.models.shape import ShapePolicy
from medseg.preprocess.normalise import Normalisation
from medseg.preprocess.record import Preprocessing
from medseg.volume import Grid, LabelTable, Target, Task, Volume

TASK = Task(
    ("T1", "T2"), Target(LabelTable.from_names({1: "core", 5: "rim"})), (1.0, 1.0, 2.0), (16, 16, 8)
)
PREPROCESSING = Preprocessing((1.0, 1.0, 2.0), (Normalisation("zscore"),) * 2, crop="nonzero")
RECIPE = {"name": "small", "model": {"name": "stand_in"}, "predict": {"overlap": 0.25}}


class Tied(nn.Module):
    """A network that holds one convolution under two names, as nnU-Net's do."""

    def __init__(self, features: int = 4) -> None:
        super().__init__()
        self.first = nn.Conv3d(2, features, 3, padding=1)
        self.again = self.first
        self.head = nn.Conv3d(features, 3, 1)
        self.shape_policy = ShapePolicy(divisor=(4, 4, 4), minimum=(4, 4, 4))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.again(image)))


def build(_recipe: Mapping[str, Any], _task: Task) -> nn.Module:
    return Tied()


def save(folder: Path, model: nn.Module, **changes: Any) -> Path:
    settings: dict[str, Any] = {
        "model": model,
        "recipe": RECIPE,
        "task": TASK,
        "preprocessing": PREPROCESSING,
        "training": {"steps": 100, "fold": 0, "validation_dice": float("nan")},
        "build": build,
    }
    save_bundle(folder, **{**settings, **changes})
    return folder


def load(folder: Path, **options: Any) -> Bundle:
    return load_bundle(folder, build=build, **options)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    return save(tmp_path / "bundle", Tied())


def reseal(folder: Path, **changes: Any) -> None:
    """Change the manifest as somebody would who knows its digest."""
    manifest = json.loads((folder / "bundle.json").read_text())
    manifest.pop("digest")
    (folder / "bundle.json").write_text(json.dumps(sealed({**manifest, **changes})))


def replace_weights(folder: Path, change: dict[str, torch.Tensor | None]) -> None:
    weights = {**load_file(folder / "weights.safetensors"), **change}
    save_file({k: v for k, v in weights.items() if v is not None}, folder / "weights.safetensors")
    files = json.loads((folder / "bundle.json").read_text())["files"]
    digest = hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
    reseal(folder, files={**files, "weights.safetensors": digest})


def test_a_loaded_bundle_is_what_was_saved(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = Tied()
    found = load(save(tmp_path / "deep" / "bundle", model))
    image = torch.randn(1, 2, 8, 8, 8)
    assert torch.equal(found.models[0](image), model(image))
    assert found.task.to_json() == TASK.to_json()
    assert found.preprocessing == PREPROCESSING
    assert found.recipe == RECIPE
    assert found.training == {"steps": 100, "fold": 0, "validation_dice": None}
    assert not found.models[0].training
    assert model.training
    names = sorted(path.name for path in (tmp_path / "deep" / "bundle").iterdir())
    assert names == ["bundle.json", "labels.csv", "weights.safetensors"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["bundle"]


def test_a_tensor_with_two_names_is_stored_once(folder: Path) -> None:
    assert sorted(load_file(folder / "weights.safetensors")) == [
        "first.bias",
        "first.weight",
        "head.bias",
        "head.weight",
    ]


def test_whoever_may_read_one_file_may_read_all(folder: Path) -> None:
    modes = {path.stat().st_mode for path in folder.iterdir()}
    assert len(modes) == 1


def test_the_label_table_is_one_that_slicer_reads(folder: Path) -> None:
    table = LabelTable.from_csv((folder / "labels.csv").read_text(), place="labels.csv")
    assert table == TASK.target.labels


def test_the_predictor_follows_the_recipe_and_labels_on_the_source_grid(folder: Path) -> None:
    bundle = load(folder)
    assert bundle.walk_settings().overlap == 0.25
    other = WalkSettings(overlap=0.75, mirror_axes=(1,))
    assert bundle.predictor(settings=other).settings == other
    rng = np.random.default_rng(0)
    grid = Grid.from_spacing((20, 17, 9), (0.9, 1.1, 2.5))
    image = rng.standard_normal((2, *grid.shape)).astype(np.float32)
    found = bundle.predictor().predict(Volume(image, grid, ("T1", "T2")))
    assert found.grid == grid
    assert set(np.unique(found.array)) <= {0, 1, 5}


def test_the_rules_of_postprocessing_are_kept(tmp_path: Path) -> None:
    rules = (KeepLargest(labels=("core",)), RemoveSmall(below_mm3=2.5))
    save(tmp_path / "bundle", Tied(), postprocess=rules)
    assert load(tmp_path / "bundle").postprocess == rules


def test_a_rule_for_a_label_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputFault, match="did you mean core") as fault:
        save(tmp_path / "bundle", Tied(), postprocess=[KeepLargest(labels=("cor",))])
    assert fault.value.code == "E_POSTPROCESS"
    assert not (tmp_path / "bundle").exists()


def test_saving_again_replaces_the_older_bundle(folder: Path) -> None:
    before = load(folder).sha256
    save(folder, Tied())
    assert load(folder).sha256 != before
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]


def test_a_network_the_recipe_does_not_build_is_not_saved(folder: Path) -> None:
    before = load(folder).sha256
    with pytest.raises(InputFault, match="of another shape") as fault:
        save(folder, Tied(features=5))
    assert fault.value.code == "E_BUNDLE"
    assert load(folder).sha256 == before
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputFault, match="no bundle") as fault:
        save(tmp_path, Tied())
    assert fault.value.code == "E_EXISTS"
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    model = Tied()
    nn.init.constant_(model.head.bias, float("nan"))
    with pytest.raises(InputFault, match=r"head\.bias") as fault:
        save(tmp_path / "bundle", model)
    assert fault.value.code == "E_WEIGHTS"
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_not_finite_are_not_loaded(folder: Path) -> None:
    replace_weights(folder, {"head.bias": torch.full((3,), float("nan"))})
    with pytest.raises(InputFault, match=r"head\.bias") as fault:
        load(folder)
    assert fault.value.code == "E_WEIGHTS"


@pytest.mark.parametrize("name", ["weights.safetensors", "labels.csv"])
def test_a_flipped_bit_is_found(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[-10] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(InputFault, match="sha256") as fault:
        load(folder)
    assert fault.value.code == "E_SHA256"


def test_a_changed_manifest_is_found(folder: Path) -> None:
    text = (folder / "bundle.json").read_text()
    assert '"core"' in text
    (folder / "bundle.json").write_text(text.replace('"core"', '"corf"'))
    with pytest.raises(InputFault, match="digest") as fault:
        load(folder)
    assert fault.value.code == "E_SHA256"


@pytest.mark.parametrize("name", ["weights.safetensors", "labels.csv", "bundle.json"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(InputFault, match=name) as fault:
        load(folder)
    assert fault.value.code == "E_BUNDLE"


def test_weights_missing_and_left_over_are_listed(folder: Path) -> None:
    replace_weights(folder, {"head.bias": None, "tail.bias": torch.zeros(3)})
    with pytest.raises(InputFault, match=r"1 missing \(head\.bias\); 1 left over \(tail\.bias\)"):
        load(folder)


def test_a_newer_format_is_refused(folder: Path) -> None:
    reseal(folder, format=2)
    with pytest.raises(InputFault, match="update medseg") as fault:
        load(folder)
    assert fault.value.code == "E_FORMAT"


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"format": 1}', "\xff"])
def test_a_damaged_manifest_is_refused(folder: Path, text: str) -> None:
    (folder / "bundle.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputFault) as fault:
        load(folder)
    assert fault.value.code == "E_BUNDLE"


def test_a_network_that_computes_something_else_is_refused(folder: Path) -> None:
    class Other(Tied):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return super().forward(image) * 1.001

    def other(_recipe: Mapping[str, Any], _task: Task) -> nn.Module:
        return Other()

    with pytest.raises(InputFault, match="other logits") as fault:
        load_bundle(folder, build=other)
    assert fault.value.code == "E_SELFTEST"
    assert load_bundle(folder, build=other, verify=False).sha256 == load(folder).sha256


def test_the_self_test_says_which_versions_differ(folder: Path) -> None:
    manifest = json.loads((folder / "bundle.json").read_text())
    values = [value + 1 for value in manifest["self_test"]["values"]]
    reseal(
        folder,
        self_test={**manifest["self_test"], "values": values},
        versions={**manifest["versions"], "torch": "1.0"},
    )
    with pytest.raises(InputFault, match=r"torch 1\.0 there"):
        load(folder)


def test_the_seeded_input_is_the_same_for_ever() -> None:
    image = seeded_input((1, 2, 8, 8, 8))
    assert image.dtype == torch.float32
    assert float(image.std()) == pytest.approx(1, abs=0.05)
    np.testing.assert_allclose(
        image.flatten()[:4], [-0.9273399, 1.1365914, 0.0968885, 1.4050496], atol=1e-6
    )


def test_loading_leaves_the_random_numbers_of_the_caller(folder: Path) -> None:
    torch.manual_seed(7)
    wanted = torch.rand(3)
    torch.manual_seed(7)
    load(folder)
    assert torch.equal(torch.rand(3), wanted)


def test_code_of_somebodys_own_runs_only_when_trusted(folder: Path) -> None:
    reseal(folder, recipe={**RECIPE, "model": {"name": "custom", "target": "evil:Net"}})
    with pytest.raises(InputFault, match="evil:Net") as fault:
        load_bundle(folder)
    assert fault.value.code == "E_CUSTOM"


@pytest.mark.parametrize("model", [None, {"name": "gone"}, {"name": "nnunet_plain", "stagse": 3}])
def test_a_network_this_version_does_not_have_is_refused(folder: Path, model: Any) -> None:
    reseal(folder, recipe={**RECIPE, "model": model or {}})
    with pytest.raises(InputFault, match="model section") as fault:
        load_bundle(folder)
    assert fault.value.code == "E_BUNDLE"


def test_a_real_network_is_rebuilt_from_its_recipe(tmp_path: Path) -> None:
    recipe = {"model": {"name": "nnunet_plain", "base_features": 4, "max_features": 8}}
    torch.manual_seed(0)
    model = build_model(recipe, TASK)
    save(tmp_path / "bundle", model, recipe=recipe, build=build_model)
    shutil.move(tmp_path / "bundle", tmp_path / "moved")
    found = load_bundle(tmp_path / "moved")
    image = torch.randn(1, 2, *TASK.patch_size)
    with torch.no_grad():
        assert torch.equal(found.models[0](image), model.eval()(image))


FULL_DISK = """
import resource, sys
from pathlib import Path
from medseg.fault import InputFault
sys.path.insert(0, sys.argv[1])
from test_bundle import Tied, save
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
try:
    save(Path(sys.argv[2]), Tied())
except InputFault as fault:
    print(fault.code)
"""


@pytest.mark.parametrize("most_bytes", [600, 2000])
def test_a_full_disk_leaves_the_older_bundle_and_nothing_else(
    folder: Path, most_bytes: int
) -> None:
    # The weights do not fit into 600 bytes; into 2000 they do, and the manifest does not.
    before = load(folder).sha256
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(Path(__file__).parent), str(folder), str(most_bytes)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "E_DISKFULL"
    assert load(folder).sha256 == before
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]
