import numpy as np
import pytest

from medseg.preprocess.onto import covered_share, image_onto, labels_onto
from medseg.volume import Grid


def placed(
    spacing_mm: tuple[float, float, float],
    shape: tuple[int, int, int],
    *,
    degrees: float = 0.0,
    center_mm: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Grid:
    """A grid around a point, turned about two axes."""
    a = np.radians(degrees)
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x * spacing_mm
    affine[:3, 3] = center_mm - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid(shape, affine)


def points(grid: Grid) -> np.ndarray:
    return grid.voxel_to_world(np.stack(np.indices(grid.shape), axis=-1).reshape(-1, 3))


def plane(grid: Grid) -> np.ndarray:
    """Values that linear interpolation gives exactly."""
    values = 40 + points(grid) @ [1.5, -2.0, 0.7]
    return values.reshape(grid.shape).astype(np.float32)


SOURCE = placed((1.0, 1.2, 2.0), (40, 34, 21), degrees=12)
TARGET = placed((1.5, 1.5, 1.5), (12, 12, 14), degrees=-25, center_mm=(1.0, -2.0, 0.5))


def test_an_image_has_its_values_at_the_points_of_the_other_grid() -> None:
    found = image_onto(plane(SOURCE), SOURCE, TARGET)
    assert found.shape == TARGET.shape
    assert found.dtype == np.float32
    assert np.abs(found - plane(TARGET)).max() < 1e-3


def test_a_grid_that_runs_the_other_way_gives_the_same_patient() -> None:
    flipped = SOURCE.affine.copy()
    flipped[:3, 3] += flipped[:3, 0] * (SOURCE.shape[0] - 1)
    flipped[:3, 0] *= -1
    mirrored = Grid(SOURCE.shape, flipped)
    assert np.allclose(image_onto(plane(SOURCE), SOURCE, mirrored), plane(SOURCE)[::-1], atol=1e-3)


def test_the_own_grid_changes_nothing() -> None:
    image = np.random.default_rng(0).normal(size=SOURCE.shape).astype(np.float32)
    assert np.abs(image_onto(image, SOURCE, SOURCE) - image).max() < 1e-5


def test_outside_stands_the_lowest_value() -> None:
    away = placed((1.0, 1.0, 1.0), (5, 6, 7), center_mm=(500.0, 0.0, 0.0))
    found = image_onto(plane(SOURCE), SOURCE, away)
    assert np.all(found == plane(SOURCE).min())


def test_labels_are_those_of_the_nearest_voxel() -> None:
    labels = np.random.default_rng(1).integers(0, 4, SOURCE.shape).astype(np.uint8)
    found = labels_onto(labels, SOURCE, TARGET)
    assert found.dtype == np.uint8
    at = SOURCE.world_to_voxel(points(TARGET))
    clear = (np.abs(at - np.floor(at) - 0.5) > 1e-6).all(axis=1)
    nearest = np.rint(at).astype(int)
    inside = ((nearest >= 0) & (nearest < SOURCE.shape)).all(axis=1)
    assert inside.all()
    assert clear.sum() > 0.99 * len(clear)
    assert np.array_equal(found.ravel()[clear], labels[tuple(nearest[clear].T)])


def test_outside_is_background() -> None:
    labels = np.full(SOURCE.shape, 3, np.int16)
    larger = placed((2.0, 2.0, 2.0), (60, 60, 60))
    found = labels_onto(labels, SOURCE, larger)
    at = SOURCE.world_to_voxel(points(larger))
    beyond = ((at < -0.51) | (at > np.array(SOURCE.shape) - 0.49)).any(axis=1)
    assert beyond.sum() > 1000
    assert not found.ravel()[beyond].any()
    assert set(np.unique(found)) == {0, 3}


@pytest.mark.parametrize("planes", [1, 7, 8, 9, 17])
def test_planes_come_out_alike_however_many_are_done_at_once(planes: int) -> None:
    target = placed((1.0, 1.0, 1.0), (9, 9, planes), degrees=20)
    assert np.abs(image_onto(plane(SOURCE), SOURCE, target) - plane(target)).max() < 1e-3


@pytest.mark.parametrize(
    ("center_mm", "share"), [((0, 0, 0), 1.0), ((10, 0, 0), 0.5), ((0, 0, 99), 0.0)]
)
def test_the_share_that_is_covered(center_mm: tuple[float, float, float], share: float) -> None:
    source = placed((1.0, 1.0, 1.0), (20, 20, 20))
    target = placed((1.0, 1.0, 1.0), (20, 20, 20), center_mm=center_mm)
    assert covered_share(source, target) == pytest.approx(share, abs=0.05)
