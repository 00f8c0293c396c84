"""Grids: places in the patient, orientations, and what no patient can have."""

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.fault import InputFault
from medseg.volume import Grid, shown

FEW = settings(derandomize=True, max_examples=50, deadline=None)
ORIENTATIONS = [(a, s) for a in permutations(range(3)) for s in product((1, -1), repeat=3)]

spacings = st.tuples(*[st.floats(0.1, 10)] * 3)
shapes = st.tuples(*[st.integers(1, 200)] * 3)


@st.composite
def grids(draw):
    """Grids of any orientation, turned by any angle."""
    generator = np.random.default_rng(draw(st.integers(0, 10_000)))
    turn, _ = np.linalg.qr(generator.standard_normal((3, 3)))
    affine = np.eye(4)
    affine[:3, :3] = turn * np.asarray(draw(spacings))
    affine[:3, 3] = generator.uniform(-500, 500, 3)
    return Grid(draw(shapes), affine)


class TestPlaces:
    @FEW
    @given(grids(), st.integers(0, 999))
    def test_to_the_world_and_back_is_identity(self, grid, seed):
        points = np.random.default_rng(seed).uniform(-100, 300, (7, 3))
        assert np.allclose(grid.world_to_voxel(grid.voxel_to_world(points)), points, atol=1e-8)

    @FEW
    @given(grids())
    def test_a_step_along_an_axis_is_its_spacing(self, grid):
        steps = grid.voxel_to_world(np.eye(3)) - grid.voxel_to_world(np.zeros((1, 3)))
        assert np.allclose(np.linalg.norm(steps, axis=1), grid.spacing_mm)
        assert np.isclose(grid.voxel_volume_mm3, np.prod(grid.spacing_mm))

    @FEW
    @given(grids())
    def test_the_first_and_last_corner_are_the_first_and_last_voxel(self, grid):
        corners = grid.corners_ras_mm()
        assert corners.shape == (8, 3)
        assert np.allclose(corners[0], grid.origin_ras_mm)
        last = (np.asarray(grid.shape) - 1)[None]
        assert np.allclose(corners[-1], grid.voxel_to_world(last)[0])

    def test_an_axis_aligned_grid(self):
        grid = Grid.from_spacing((2, 3, 4), (1, 2, 3), (10, 20, 30))
        assert grid.axis_codes == "RAS"
        assert grid.spacing_mm == (1, 2, 3)
        assert grid.voxel_to_world(np.array([[1, 1, 1]])).tolist() == [[11, 22, 33]]


class TestOrientation:
    @pytest.mark.parametrize(("axes", "signs"), ORIENTATIONS)
    def test_every_orientation_is_named(self, axes, signs):
        affine = np.zeros((4, 4))
        affine[3, 3] = 1
        for column, (axis, sign) in enumerate(zip(axes, signs, strict=True)):
            affine[axis, column] = 2.0 * sign
        grid = Grid((3, 3, 3), affine)
        assert grid.nearest_axes() == (axes, signs)
        names = ("LR", "PA", "IS")
        assert grid.axis_codes == "".join(
            names[axis][sign > 0] for axis, sign in zip(axes, signs, strict=True)
        )

    @FEW
    @given(grids())
    def test_each_world_axis_is_taken_once(self, grid):
        axes, signs = grid.nearest_axes()
        assert sorted(axes) == [0, 1, 2]
        assert set(signs) <= {1, -1}

    def test_a_turn_of_45_degrees_still_has_three_different_axes(self):
        half = 0.5**0.5
        affine = np.eye(4)
        affine[:3, :3] = [[half, half, 0], [half, -half, 0], [0, 0, 1]]
        assert sorted(Grid((2, 2, 2), affine).nearest_axes()[0]) == [0, 1, 2]


class TestDifference:
    @FEW
    @given(grids())
    def test_a_grid_does_not_differ_from_itself(self, grid):
        again = Grid(grid.shape, grid.affine.copy())
        assert grid.difference(again) is None
        assert grid == again
        assert hash(grid) == hash(again)

    def test_each_difference_is_told(self):
        grid = Grid.from_spacing((4, 5, 6))
        assert grid.difference(Grid.from_spacing((4, 5, 7))) == "4x5x6 voxels against 4x5x7"
        flipped = Grid((4, 5, 6), np.diag([-1.0, 1, 1, 1]))
        assert grid.difference(flipped) == "orientation RAS against LAS"
        moved = Grid.from_spacing((4, 5, 6), origin_ras_mm=(0, 2, 0))
        assert grid.difference(moved) == "corners up to 2 mm apart"
        assert grid.difference(moved, tolerance_mm=2.5) is None
        assert grid != moved
        assert grid != "grid"


class TestRefused:
    @pytest.mark.parametrize(
        ("shape", "affine", "code"),
        [
            ((3, 3), np.eye(4), "E_NDIM"),
            ((3, 3, 3, 3), np.eye(4), "E_NDIM"),
            ((0, 3, 3), np.eye(4), "E_DIM"),
            ((3, 40_000, 3), np.eye(4), "E_DIM"),
            ((3, 3, 3), np.eye(3), "E_AFFINE"),
            ((3, 3, 3), np.diag([1, np.nan, 1, 1]), "E_AFFINE"),
            ((3, 3, 3), np.diag([1, np.inf, 1, 1]), "E_AFFINE"),
            ((3, 3, 3), np.diag([1, 1, 1, 2]), "E_AFFINE"),
            ((3, 3, 3), np.diag([1, 0, 1, 1.0]), "E_PIXDIM"),
            ((3, 3, 3), np.diag([1, 2000, 1, 1.0]), "E_PIXDIM"),
            ((3, 3, 3), [[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1]], "E_AFFINE"),
            ((3, 3, 3), [[1, 1, 0, 0], [0, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 1]], "E_AFFINE"),
            ((3, 3, 3), [[1, 0.01, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], "E_SHEAR"),
        ],
    )
    def test_what_no_patient_can_have(self, shape, affine, code):
        with pytest.raises(InputFault) as fault:
            Grid(shape, np.asarray(affine, dtype=float))
        assert fault.value.code == code
        assert str(fault.value).endswith(".")

    def test_the_affine_cannot_be_changed(self):
        source = np.eye(4)
        grid = Grid((2, 2, 2), source)
        with pytest.raises(ValueError, match="read-only"):
            grid.affine[0, 0] = 2
        source[0, 0] = 2
        assert grid.affine[0, 0] == 1


def test_shapes_are_shown_as_people_write_them():
    assert shown((35, 51, 35)) == "35x51x35"
