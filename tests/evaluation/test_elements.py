import warnings

import numpy as np
import pytest
import torch
from monai.metrics.utils import create_table_neighbour_code_to_surface_area
from scipy import ndimage

from medseg.evaluation.distances import MARGIN, Lattice, with_margin
from medseg.evaluation.elements import (
    CORNERS,
    Elements,
    element_areas_mm2,
    elements_nsd,
    surface_elements,
)

# The bit that DeepMind's tables give to each of the eight voxels.
BITS = {corner: 1 << (7 - place) for place, corner in enumerate(CORNERS)}
SPACING_MM = (0.7, 1.1, 2.5)


@pytest.fixture(scope="module")
def deepminds():
    return pytest.importorskip(
        "surface_distance.metrics", reason="needs surface-distance-based-measures"
    )


def masks(count: int) -> np.ndarray:
    """Smooth masks that touch each other and the ends of the volume."""
    noise = np.random.default_rng(count).standard_normal((count + 1, 24, 22, 19))
    return np.argmax([ndimage.gaussian_filter(n, 1.5) for n in noise], axis=0).astype(np.uint8)


def by_place(elements: Elements) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(elements.places)
    return elements.places[order], elements.kinds[order]


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), SPACING_MM])
def test_all_256_areas_are_those_of_the_published_table(
    spacing_mm: tuple[float, float, float],
) -> None:
    theirs = np.asarray(create_table_neighbour_code_to_surface_area(spacing_mm)[0])
    ours = element_areas_mm2(*spacing_mm)
    for kind in range(256):
        inside = [corner for place, corner in enumerate(CORNERS) if kind >> place & 1]
        assert ours[kind] == pytest.approx(theirs[sum(BITS[c] for c in inside)], rel=1e-5)
    assert (ours[1:-1] > 0).all()
    assert ours[0] == ours[-1] == 0


def test_a_plane_has_its_area_and_a_large_ball_nearly_so() -> None:
    block = np.zeros((12, 12, 12), dtype=np.uint8)
    block[:6] = 1
    (found,) = surface_elements(with_margin(block), 1)
    inner = found.kinds[found.places // 16**2 == 5 + MARGIN]
    assert np.bincount(inner).max() == 11 * 11
    assert element_areas_mm2(1, 2, 3)[np.bincount(inner).argmax()] == pytest.approx(6)
    away = np.linalg.norm(np.indices((64, 64, 64)) - 31.5, axis=0)
    (ball,) = surface_elements(with_margin(away < 25).view(np.uint8), 1)
    area = element_areas_mm2(1, 1, 1)[ball.kinds].sum()
    assert area == pytest.approx(4 * np.pi * 25**2, rel=0.1)


def test_masks_in_one_pass_are_those_of_each_alone() -> None:
    indices = with_margin(masks(6))
    together = surface_elements(indices, 7)
    for value in range(1, 7):
        (alone,) = surface_elements((indices == value).astype(np.uint8), 1)
        for one, other in zip(by_place(together[value - 1]), by_place(alone), strict=True):
            np.testing.assert_array_equal(one, other)
    assert together[6].places.size == 0


@pytest.mark.parametrize("tolerance_mm", [0.0, 0.7, 1.5, 6.0])
def test_the_nsd_is_that_of_deepminds_surface_distance(deepminds, tolerance_mm: float) -> None:
    truth = masks(1).astype(bool)
    prediction = ndimage.shift(truth.astype(float), (1, 0.6, -0.6), order=1) > 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        distances = deepminds.compute_surface_distances(truth, prediction, SPACING_MM)
    theirs = deepminds.compute_surface_dice_at_tolerance(distances, tolerance_mm + 1e-6)
    around = [with_margin(mask).view(np.uint8) for mask in (prediction, truth)]
    one, other = (surface_elements(indices, 1)[0] for indices in around)
    ours = elements_nsd(one, other, Lattice(around[0].shape, SPACING_MM), tolerance_mm)
    assert ours == pytest.approx(theirs, abs=1e-9)
    assert ours > 0


def test_more_points_than_are_taken_at_once() -> None:
    noise = with_margin(np.random.default_rng(0).random((60, 60, 60)) < 0.5).view(np.uint8)
    (found,) = surface_elements(noise, 1)
    assert len(found.places) > 2 * 65_536
    around = torch.from_numpy(noise)[None, None].float()
    weights = torch.tensor([1.0 * (1 << n) for n in range(8)]).reshape(1, 1, 2, 2, 2)
    kinds = torch.nn.functional.conv3d(around, weights)[0, 0].numpy().astype(np.uint8)
    kinds = np.pad(kinds, (0, 1)).ravel()
    places = np.flatnonzero((kinds != 0) & (kinds != 255))
    for one, other in zip(by_place(found), (places, kinds[places]), strict=True):
        np.testing.assert_array_equal(one, other)
