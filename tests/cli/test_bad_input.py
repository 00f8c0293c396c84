"""What is wrong with the input ends with one sentence and code 2, and nothing is half written."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from medseg.cli import main

Arguments = Callable[..., list[str]]

# A file may grow to so many bytes, as if the disk were full then.
FULL_DISK = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
import medseg.cli
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
sys.exit(medseg.cli.main(sys.argv[2:]))
"""


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_an_empty_fold_is_refused(
    hippocampi: Path, training: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(training(hippocampi, tmp_path, "data.folds=9")) == 2
    assert "set data.folds to 6 or less" in capsys.readouterr().err
    assert files(tmp_path) == []


def test_a_run_is_not_resumed_with_another_model(
    run: Path, hippocampi: Path, training: Arguments, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {name: (run / name).stat().st_mtime_ns for name in files(run)}
    output = run.parents[1]
    code = main(training(hippocampi, output, "model.base_features=8", "--resume"))
    assert code == 2
    assert "checkpoint is of another run (model:" in capsys.readouterr().err
    assert {name: (run / name).stat().st_mtime_ns for name in files(run)} == before


def test_weights_of_another_model_make_no_bundle(
    run: Path,
    hippocampi: Path,
    training: Arguments,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(training(hippocampi, tmp_path, "model.base_features=8")) == 0
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
    hippocampi: Path, training: Arguments, tmp_path: Path, most_bytes: int
) -> None:
    # 300 bytes hold no prepared case; 270 kB do, and no checkpoint with its optimizer.
    done = with_full_disk(most_bytes, training(hippocampi, tmp_path))
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
    # What is hidden tells the next run that this case may be half made.
    assert [name for name in files(tmp_path) if ".medseg" not in name] in ([], ["out"])


def with_full_disk(most_bytes: int, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", FULL_DISK, str(most_bytes), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)
