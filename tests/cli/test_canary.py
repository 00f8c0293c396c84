"""What NIfTI headers say of the patients is in nothing that training and prediction leave."""

import shutil
from pathlib import Path

import pytest

from medseg.cli import main
from tests.io import canary


@pytest.fixture(scope="module")
def marked_set(hippocampi: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic set, each of its files with a patient's texts in its header."""
    root = tmp_path_factory.mktemp("marked") / "set"
    shutil.copytree(hippocampi, root)
    files = [path for path in root.rglob("*.nii.gz") if not path.name.startswith(".")]
    for path in files:
        canary.mark(path)
    assert len(files) > 5
    assert sorted(canary.holders(root)) == sorted(files)
    return root


def test_check_train_predict_and_evaluate_leave_none_of_it(
    marked_set: Path, training, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    fold = out / "hippocampus_resenc" / "fold_0"
    images, labels = marked_set / "imagesTr", marked_set / "labelsTr"
    assert main(training(marked_set, out)) == 0
    assert main(["predict", str(fold / "bundle"), str(images), "-o", str(out / "masks")]) == 0
    broken = tmp_path / "broken"
    broken.mkdir()
    data = next(images.glob("*.nii.gz")).read_bytes()
    (broken / "cut.nii.gz").write_bytes(data[: len(data) // 2])
    assert main(["predict", str(fold / "bundle"), str(broken), "-o", str(out / "failed")]) == 3
    evaluate = ["evaluate", str(out / "masks"), str(labels), "--bundle", str(fold / "bundle")]
    assert main([*evaluate, "-o", str(out / "report")]) == 0
    assert canary.holders(out) == []
    said = "".join(capfd.readouterr())
    assert not canary.has_word(said.encode())
    assert len([path for path in out.rglob("*") if path.is_file()]) > 30
