"""The table of formats: light to import, each writes what is read back, none tells who it was."""

import gzip
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from medseg.fault import InputFault
from medseg.io.bids import read_bids
from medseg.io.dicom_seg_read import read_dicom_seg
from medseg.io.formats import (
    FORMATS,
    Origin,
    chosen_formats,
    is_written,
    refuse_without_dicom,
    target,
    write_probabilities,
)
from medseg.io.label_folder import read_label_folder
from medseg.io.nifti import read_labels, read_volume
from medseg.io.nrrd import read_seg_nrrd
from medseg.volume import LabelVolume
from tests.io.made_series import MadeSeries, made_labels, oblique, refuse_moved

SERIES = MadeSeries(cosines=oblique(10, 20))
CANARIES = (b"Quetzalcoatl", b"CANARY", b"19330507", b"498.4711", b"Canary")


def test_the_table_loads_nothing_heavy() -> None:
    code = (
        "import medseg.io.formats, sys; "
        "print([n for n in ('numpy', 'pydicom', 'highdicom', 'nibabel') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


def _read(name: str, path: Path, labels: LabelVolume) -> LabelVolume | None:
    if name == "nifti":
        return read_labels(path, labels.table)
    if name == "seg.nrrd":
        return read_seg_nrrd(path)
    if name == "folder":
        return read_label_folder(path)
    if name == "bids":
        return read_bids(path)
    if name.startswith("dicom-seg"):
        return read_dicom_seg(path, table=labels.table)
    return None


def test_every_format_writes_what_is_read_back_at_its_own_place(tmp_path: Path) -> None:
    files = SERIES.write(tmp_path / "ct")
    labels = made_labels(SERIES.grid)
    places = set()
    for name, form in FORMATS.items():
        path = target(name, tmp_path / "out", "case 1")
        assert not is_written(name, path)
        form.write(path, labels, Origin("model", "1.0", files))
        assert is_written(name, path)
        places.add(path)
        again = _read(name, path, labels)
        if again is not None:
            refuse_moved(labels, again)
    assert len(places) == len(FORMATS) == 7


def test_what_is_not_dicom_holds_nothing_of_the_patient(tmp_path: Path) -> None:
    files = SERIES.write(tmp_path / "ct")
    labels = made_labels(SERIES.grid)
    origin = Origin("model", "1.0", files)
    for name, form in FORMATS.items():
        form.write(target(name, tmp_path / "out", "case"), labels, origin)
    probabilities = np.zeros((3, *labels.grid.shape), np.float32)
    write_probabilities(
        tmp_path / "out",
        "case",
        probabilities,
        labels.grid,
        labels.table,
        formats=("nifti",),
        origin=origin,
    )
    others = [
        path for path in (tmp_path / "out").rglob("*") if path.is_file() and path.suffix != ".dcm"
    ]
    assert len(others) == 12
    for path in others:
        data = path.read_bytes()
        data += gzip.decompress(data) if path.suffix == ".gz" else b""
        assert not [canary for canary in CANARIES if canary in data]
    dicom = list((tmp_path / "out").glob("*.dcm"))
    assert len(dicom) == 3
    assert all(b"Quetzalcoatl" in path.read_bytes() for path in dicom)


def test_probabilities_become_one_4d_nifti_and_a_fractional_seg(tmp_path: Path) -> None:
    files = SERIES.write(tmp_path / "ct")
    labels = made_labels(SERIES.grid)
    probabilities = np.random.default_rng(0).random((3, *labels.grid.shape), dtype=np.float32)
    paths = write_probabilities(
        tmp_path,
        "case",
        probabilities,
        labels.grid,
        labels.table,
        formats=("dicom-seg",),
        origin=Origin("model", "1.0", files),
    )
    assert [path.name for path in paths] == [
        "case_probabilities.csv",
        "case_probabilities.nii.gz",
        "case.probabilities.seg.dcm",
    ]
    assert all(path.exists() for path in paths)
    assert np.array_equal(read_volume([paths[1]], labels.table.names).array, probabilities)


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ([], ("nifti",)),
        (["seg.nrrd"], ("seg.nrrd",)),
        (["nifti,bids", "folder", "bids"], ("nifti", "bids", "folder")),
    ],
)
def test_formats_are_chosen_by_repeating_or_with_commas(
    asked: list[str], names: tuple[str, ...]
) -> None:
    assert chosen_formats(asked) == names


def test_a_misspelled_format_gets_its_nearest_name() -> None:
    with pytest.raises(InputFault, match="did you mean dicom-seg") as told:
        chosen_formats(["dicomseg"])
    assert told.value.code == "E_USE"


def test_formats_that_refer_to_dicom_are_refused_without_it() -> None:
    refuse_without_dicom(["nifti", "seg.nrrd", "folder", "bids"], "a")
    with pytest.raises(InputFault, match="dicom-seg, rtstruct refers") as told:
        refuse_without_dicom(["nifti", "dicom-seg", "rtstruct"], "a")
    assert told.value.code == "E_NOSOURCE"
