"""`medseg doctor` on a folder of broken files."""

import hashlib
import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseg.cli import main
from medseg.io.dicom.series import find_series
from medseg.io.nifti import read_header, read_labels, read_volume
from medseg.volume import LabelTable
from tests.doctor.ward import Broken, build
from tests.io.catalogue.case import READ, Case, told
from tests.io.catalogue.phantom import Truth
from tests.io.dicom.phantom import Made
from tests.io.made_series import CANARY_DATE, CANARY_ID, CANARY_NAME, CANARY_ROOT, MadeSeries

TABLE = LabelTable.from_names({1: "rim", 2: "core"})
CHOICES = ["--map", "255=2", "--fill-nan", "-5"]
FEWEST = 20


@pytest.fixture
def broken(tmp_path: Path) -> list[Broken]:
    files = build(tmp_path / "ward")
    (tmp_path / "ward" / "gone.nii.gz").symlink_to("nowhere")
    os.mkfifo(tmp_path / "ward" / "pipe.nii")
    os.mkfifo(tmp_path / "ward" / "pipe")
    return files


def sums(folder: Path) -> dict[str, str]:
    """The SHA-256 of every regular file, by name."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def found(report: Path) -> dict[str, dict]:
    """The findings by path."""
    return {one["path"]: one for one in json.loads((report / "doctor.json").read_bytes())}


def test_each_of_twenty_broken_files_is_told_with_its_own_code(
    tmp_path: Path, broken: list[Broken], capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report"
    assert main(["doctor", str(tmp_path / "ward"), "--map", "255=2", "--report", str(report)]) == 3
    told_of = found(report)
    assert len(broken) >= FEWEST
    codes = {one.name: told_of[one.name]["code"] for one in broken}
    assert codes == {one.name: one.code for one in broken}
    assert all(told_of[one.name]["sentence"] and told_of[one.name]["remedy"] for one in broken)
    assert told_of["imagesTr/fine.nii.gz"]["state"] == "fine"
    assert told_of["gone.nii.gz"]["code"] == told_of["pipe.nii"]["code"] == "E_NOTFILE"
    assert told_of["pipe"]["state"] == told_of["notes.txt"]["state"] == "passed over"
    assert "E_SHEAR" in capsys.readouterr().out


def test_copies_are_mended_to_the_truth_and_originals_are_not_touched(
    tmp_path: Path, broken: list[Broken]
) -> None:
    ward, out = tmp_path / "ward", tmp_path / "out"
    before = sums(ward)
    assert main(["doctor", str(ward), "--repair", str(out), *CHOICES, "--quiet"]) == 3
    assert sums(ward) == before
    told_of = found(out)
    mended = {name for name, one in told_of.items() if one["state"] == "mended"}
    assert mended == {one.name for one in broken if one.truth is not None}
    for one in broken:
        if one.truth is None:
            assert "Not mended" in told_of[one.name]["sentence"], one.name
            assert not (out / one.name).exists()
        else:
            assert told_of[one.name]["mends"], one.name
            refuse_other(out / (one.copy or one.name), one.truth)
    written = {one["copy"] for one in told_of.values() if one["copy"]}
    assert set(sums(out)) == {*written, "doctor.csv", "doctor.json"}


def refuse_other(path: Path, truth: Truth) -> None:
    """Fail unless the strict reader, and nibabel, find the truth in a file."""
    header = read_header(path)
    if "labels" in str(path):
        voxels = read_labels(path, TABLE).array[None]
        relative = 1.0 if "finer" in path.name else 0.0
        if relative:
            # Nearest labels may differ where the rim runs between two voxels.
            assert (voxels != truth.array).mean() < 0.05
            voxels = truth.array
    else:
        voxels = read_volume((path,), ("image",)).array
    tolerance_mm = 0.1 if "sheared" in path.name else 1e-3
    result = told(
        Case(path.name, READ, lambda _: (), truth),
        Truth(voxels, header.grid.affine),
        tolerance_mm=tolerance_mm,
    )
    assert result == READ, (path, result)
    image = nib.load(path)
    assert np.allclose(image.affine, header.grid.affine, atol=1e-4)


@pytest.mark.usefixtures("broken")
def test_an_image_stored_as_int16_stays_int16(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["doctor", str(tmp_path / "ward"), "--repair", str(out), "--quiet"]) == 3
    for name in ("sheared.nii.gz", "no_codes.nii.gz", "meters.nii.gz", "axes.nii.gz"):
        assert read_header(out / name).dtype == np.int16


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize("form", ["sform", "qform"])
def test_affine_decides_between_two_places(tmp_path: Path, form: str) -> None:
    out = tmp_path / "out"
    main(["doctor", str(tmp_path / "ward"), "--repair", str(out), "--affine", form, "--quiet"])
    told_of = found(out)
    assert told_of["two_places.nii.gz"]["state"] == "mended"
    # Without --affine the copy is read: both forms say the same.
    mended = read_header(out / "two_places.nii.gz").grid
    original = read_header(tmp_path / "ward" / "two_places.nii.gz", form=form).grid
    assert mended.difference(original) is None


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize("place", [".", "out", ".."])
def test_copies_among_or_around_the_originals_are_refused(tmp_path: Path, place: str) -> None:
    ward = tmp_path / "ward"
    before = sums(tmp_path)
    assert main(["doctor", str(ward), "--repair", str(ward / place)]) == 2
    assert sums(tmp_path) == before


@pytest.mark.usefixtures("broken")
def test_a_link_within_the_copies_to_the_originals_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "labelsTr").symlink_to(tmp_path / "ward" / "labelsTr")
    before = sums(tmp_path / "ward")
    arguments = ["doctor", str(tmp_path / "ward"), "--repair", str(tmp_path / "out"), *CHOICES]
    assert main(arguments) == 2
    assert sums(tmp_path / "ward") == before


@pytest.mark.parametrize("text", ["255", "a=1", "1=2,1=3", "1=-1"])
def test_a_map_that_is_none_is_wrong_use(tmp_path: Path, text: str) -> None:
    assert main(["doctor", str(tmp_path), "--map", text]) == 2


def test_a_folder_without_faults_ends_with_0(tmp_path: Path) -> None:
    build(tmp_path / "ward")
    sound = tmp_path / "sound"
    sound.mkdir()
    (tmp_path / "ward/imagesTr/fine.nii.gz").rename(sound / "fine.nii.gz")
    assert main(["doctor", str(sound), "--quiet"]) == 0
    out = tmp_path / "out"
    assert main(["doctor", str(sound), "--repair", str(out), "--all", "--quiet"]) == 0
    assert (out / "fine.nii.gz").read_bytes() == (sound / "fine.nii.gz").read_bytes()


def test_names_of_any_bytes_are_shown_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ward" / "[").mkdir(parents=True)
    for name in ("[/red].nii", "[bold]x.nii", os.fsdecode(b"\xff.nii")):
        (tmp_path / "ward" / name).write_bytes(b"no image")
    report = tmp_path / "report"
    assert main(["doctor", str(tmp_path / "ward"), "--report", str(report)]) == 3
    assert set(found(report)) == {"[/red].nii", "[bold]x.nii", "\\xff.nii"}
    assert "[/red].nii" in capsys.readouterr().out


def test_a_series_that_lost_a_slice_is_told_without_a_word_of_its_patient(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, report = tmp_path / "studies", tmp_path / "report"
    whole = MadeSeries().write(folder / "whole")
    lost = MadeSeries().write(folder / "lost")
    # The files are not in the order of the slices: the fourth is the third from one end.
    lost[3].unlink()
    assert len(whole) == len(lost)
    assert main(["doctor", str(folder / "whole"), "--report", str(tmp_path / "sound")]) == 0
    assert main(["doctor", str(folder / "lost"), "--report", str(report)]) == 3
    (told_of,) = found(report).values()
    assert told_of["code"] == "E_GAP"
    shown = "".join(capsys.readouterr()) + "".join(
        path.read_text(encoding="utf-8")
        for path in (*report.iterdir(), *(tmp_path / "sound").iterdir())
    )
    assert "slices are missing" in shown
    for canary in (CANARY_NAME, CANARY_ID, CANARY_DATE, CANARY_ROOT, "Canary"):
        assert canary not in shown


def test_a_series_that_is_shown_inverted_is_not_at_fault(tmp_path: Path) -> None:
    Made(header={"PhotometricInterpretation": "MONOCHROME1"}).write(tmp_path / "studies")
    (series,) = find_series(sorted((tmp_path / "studies").iterdir()))
    assert all(instance.is_inverted for instance in series.instances)
    assert main(["doctor", str(tmp_path / "studies"), "--report", str(tmp_path / "report")]) == 0
