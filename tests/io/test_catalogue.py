"""Every input of the catalogue is read right or refused with its code; the log shows the table."""

import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.io.catalogue.case import READ, Case
from tests.io.catalogue.readers import outcome, outcomes
from tests.io.catalogue.table import CATALOGUE

CODES = {
    *("E_GZIP", "E_TRUNC", "E_MAGIC", "E_NOTFILE", "E_TOOBIG", "E_BOMB", "E_DIM", "E_NDIM"),
    *("E_SINGLE", "E_CHANNELS", "E_DTYPE", "E_VOXOFF", "E_PIXDIM", "E_QFORM", "E_AFFINE"),
    *("E_NOFORM", "E_QSFORM", "E_SHEAR", "E_SCALE", "E_NONFINITE", "E_RANGE", "E_CONST"),
    *("E_LABEL", "E_PAIR"),
}


@pytest.mark.parametrize("case", CATALOGUE.cases, ids=lambda case: case.name)
def test_an_input_ends_as_it_must(case: Case, tmp_path: Path) -> None:
    assert outcome(case, tmp_path) == case.expected


def test_the_table_tells_what_came_of_each_input() -> None:
    """Shown in the log of `pytest -s` and `pytest -rP`."""
    got = outcomes(CATALOGUE.cases)
    sys.stdout.write(f"{CATALOGUE.table(got)}\n")
    assert CATALOGUE.counts(got).startswith(
        f"{len(CATALOGUE.refused)} of {len(CATALOGUE.refused)} refused with their code, "
        f"{len(CATALOGUE.readable)} of {len(CATALOGUE.readable)} read right"
    )
    assert "<--" not in CATALOGUE.table(got)
    assert "<--" in CATALOGUE.table({**got, CATALOGUE.cases[0].name: READ})


def test_there_are_as_many_inputs_as_were_promised() -> None:
    assert len(CATALOGUE.refused) >= 160
    assert len(CATALOGUE.readable) >= 100
    assert max(Counter(case.name for case in CATALOGUE.cases).values()) == 1
    assert {case.expected for case in CATALOGUE.refused} == CODES
    assert {case.expected for case in CATALOGUE.readable} == {READ}
