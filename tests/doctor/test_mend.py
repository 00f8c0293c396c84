"""Copies are whole or not there; rounding is told from a tilt, and NaN from arithmetic."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medseg.doctor.examine import fault_in
from medseg.doctor.finding import Choices, Finding
from medseg.doctor.mend import mended
from medseg.doctor.patients import Patient, look_into
from medseg.fault import InputFault
from medseg.io.nifti import read_header, read_labels
from medseg.io.nifti_header import Header
from medseg.io.stream import Sink
from medseg.volume import LabelTable
from tests.doctor.ward import build
from tests.io.catalogue.made import IMAGE, LABELS, PLACE, rows
from tests.io.catalogue.packing import member, packed_nifti
from tests.io.catalogue.phantom import lesion_on

MANY = LabelTable.from_names({value: str(value) for value in range(1, 4001)})


def mended_copy(path: Path, out: Path, choices: Choices | None = None, **more: object) -> Finding:
    """What becomes of one faulty file."""
    choices = choices or Choices()
    patient = Patient(path, path.name, more.get("kind", "image"), table=more.get("table"))
    image = more.get("image")
    fault = fault_in(path, patient.kind, choices, table=patient.table, image=image)
    assert fault is not None
    return mended(patient, out, fault, choices, image)


def image_header(folder: Path) -> Header:
    """That of the image which the labels belong to."""
    path = folder / "image.nii"
    path.write_bytes(packed_nifti(IMAGE, PLACE))
    return read_header(path)


@pytest.mark.parametrize(("off", "state"), [(0.0015, "mended"), (0.02, "wrong")])
def test_cosines_off_by_rounding_are_mended_and_a_tilt_is_not(
    tmp_path: Path, off: float, state: str
) -> None:
    sheared = PLACE.affine.copy()
    sheared[:3, 0] += off * sheared[:3, 1]
    path = tmp_path / "a.nii"
    path.write_bytes(packed_nifti(IMAGE, PLACE, srow=rows(sheared), qform_code=0))
    assert mended_copy(path, tmp_path / "out").state == state
    assert (tmp_path / "out" / "a.nii").exists() == (state == "mended")


@pytest.mark.parametrize("kind", ["u1", "i2", "u2", "i4", "f4", "f8"])
def test_a_map_renames_all_at_once_in_every_stored_type(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.nii"
    path.write_bytes(packed_nifti(LABELS.astype(kind), PLACE))
    choices = Choices(label_map={1: 2, 2: 1})
    out = tmp_path / "out"
    assert mended_copy(path, out, choices, kind="labels").state == "mended"
    swapped = read_labels(out / "a.nii", MANY).array
    assert np.array_equal(swapped, np.array([0, 2, 1])[LABELS])


def test_labels_above_2048_keep_their_values(tmp_path: Path) -> None:
    many = LABELS.astype("u2") * 1001 + (LABELS > 0)
    path = tmp_path / "a.nii"
    path.write_bytes(packed_nifti(many, PLACE))
    finding = mended_copy(path, tmp_path / "out", Choices(label_map={1002: 3999}), kind="labels")
    assert finding.state == "mended"
    found = read_labels(tmp_path / "out" / "a.nii", MANY).array
    assert sorted(np.unique(found)) == [0, 2003, 3999]


def test_labels_on_a_flipped_lattice_come_onto_the_image_exactly(tmp_path: Path) -> None:
    flipped = PLACE.affine.copy()
    flipped[:3, 3] += flipped[:3, 0] * (LABELS.shape[0] - 1)
    flipped[:3, 0] *= -1
    path = tmp_path / "a.nii"
    path.write_bytes(packed_nifti(LABELS[::-1], PLACE, srow=rows(flipped), qform_code=0))
    image = image_header(tmp_path)
    finding = mended_copy(path, tmp_path / "out", kind="labels", image=image)
    assert finding.state == "mended"
    assert np.array_equal(read_labels(tmp_path / "out" / "a.nii", MANY).array, LABELS)


def test_labels_of_the_same_size_elsewhere_are_never_resampled(tmp_path: Path) -> None:
    moved = replace(PLACE, origin_ras_mm=(-8.0, -17.0, -4.0))
    path = tmp_path / "a.nii"
    path.write_bytes(packed_nifti(LABELS, moved))
    image = image_header(tmp_path)
    finding = mended_copy(path, tmp_path / "out", kind="labels", image=image)
    assert finding.state == "wrong"
    assert "its place was lost" in finding.sentence


def test_labels_that_leave_their_image_are_never_cut(tmp_path: Path) -> None:
    shape = (LABELS.shape[0], LABELS.shape[1], 40)
    drawn = lesion_on(PLACE.affine, shape)
    drawn[3, 3, 35] = 1
    path = tmp_path / "a.nii"
    path.write_bytes(packed_nifti(drawn, PLACE))
    image = image_header(tmp_path)
    finding = mended_copy(path, tmp_path / "out", kind="labels", image=image)
    assert finding.state == "wrong"
    assert "outside" in finding.sentence


def test_a_full_disk_is_told_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.nii.gz"
    path.write_bytes(member(packed_nifti(IMAGE, PLACE, vox_offset=0)))

    def full(_sink: Sink) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Sink, "finish", full)
    with pytest.raises(InputFault) as refused:
        mended_copy(path, tmp_path / "out")
    assert refused.value.code == "E_DISKFULL"
    assert list((tmp_path / "out").iterdir()) == []


def test_a_kill_leaves_no_half_copy_under_a_final_name(tmp_path: Path) -> None:
    ward, out = tmp_path / "ward", tmp_path / "out"
    build(ward)
    command = [sys.executable, "-m", "medseg.cli", "doctor", str(ward), "--repair", str(out)]
    for moment in range(4):
        running = subprocess.Popen([*command, "--quiet"], stdout=subprocess.DEVNULL)
        ends = time.monotonic() + 30
        while running.poll() is None and len(list(out.rglob("*.nii*"))) < 1 + 3 * moment:
            assert time.monotonic() < ends
            time.sleep(0.002)
        os.kill(running.pid, signal.SIGKILL)
        running.wait()
        for copy in out.rglob("[!.]*.nii*"):
            kind = "labels" if copy.parent.name == "labelsTr" else "image"
            assert fault_in(copy, kind, Choices()) is None
            assert read_header(copy).offset == 352


def test_a_data_set_gives_its_pairs_and_its_table(tmp_path: Path) -> None:
    for name in ("imagesTr", "labelsTr"):
        (tmp_path / name).mkdir()
    (tmp_path / "imagesTr/a_0000.nii.gz").write_bytes(member(packed_nifti(IMAGE, PLACE)))
    (tmp_path / "labelsTr/a.nii.gz").write_bytes(member(packed_nifti(LABELS, PLACE)))
    (tmp_path / "dataset.json").write_text(
        '{"channel_names": {"0": "MRI"}, "labels": {"background": 0, "rim": 1}, '
        '"numTraining": 1, "file_ending": ".nii.gz"}'
    )
    folder = look_into(tmp_path, card=None, table=None)
    image, labels = folder.files
    assert labels.image == image.path
    assert labels.table is not None, folder.told
    fault = fault_in(labels.path, "labels", Choices(), table=labels.table)
    assert fault is not None
    assert fault.code == "E_LABEL"
