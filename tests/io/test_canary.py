"""What a NIfTI header says of the patient is in no message and in nothing that is written."""

import logging
import struct
from pathlib import Path

import pytest

from medseg.fault import InputFault
from medseg.io.nifti import read_labels, read_volume, write_labels, write_volume
from tests.io import canary
from tests.io.catalogue.case import READ, Case
from tests.io.catalogue.made import IMAGE, LABELS, PLACE
from tests.io.catalogue.packing import FIELDS, packed_nifti
from tests.io.catalogue.readers import TABLE, found_by_medseg
from tests.io.catalogue.table import CATALOGUE

# Those whose file is a plain little-endian NIfTI-1: the others have no such fields, or are cut.
ALONE = [case for case in CATALOGUE.cases if case.files == 1]


def with_words(path: Path) -> bool:
    """Whether the texts could be written into the file."""
    if not path.is_file() or path.is_symlink():
        return False
    data = path.read_bytes()
    if len(data) < 400 or data[:4] != (348).to_bytes(4, "little") or data[344:348] != b"n+1\0":
        return False
    offset = float(struct.unpack_from("<f", data, FIELDS[1]["vox_offset"][1])[0])
    if offset == 352 and data[348:352] == bytes(4):
        path.write_bytes(canary.marked(data))
    else:
        marked = bytearray(data)
        for place, (length, text) in canary.TEXTS.items():
            marked[place : place + length] = text[:length].ljust(length, b"\0")
        path.write_bytes(marked)
    return True


def test_no_message_of_a_refusal_or_a_log_holds_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    refused = read = 0
    for number, case in enumerate(ALONE):
        folder = tmp_path / str(number)
        folder.mkdir()
        paths = case.build(folder)
        if not with_words(paths[0]):
            continue
        message = message_of(case, paths)
        refused += message is not None
        read += message is None
        assert not canary.has_word((message or "").encode()), message
    out, err = capfd.readouterr()
    assert not canary.has_word((out + err + caplog.text).encode())
    assert refused > 90
    assert read > 50


def message_of(case: Case, paths: tuple[Path, ...]) -> str | None:
    try:
        found_by_medseg(case, paths)
    except InputFault as fault:
        return f"{fault} {fault!r} {fault.code} {fault.__cause__!r}"
    assert case.expected == READ, case.name
    return None


@pytest.mark.parametrize(
    "content",
    [
        canary.NAME * 100,
        b"PatientName: " + canary.NAME * 50,
        bytes(128) + b"DICM" + canary.NAME * 50,
        b"NRRD0004\n# " + canary.NAME * 50,
        b"\x1f\x8b\x08\x08" + bytes(6) + canary.NAME + b"\0" + canary.UID * 50,
    ],
)
def test_a_file_of_another_kind_is_not_quoted(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.nii.gz"
    path.write_bytes(content)
    with pytest.raises(InputFault) as fault:
        read_volume([path], ["CT"])
    assert not canary.has_word(str(fault.value).encode())
    assert "CAN" not in str(fault.value).removeprefix(str(path))


def test_what_is_written_from_such_a_file_does_not_hold_it(tmp_path: Path) -> None:
    source, out = tmp_path / "in.nii", tmp_path / "out"
    source.write_bytes(canary.marked(packed_nifti(IMAGE, PLACE)))
    write_volume(out / "image.nii.gz", read_volume([source], ["CT"]))
    write_volume(out / "image.nii", read_volume([source], ["CT"]))
    source.write_bytes(canary.marked(packed_nifti(LABELS, PLACE)))
    write_labels(out / "labels.nii.gz", read_labels(source, TABLE))
    assert canary.holders(out) == []
    assert canary.holders(tmp_path) == [source]
