"""Mutated files are refused with a sentence, or read as nibabel reads them."""

from tests.benchmarks.fuzz_nifti import SLOW_S, fuzz


def test_two_thousand_mutated_files_end_well() -> None:
    tally = fuzz(2000, seed=0)
    assert tally.findings == []
    assert tally.slowest_s < SLOW_S
    assert sum(tally.outcomes.values()) == 2000
    # Else it compared nothing, or refused everything.
    assert tally.compared > 500
    assert tally.outcomes["read"] == tally.compared
    assert len(tally.outcomes) > 12
