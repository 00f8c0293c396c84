"""What DICOM headers say of the patients is in nothing that a prediction leaves or says."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg.cli import main
from tests.io import canary
from tests.io.dicom.phantom import BIRTH, OBLIQUE, ROOT, Layout, Made, leaks


def marked_studies(root: Path) -> Path:
    """Four studies: whole, tilted, cut, and with two series to choose from."""
    # Folder names are the user's own and may be shown; these say nothing.
    Made(Layout(OBLIQUE), study=1).write(root / "whole")
    Made(Layout(tilt=0.3), study=2).write(root / "tilted")
    path = Made(study=3).write(root / "cut")[4]
    path.write_bytes(path.read_bytes()[:-40])
    for series in (1, 2):
        Made(study=4, series=series).write(root / "two" / str(series))
    files = [path for path in root.rglob("*") if path.is_file()]
    assert sorted(canary.holders(root)) == sorted(files)
    return root


def test_predictions_of_dicom_studies_tell_nothing_of_the_patients(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    studies, out = marked_studies(tmp_path / "in"), tmp_path / "out"
    capfd.readouterr()
    assert main(["predict", str(run / "bundle"), str(studies), "-o", str(out)]) == 3
    said = "".join(capfd.readouterr())
    assert not leaks(said)
    assert "E_TRUNC" in (out / "report.csv").read_text()
    assert "E_SERIES" in (out / "report.csv").read_text()
    assert "tilted gantry" in (out / "report.csv").read_text()
    assert sorted(path.name for path in out.glob("*.nii.gz")) == ["tilted.nii.gz", "whole.nii.gz"]
    assert canary.holders(out) == []
    written = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())
    for word in (ROOT, BIRTH):
        assert word.encode() not in written


def test_a_mask_of_a_study_lies_on_its_slices(run: Path, tmp_path: Path) -> None:
    made = Made(Layout(OBLIQUE))
    made.write(tmp_path / "case")
    out = tmp_path / "out"
    assert main(["predict", str(run / "bundle"), str(tmp_path / "case"), "-o", str(out)]) == 0
    mask = nib.load(out / "case.nii.gz")
    assert mask.shape == (24, 20, 12)
    assert np.abs(mask.affine - made.truth.affine).max() < 1e-4
