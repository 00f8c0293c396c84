"""Every series of the catalogue is read right or refused with its code; the log shows the table."""

import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.io.dicom.case import READ, Case, outcome
from tests.io.dicom.table import CATALOGUE

CODES = {
    *("E_GAP", "E_DUPLICATE", "E_PHASES", "E_SINGLE", "E_MIXED", "E_SERIES", "E_TILT", "E_SCOUT"),
    *("E_COPY", "E_NODATA", "E_NOTFILE", "E_MAGIC", "E_DICOMDIR", "E_BOMB", "E_ZIP", "E_DICOM"),
    *("E_NOSPACING", "E_NOPOSITION", "E_TRUNC", "E_SCALE", "E_ORIENTATION", "E_COLOR", "E_DTYPE"),
    *("E_CONST", "E_NONFINITE", "E_SYNTAX", "E_CODEC", "E_SUV"),
}
GOT: dict[str, str] = {}


@pytest.mark.parametrize("case", CATALOGUE.cases, ids=lambda case: case.name)
def test_a_series_ends_as_it_must(case: Case, tmp_path: Path) -> None:
    GOT[case.name] = outcome(case, tmp_path)
    assert GOT[case.name] == case.expected


def test_the_table_tells_what_came_of_each_series(tmp_path: Path) -> None:
    """Shown in the log of `pytest -s` and `pytest -rP`; cases that did not run before run here."""
    for number, case in enumerate(CATALOGUE.cases):
        if case.name not in GOT:
            (tmp_path / str(number)).mkdir()
            GOT[case.name] = outcome(case, tmp_path / str(number))
    sys.stdout.write(f"{CATALOGUE.table(GOT)}\n")
    assert CATALOGUE.counts(GOT).startswith(
        f"{len(CATALOGUE.refused)} of {len(CATALOGUE.refused)} refused with their code, "
        f"{len(CATALOGUE.readable)} of {len(CATALOGUE.readable)} read right"
    )
    assert "<--" not in CATALOGUE.table(GOT)
    assert "<--" in CATALOGUE.table({**GOT, CATALOGUE.cases[0].name: READ})


def test_there_are_as_many_series_as_were_promised() -> None:
    assert len(CATALOGUE.refused) >= 140
    assert len(CATALOGUE.readable) >= 70
    assert max(Counter(case.name for case in CATALOGUE.cases).values()) == 1
    assert {case.expected for case in CATALOGUE.refused} == CODES
    assert {case.expected for case in CATALOGUE.readable} == {READ}
