import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import KDTree

from medseg.evaluation import distances as module
from medseg.evaluation.distances import MARGIN, Distances, Lattice, Sites, with_margin

FEW = settings(derandomize=True, max_examples=40, deadline=None)
sides = st.sampled_from([0.3, 1.0, 1.7, 6.0])


def drawn(seed: int, shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]):
    """Two sets of places, near each other or far, and the distances by a tree alone."""
    rng = np.random.default_rng(seed)
    size = int(np.prod(shape))
    others = np.unique(rng.integers(0, max(1, size // rng.integers(1, 9)), 60))
    places = np.unique(np.append(rng.integers(0, size, 200), others[: rng.integers(0, 60)]))
    lattice = Lattice(tuple(side + 2 * MARGIN for side in shape), spacing_mm)
    inside = np.flatnonzero(with_margin(np.ones(shape, dtype=bool)))
    sites, others = Sites(inside[places], lattice), Sites(inside[others], lattice)
    expected = KDTree(others.points_mm).query(sites.points_mm)[0]
    return sites, others, expected


@FEW
@given(st.integers(0, 999), st.tuples(sides, sides, sides), st.floats(0, 1), st.floats(0, 30))
def test_percentiles_and_what_is_within_reach_are_those_of_all_distances(
    seed: int, spacing_mm: tuple[float, float, float], share: float, reach_mm: float
) -> None:
    sites, others, expected = drawn(seed, (17, 23, 19), spacing_mm)
    found = Distances(sites, others)
    if seed % 2:
        assert (found.within(reach_mm) == (expected <= reach_mm)).all()
    percentile = float(np.percentile(expected, 100 * share))
    for at_least in (0.0, percentile - 0.1, percentile + 0.1):
        found = Distances(sites, others)
        expected_now = max(percentile, at_least)
        assert found.percentile(share, at_least) == pytest.approx(expected_now, abs=1e-9)
    few = Distances(sites, others, look_mm=reach_mm)
    assert (few.within(reach_mm) == (expected <= reach_mm)).all()
    assert (found.within(reach_mm) == (expected <= reach_mm)).all()


def test_a_reach_within_the_looked_up_steps_needs_no_tree(monkeypatch) -> None:
    sites, others, expected = drawn(3, (17, 23, 19), (1.0, 1.0, 1.5))
    assert 0 < (expected <= 1.5).sum() < len(expected)
    found = Distances(sites, others)
    monkeypatch.setattr(module, "KDTree", None)
    assert (found.within(1.5) == (expected <= 1.5)).all()


def test_a_search_leaves_no_marks_for_the_next() -> None:
    sites, others, _ = drawn(4, (17, 23, 19), (1.0, 2.0, 1.5))
    Distances(sites, others)
    assert not sites.lattice.marks.any()


def test_what_a_percentile_cannot_pass_is_not_measured(monkeypatch) -> None:
    sites, others, expected = drawn(3, (17, 23, 19), (1.0, 1.0, 1.5))
    monkeypatch.setattr(module, "BLOCKS", (1,))
    monkeypatch.setattr(module, "KDTree", None)
    share = np.count_nonzero(expected <= 1.5) / len(expected) / 2
    assert Distances(sites, others).percentile(share, at_least=2.0) == 2.0


def test_few_distances_are_measured_one_by_one(monkeypatch) -> None:
    asked = []
    query = KDTree.query

    def counted(self, points):
        asked.append(len(points))
        return query(self, points)

    monkeypatch.setattr(KDTree, "query", counted)
    side = 64 + 2 * MARGIN
    i, j, k = np.unravel_index(np.arange(64**3), (64, 64, 64))
    inside = ((i + MARGIN) * side + j + MARGIN) * side + k + MARGIN
    lattice = Lattice((side, side, side), (1.0, 1.0, 1.0))
    is_tilted = i == 10 + j // 2
    plane, tilted = inside[i == 0], inside[is_tilted]
    found = Distances(Sites(tilted, lattice), Sites(plane, lattice))
    assert found.percentile(0.95) == pytest.approx(np.percentile(i[is_tilted], 95))
    assert sum(asked) < len(plane) / 3
