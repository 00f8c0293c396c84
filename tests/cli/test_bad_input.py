"""What is wrong with the input ends with one sentence and code 2, and nothing is half written."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from medseg.cli import main
from medseg.data.card import load_card
from medseg.data.phantom.dataset import make_phantom

SMALL = [
    "model.base_features=4",
    "model.stages=3",
    "plan.patch_size=[24, 32, 24]",
    "trainer.epochs=1",
    "trainer.steps_per_epoch=2",
    "trainer.accelerator=cpu",
]
# A file may grow to so many bytes, as if the disk were full then.
FULL_DISK = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
import medseg.cli
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
sys.exit(medseg.cli.main(sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def hippocampi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    return make_phantom(load_card("hippocampus"), folder, subjects=6, seed=4)


@pytest.fixture(scope="module")
def run(hippocampi: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs")
    assert main(train(hippocampi, output)) == 0
    return output / "hippocampus_resenc" / "fold_0"


def train(root: Path, output: Path, *more: str) -> list[str]:
    return ["train", "hippocampus_resenc", f"data.root={root}", *SMALL, *more, "-o", str(output)]


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_an_empty_fold_is_refused(
    hippocampi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(train(hippocampi, tmp_path, "data.folds=9")) == 2
    assert "set data.folds to 6 or less" in capsys.readouterr().err
    assert files(tmp_path) == []


def test_a_run_is_not_resumed_with_another_model(
    run: Path, hippocampi: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {name: (run / name).stat().st_mtime_ns for name in files(run)}
    output = run.parents[1]
    code = main(train(hippocampi, output, "model.base_features=8", "--resume"))
    assert code == 2
    assert "checkpoint is of another run (model:" in capsys.readouterr().err
    assert {name: (run / name).stat().st_mtime_ns for name in files(run)} == before


def test_weights_of_another_model_make_no_bundle(
    run: Path, hippocampi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(train(hippocampi, tmp_path, "model.base_features=8")) == 0
    other = tmp_path / "hippocampus_resenc" / "fold_0" / "bundle"
    mixed = tmp_path / "mixed"
    shutil.copytree(run / "bundle", mixed)
    shutil.copy(other / "weights.safetensors", mixed)
    image = min((hippocampi / "imagesTr").glob("*.nii.gz"))
    capsys.readouterr()
    assert main(["predict", str(mixed), str(image), "-o", str(tmp_path / "out")]) == 2
    assert "weights.safetensors" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("most_bytes", [300, 270_000])
def test_a_full_disk_while_training_is_told(
    hippocampi: Path, tmp_path: Path, most_bytes: int
) -> None:
    # 300 bytes hold no prepared case; 270 kB do, and no checkpoint with its optimizer.
    done = with_full_disk(most_bytes, train(hippocampi, tmp_path))
    assert done.returncode == 2, done.stderr
    assert "disk is full" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob(".medseg-*"))
    assert not list(tmp_path.rglob("bundle.json"))


def test_a_full_disk_while_predicting_leaves_no_label_map(
    run: Path, hippocampi: Path, tmp_path: Path
) -> None:
    image = min((hippocampi / "imagesTr").glob("*.nii.gz"))
    out = tmp_path / "out"
    done = with_full_disk(100, ["predict", str(run / "bundle"), str(image), "-o", str(out)])
    assert done.returncode == 2, done.stderr
    assert "disk is full" in done.stderr
    assert files(tmp_path) in ([], ["out"])


def with_full_disk(most_bytes: int, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", FULL_DISK, str(most_bytes), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)
