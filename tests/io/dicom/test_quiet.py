"""What pydicom says of a header quotes it; none of that is heard."""

import logging
import warnings
from pathlib import Path

import pytest

from medseg.fault import InputFault
from tests.io import canary
from tests.io.dicom.case import found_by_medseg
from tests.io.dicom.packing import directory_of
from tests.io.dicom.phantom import Made


@pytest.mark.parametrize("name", ["SOPInstanceUID", "FrameOfReferenceUID", "SeriesDescription"])
def test_no_warning_and_no_log_line_quotes_a_header(
    name: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    recwarn: pytest.WarningsRecorder,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Made(header={name: "CANARY^JANE " * 9}).write(tmp_path / "in")
        directory_of([["CANARY JANE", "x" * 70]], tmp_path / "in" / "D")
    caplog.clear()
    caplog.set_level(logging.DEBUG)
    level = logging.getLogger("pydicom").level
    said = [told(given) for given in (tmp_path / "in", tmp_path / "in" / "D")]
    said += [caplog.text, *capfd.readouterr()]
    assert not canary.has_word("".join(said).encode())
    assert not recwarn.list
    assert logging.getLogger("pydicom").level == level


def told(given: Path) -> str:
    try:
        return str(found_by_medseg(given)[1])
    except InputFault as fault:
        return str(fault)


def test_the_log_would_have_been_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The control: with plain pydicom the words are there."""
    from pydicom import dcmread  # noqa: PLC0415

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Made(header={"FrameOfReferenceUID": "CANARY^JANE " * 9}).write(tmp_path / "in")[0]
        caplog.clear()
        str(dcmread(path).FrameOfReferenceUID)
    assert canary.has_word(caplog.text.encode())
