"""A series with a mutated file is refused with a sentence, or read as made or as it says."""

import pytest

from tests.benchmarks.fuzz_dicom import SLOW_S, fuzz


def test_two_thousand_mutated_series_end_well() -> None:
    tally = fuzz(2000, seed=0)
    assert tally.findings == []
    assert tally.slowest_s < SLOW_S
    assert sum(tally.outcomes.values()) == 2000
    # Else it refused everything, or nothing.
    assert tally.outcomes["read as made"] > 400
    assert tally.outcomes["read as the element says"] > 3
    assert len(tally.outcomes) > 10


@pytest.mark.slow
def test_mutated_packed_series_end_well() -> None:
    tally = fuzz(400, seed=5, packed=True)
    assert tally.findings == []
