"""`medseg predict --format`: mistakes before anything heavy, results in every format."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest

from medseg.cli import main
from medseg.io.dicom_seg_read import read_dicom_seg
from medseg.io.label_folder import read_label_folder
from medseg.io.nifti import read_labels
from medseg.io.nrrd import read_seg_nrrd
from tests.io.made_series import MadeSeries, refuse_moved


def test_a_misspelled_format_is_told_before_anything_heavy(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom medseg.cli import main\n"
        f"code = main(['predict', 'b', 'i', '-o', {str(tmp_path)!r}, '--format', 'dicomseg'])\n"
        "assert code == 2\n"
        "print([n for n in ('torch', 'highdicom', 'monai') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip().endswith("[]"), done.stderr
    assert "did you mean dicom-seg?" in done.stderr


def test_a_nifti_input_becomes_formats_and_probabilities_but_no_dicom(
    run: Path, hippocampi: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    image = next(path for path in sorted((hippocampi / "imagesTr").glob("*.nii.gz")))
    arguments = ["predict", str(run / "bundle"), str(image), "-o", str(tmp_path)]
    assert main([*arguments, "--format", "nifti,dicom-seg", "--format", "rtstruct"]) == 2
    assert "the input is NIfTI" in capfd.readouterr().err
    assert not list(tmp_path.iterdir())

    formats = ["--format", "seg.nrrd,folder", "--format", "bids,nifti", "--probabilities"]
    assert main([*arguments, *formats]) == 0
    name = image.name.removesuffix(".nii.gz")
    nrrd = read_seg_nrrd(tmp_path / f"{name}.seg.nrrd")
    labels = read_labels(tmp_path / f"{name}.nii.gz", nrrd.table)
    refuse_moved(labels, nrrd)
    refuse_moved(labels, read_label_folder(tmp_path / name))
    assert len(list(tmp_path.glob("sub-*/anat/*_dseg.nii.gz"))) == 1
    assert (tmp_path / f"{name}_probabilities.nii.gz").exists()
    assert main([*arguments, *formats]) == 0
    assert "there already" in capfd.readouterr().out


def test_a_dicom_input_becomes_dicom_beside_nifti(run: Path, tmp_path: Path) -> None:
    MadeSeries(rows=40, columns=44, count=24, spacing_mm=(1, 1), gap_mm=1).write(tmp_path / "scan")
    out = tmp_path / "out"
    arguments = ["predict", str(run / "bundle"), str(tmp_path / "scan"), "-o", str(out)]
    formats = "nifti,dicom-seg,dicom-seg-labelmap,rtstruct"
    assert main([*arguments, "--series", "3", "--format", formats, "--probabilities"]) == 0
    table = read_dicom_seg(out / "scan.seg.dcm").table
    labels = read_labels(out / "scan.nii.gz", table)
    for name in ("scan.seg.dcm", "scan.labelmap.seg.dcm"):
        again = read_dicom_seg(out / name, table=table)
        counts = [np.bincount(one.array.ravel())[1:] for one in (again, labels)]
        assert np.array_equal(*counts)
    study = pydicom.dcmread(next((tmp_path / "scan").iterdir())).StudyInstanceUID
    for path in out.glob("*.dcm"):
        assert pydicom.dcmread(path).StudyInstanceUID == study
    assert len(list(out.glob("*.dcm"))) == 4
