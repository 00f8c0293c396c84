"""The way to the model's grid and back, for every orientation, crop and spacing."""

import json
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.fault import InputFault
from medseg.io.nifti import read_labels, read_volume, write_labels
from medseg.preprocess.geometry import respaced
from medseg.preprocess.normalise import Normalisation
from medseg.preprocess.record import Preprocessing, Record
from medseg.volume import Grid, LabelTable, LabelVolume, Volume

FEW = settings(derandomize=True, max_examples=30, deadline=None)
TABLE = LabelTable.from_names({1: "one", 2: "two", 3: "three"})
AS_IS = (Normalisation("none"),)
ORIENTATIONS = [(a, s) for a in permutations(range(3)) for s in product((1, -1), repeat=3)]


def oriented_grid(orientation, shape, *, spacing_mm=(1.0, 1.5, 2.0), tilt=0.0) -> Grid:
    """A grid whose axes run along the world axes of `orientation`, turned by `tilt` radians."""
    axes, signs = orientation
    affine = np.eye(4)
    affine[:3, :3] = 0
    for column, (axis, sign) in enumerate(zip(axes, signs, strict=True)):
        affine[axis, column] = sign * spacing_mm[column]
    cos, sin = np.cos(tilt), np.sin(tilt)
    turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1.0]])
    affine[:3, :3] = turn @ affine[:3, :3]
    affine[:3, 3] = [11, -7, 30]
    return Grid(shape, affine)


def centers_ras_mm(grid: Grid) -> np.ndarray:
    """World places of all voxels, shape (i, j, k, 3)."""
    index = np.stack(np.meshgrid(*(np.arange(side) for side in grid.shape), indexing="ij"), -1)
    return grid.voxel_to_world(index.reshape(-1, 3)).reshape(*grid.shape, 3)


def ball(grid: Grid, radius_mm: float) -> np.ndarray:
    center = grid.voxel_to_world((np.asarray(grid.shape)[None] - 1) / 2 + 0.2)[0]
    return np.linalg.norm(centers_ras_mm(grid) - center, axis=-1) < radius_mm


def noise_volume(grid: Grid, seed=0, channels=1) -> Volume:
    array = np.random.default_rng(seed).standard_normal((channels, *grid.shape))
    return Volume(array.astype(np.float32), grid, tuple("abcd"[:channels]))


def noise_labels(grid: Grid, seed=0) -> LabelVolume:
    array = np.random.default_rng(seed).integers(0, 4, grid.shape).astype(np.uint8)
    return LabelVolume(array, grid, TABLE)


def margin(volume: Volume, low, high) -> Volume:
    """The volume with zeros outside of [low, side - high)."""
    array = np.zeros_like(volume.array)
    inside = (
        slice(None),
        *(slice(a, side - b) for a, b, side in zip(low, high, volume.grid.shape, strict=True)),
    )
    array[inside] = volume.array[inside] + 100
    return Volume(array, volume.grid, volume.channels)


class TestWithoutResampling:
    @pytest.mark.parametrize("orientation", ORIENTATIONS)
    @pytest.mark.parametrize("crop", ["none", "nonzero"])
    def test_labels_come_back_bit_identical_from_every_orientation(self, orientation, crop):
        grid = oriented_grid(orientation, (5, 6, 7), tilt=0.3)
        low, high = (1, 0, 2), (0, 2, 1)
        volume = margin(noise_volume(grid), low, high)
        inside = volume.array[0] != 0
        labels = noise_labels(grid).array * inside
        steps = Preprocessing(None, AS_IS, crop)
        image, record = steps.apply(volume)
        there = steps.apply_labels(LabelVolume(labels, grid, TABLE), record)
        assert there.shape == image.shape[1:] == record.model_grid.shape
        assert record.model_grid.axis_codes == "RAS"
        back = record.restore_labels(there)
        assert back.dtype == labels.dtype
        assert np.array_equal(back, labels)
        assert (record.crop_shape == (5, 6, 7)) <= (crop == "none")

    @pytest.mark.parametrize("orientation", ORIENTATIONS)
    def test_each_voxel_stays_where_it_is_in_the_patient(self, orientation):
        grid = oriented_grid(orientation, (5, 6, 7), tilt=0.3)
        places = centers_ras_mm(grid)
        volume = margin(
            Volume(np.moveaxis(places, -1, 0).astype(np.float32), grid, ("R", "A", "S")),
            (1, 1, 0),
            (0, 1, 2),
        )
        image, record = Preprocessing(None, AS_IS * 3, "nonzero").apply(volume)
        expected = np.moveaxis(centers_ras_mm(record.model_grid), -1, 0)
        assert np.allclose(image - 100, expected, atol=1e-3)

    @FEW
    @given(
        st.sampled_from(ORIENTATIONS),
        st.tuples(*[st.integers(2, 9)] * 3),
        st.floats(-0.6, 0.6),
        st.integers(0, 99),
    )
    def test_the_same_spacing_stated_is_no_resampling(self, orientation, shape, tilt, seed):
        grid = oriented_grid(orientation, shape, spacing_mm=(0.7, 1.1, 4.3), tilt=tilt)
        _, record = Preprocessing(None, AS_IS).apply(noise_volume(grid))
        stated = Preprocessing(record.model_grid.spacing_mm, AS_IS)
        image, again = stated.apply(noise_volume(grid, seed))
        assert again.model_grid.difference(record.model_grid, tolerance_mm=1e-9) is None
        assert np.array_equal(
            np.sort(image.ravel()), np.sort(noise_volume(grid, seed).array.ravel())
        )
        labels = noise_labels(grid, seed)
        assert np.array_equal(
            again.restore_labels(stated.apply_labels(labels, again)), labels.array
        )

    def test_what_lies_outside_of_the_crop_is_filled(self):
        grid = Grid.from_spacing((4, 4, 4))
        volume = margin(noise_volume(grid), (1, 1, 1), (1, 1, 1))
        _, record = Preprocessing(None, AS_IS, "nonzero").apply(volume)
        placed = record.place(np.full(record.crop_shape, 2, np.uint8), fill=3)
        assert (placed[1:3, 1:3, 1:3] == 2).all()
        assert (placed == 3).sum() == 64 - 8

    def test_the_crop_holds_every_voxel_that_is_not_0_in_any_channel(self):
        grid = Grid.from_spacing((6, 7, 8))
        array = np.zeros((2, 6, 7, 8), np.float32)
        array[0, 1, 2, 3] = -1
        array[1, 4, 2, 5] = 1e-20
        image, record = Preprocessing(None, AS_IS * 2, "nonzero").apply(
            Volume(array, grid, ("a", "b"))
        )
        assert record.box == ((1, 5), (2, 3), (3, 6))
        assert image.shape == (2, 4, 1, 3)


class TestWithResampling:
    @pytest.mark.parametrize("orientation", ORIENTATIONS[::3])
    @pytest.mark.parametrize("spacing_mm", [(1, 1, 1), (0.8, 1.7, 1.3), (3, 3, 3)])
    def test_the_affine_says_where_the_voxels_are(self, orientation, spacing_mm):
        """An image that holds its own coordinates holds them on the model's grid as well."""
        grid = oriented_grid(orientation, (18, 16, 14), tilt=0.2)
        places = np.moveaxis(centers_ras_mm(grid), -1, 0).astype(np.float32)
        image, record = Preprocessing(spacing_mm, AS_IS * 3).apply(
            Volume(places, grid, ("R", "A", "S"))
        )
        expected = np.moveaxis(centers_ras_mm(record.model_grid), -1, 0)
        # At the border the image is continued as a constant, which bends the spline nearby.
        inner = tuple(slice(side // 4, side - side // 4) for side in image.shape[1:])
        assert image[(0, *inner)].size > 0
        assert np.abs(image - expected)[(slice(None), *inner)].max() < 0.02

    @FEW
    @given(
        st.tuples(*[st.integers(2, 40)] * 3),
        st.tuples(*[st.floats(0.3, 6)] * 3),
        st.tuples(*[st.floats(0.3, 6)] * 3),
    )
    def test_the_field_of_view_is_kept(self, shape, old_mm, new_mm):
        grid = Grid.from_spacing(shape, old_mm, (5, 6, 7))
        new = respaced(grid, new_mm)
        for source in (grid, new):
            edges = np.array([[-0.5] * 3, np.asarray(source.shape) - 0.5])
            assert np.allclose(
                source.voxel_to_world(edges),
                grid.voxel_to_world(np.array([[-0.5] * 3, np.asarray(shape) - 0.5])),
            )
        wanted = np.asarray(shape) * old_mm / np.asarray(new_mm)
        assert (np.abs(np.asarray(new.shape) - np.maximum(wanted, 1)) <= 0.5 + 1e-9).all()

    @pytest.mark.parametrize("orientation", ORIENTATIONS[::5])
    @pytest.mark.parametrize(
        ("source_mm", "model_mm"),
        [
            ((1, 1, 1), (1.4, 1.4, 1.4)),
            ((1, 1, 1), (0.7, 0.8, 0.9)),
            ((0.9, 1.3, 2.2), (1.5, 1.5, 1.5)),
            ((0.8, 0.8, 3), (1, 1, 3)),
            ((0.8, 0.8, 3), (0.6, 0.6, 3)),
        ],
    )
    def test_a_ball_comes_back_where_and_as_large_as_it_was(self, orientation, source_mm, model_mm):
        shape = tuple(round(40 / mm) for mm in source_mm)
        grid = oriented_grid(orientation, shape, spacing_mm=source_mm)
        truth = ball(grid, 12.0)
        # Settings speak of R, A and S; the source's axes lie in the order of its orientation.
        ras_mm = tuple(model_mm[orientation[0].index(world)] for world in range(3))
        steps = Preprocessing(ras_mm, AS_IS, "none")
        _, record = steps.apply(Volume(truth[None].astype(np.float32) + 1, grid, ("a",)))
        there = steps.apply_labels(LabelVolume(truth.astype(np.uint8), grid, TABLE), record)
        back = record.restore_labels(there)
        assert back.shape == grid.shape
        apart = np.abs(np.argwhere(back).mean(axis=0) - np.argwhere(truth).mean(axis=0))
        assert apart.max() < 0.1
        assert abs(back.sum() / truth.sum() - 1) < 0.05
        assert 2 * (back.astype(bool) & truth).sum() / (back.sum() + truth.sum()) > 0.96
        # And on the model's own grid it is the ball that one would draw there.
        center = grid.voxel_to_world((np.asarray(grid.shape)[None] - 1) / 2 + 0.2)[0]
        model_center = record.model_grid.voxel_to_world(np.argwhere(there).astype(float)).mean(0)
        assert np.linalg.norm(model_center - center) < 0.1 * max(model_mm)

    @FEW
    @given(
        st.sampled_from(ORIENTATIONS),
        st.tuples(*[st.integers(2, 12)] * 3),
        st.tuples(*[st.floats(0.4, 5)] * 3),
        st.booleans(),
    )
    def test_labels_always_return_to_the_source_grid(self, orientation, shape, spacing_mm, crop):
        grid = oriented_grid(orientation, shape)
        labels = noise_labels(grid)
        volume = noise_volume(grid)
        steps = Preprocessing(spacing_mm, AS_IS, "nonzero" if crop else "none")
        image, record = steps.apply(volume)
        there = steps.apply_labels(labels, record)
        assert image.flags.c_contiguous
        assert there.flags.c_contiguous
        back = record.restore_labels(there)
        assert back.shape == grid.shape
        assert set(np.unique(back)) <= set(np.unique(labels.array))
        channel = record.restore_channel(image[0])
        assert channel.shape == record.crop_shape
        assert channel.dtype == np.float32

    def test_a_channel_comes_back_where_the_labels_do(self):
        """The larger of two restored masks is the restored label map."""
        grid = oriented_grid(((2, 0, 1), (-1, 1, -1)), (20, 18, 16))
        truth = ball(grid, 8.0)
        steps = Preprocessing((1.3, 1.3, 1.3), AS_IS)
        _, record = steps.apply(noise_volume(grid))
        there = steps.apply_labels(LabelVolume(truth.astype(np.uint8), grid, TABLE), record)
        inside = record.restore_channel((there == 1).astype(np.float32))
        outside = record.restore_channel((there == 0).astype(np.float32))
        by_channels = record.place((inside > outside + 1e-6).astype(np.uint8))
        assert np.array_equal(by_channels, record.restore_labels(there))

    def test_thick_slices_keep_to_their_slices(self):
        grid = Grid.from_spacing((16, 16, 5), (1, 1, 6))
        array = np.broadcast_to(np.arange(5, dtype=np.float32), (1, 16, 16, 5)).copy()
        labels = LabelVolume((array[0] % 2).astype(np.uint8), grid, TABLE)
        steps = Preprocessing((1.5, 1.5, 2), AS_IS)
        image, record = steps.apply(Volume(array, grid, ("a",)))
        assert record.coarse_axis == 2
        there = steps.apply_labels(labels, record)
        assert np.array_equal(np.rint(image[0]) % 2, there)
        assert np.allclose(image[0], np.rint(image[0]), atol=1e-4)
        assert np.array_equal(record.restore_labels(there), labels.array)

    def test_each_channel_is_normalised_before_it_is_resampled(self):
        grid = Grid.from_spacing((12, 12, 12))
        steps = (Normalisation("zscore"), Normalisation("range", lower=-1, upper=1))
        volume = noise_volume(grid, channels=2)
        image, _ = Preprocessing((0.7, 0.7, 0.7), steps).apply(volume)
        alone, _ = Preprocessing((0.7, 0.7, 0.7), AS_IS).apply(
            Volume(steps[0].apply(volume.array[0])[None], grid, ("a",))
        )
        assert np.array_equal(image[0], alone[0])
        assert (image[1].min(), image[1].max()) == (0, 1)


class TestFaults:
    GRID = Grid.from_spacing((4, 5, 6))

    def refuses(self, code, call, *args):
        with pytest.raises(InputFault) as fault:
            call(*args)
        assert fault.value.code == code

    def test_another_number_of_channels(self):
        self.refuses(
            "E_CHANNELS", Preprocessing(None, AS_IS).apply, noise_volume(self.GRID, channels=2)
        )

    def test_an_image_of_zeros_cannot_be_cropped(self):
        zeros = Volume(np.zeros((1, 4, 5, 6), np.float32), self.GRID, ("a",))
        self.refuses("E_CONST", Preprocessing(None, AS_IS, "nonzero").apply, zeros)

    def test_labels_on_another_grid(self):
        steps = Preprocessing(None, AS_IS)
        _, record = steps.apply(noise_volume(self.GRID))
        other = Grid.from_spacing((4, 5, 6), origin_ras_mm=(1, 0, 0))
        self.refuses("E_PAIR", steps.apply_labels, noise_labels(other), record)

    def test_a_spacing_that_would_fill_the_memory(self):
        steps = Preprocessing((0.002, 0.002, 0.002), AS_IS)
        self.refuses("E_SPACING", steps.apply, noise_volume(self.GRID))

    @pytest.mark.parametrize("spacing_mm", [(0, 1, 1), (1, -1, 1), (1, 1, float("nan"))])
    def test_a_spacing_that_is_none(self, spacing_mm):
        self.refuses("E_SPACING", Preprocessing, spacing_mm, AS_IS)

    def test_a_crop_that_is_not_known(self):
        self.refuses("E_CROP", Preprocessing, None, AS_IS, "body")


class TestWrittenDown:
    @FEW
    @given(st.sampled_from(ORIENTATIONS), st.floats(-0.5, 0.5), st.floats(0.5, 3))
    def test_a_record_survives_json_bit_by_bit(self, orientation, tilt, spacing):
        grid = oriented_grid(orientation, (5, 6, 7), tilt=tilt)
        volume = margin(noise_volume(grid), (1, 0, 1), (0, 1, 1))
        _, record = Preprocessing((spacing, 1, 2), AS_IS, "nonzero").apply(volume)
        assert Record.from_json(json.loads(json.dumps(record.to_json()))) == record

    def test_settings_survive_json(self):
        for spacing_mm in (None, (1.0, 0.5, 1 / 3)):
            steps = Preprocessing(
                spacing_mm,
                (Normalisation("zscore"), Normalisation("range", lower=0, upper=1)),
                "nonzero",
            )
            again = Preprocessing.from_json(json.loads(json.dumps(steps.to_json())))
            assert again == steps
            assert again.digest() == steps.digest()

    def test_any_other_setting_is_another_digest(self):
        digests = {
            Preprocessing(spacing, normalisation, crop).digest()
            for spacing in (None, (1, 1, 1), (1, 1, 1.5))
            for normalisation in (AS_IS, (Normalisation("zscore"),))
            for crop in ("none", "nonzero")
        }
        assert len(digests) == 12


def test_a_real_volume_goes_there_and_back(shared_data: Path, tmp_path: Path):
    folder = shared_data / "hippocampus"
    name = min(path.name for path in (folder / "labelsTr").glob("*.nii.gz"))
    volume = read_volume([folder / "imagesTr" / name], ["MRI"])
    table = LabelTable.from_names({1: "anterior", 2: "posterior"})
    labels = read_labels(folder / "labelsTr" / name, table)
    for spacing_mm, least in ((None, 1.0), ((1.0, 1.0, 1.0), 1.0), ((0.8, 0.8, 0.8), 0.97)):
        steps = Preprocessing(spacing_mm, (Normalisation("zscore"),), "nonzero")
        _, record = steps.apply(volume)
        back = record.restore_labels(steps.apply_labels(labels, record))
        for value in (1, 2):
            both = ((back == value) & (labels.array == value)).sum()
            dice = 2 * both / ((back == value).sum() + (labels.array == value).sum())
            assert dice >= least
        write_labels(tmp_path / "back.nii.gz", LabelVolume(back, record.source_grid, table))
        assert read_labels(tmp_path / "back.nii.gz", table).grid == labels.grid
