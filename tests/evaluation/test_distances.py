import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import KDTree

from medseg.evaluation import distances as module
from medseg.evaluation.distances import Distances, Lattice, Sites

FEW = settings(derandomize=True, max_examples=40, deadline=None)
sides = st.sampled_from([0.3, 1.0, 1.7, 6.0])


def drawn(seed: int, shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]):
    """Two sets of places, near each other or far, and the distances by a tree alone."""
    rng = np.random.default_rng(seed)
    size = int(np.prod(shape))
    others = np.unique(rng.integers(0, max(1, size // rng.integers(1, 9)), 60))
    places = np.unique(np.append(rng.integers(0, size, 200), others[: rng.integers(0, 60)]))
    lattice = Lattice(shape, spacing_mm)
    sites, others = Sites(places, lattice), Sites(others, lattice)
    expected = KDTree(others.points_mm()).query(sites.points_mm())[0]
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
    assert found.most(share) >= percentile - 1e-9
    assert found.percentile(share) == pytest.approx(percentile, abs=1e-9)
    few = Distances(sites, others, look_mm=reach_mm)
    assert (few.within(reach_mm) == (expected <= reach_mm)).all()
    assert (found.within(reach_mm) == (expected <= reach_mm)).all()


def test_a_reach_within_the_looked_up_steps_needs_no_tree(monkeypatch) -> None:
    sites, others, expected = drawn(3, (17, 23, 19), (1.0, 1.0, 1.5))
    assert 0 < (expected <= 1.5).sum() < len(expected)
    found = Distances(sites, others)
    monkeypatch.setattr(module, "KDTree", None)
    assert (found.within(1.5) == (expected <= 1.5)).all()


def test_where_the_box_is_too_large_to_look_up_the_tree_alone_decides(monkeypatch) -> None:
    monkeypatch.setattr(module, "MOST_LOOKED_UP", 10)
    sites, others, expected = drawn(4, (17, 23, 19), (1.0, 2.0, 1.5))
    for reach_mm in (0.0, 1.0, 7.0):
        found = Distances(sites, others)
        assert (found.within(reach_mm) == (expected <= reach_mm)).all()
        assert found.percentile(0.95) == pytest.approx(np.percentile(expected, 95), abs=1e-9)


def test_few_distances_are_measured_one_by_one(monkeypatch) -> None:
    asked = []
    query = KDTree.query

    def counted(self, points):
        asked.append(len(points))
        return query(self, points)

    monkeypatch.setattr(KDTree, "query", counted)
    plane = np.arange(64 * 64)
    lattice = Lattice((64, 64, 64), (1.0, 1.0, 1.0))
    tilted = plane + 64 * 64 * (10 + plane // 64 // 2)
    found = Distances(Sites(tilted, lattice), Sites(plane, lattice))
    assert found.percentile(0.95) == pytest.approx(np.percentile(tilted // 4096, 95))
    assert sum(asked) < len(plane) / 3
