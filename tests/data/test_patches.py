import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from medseg.data.augment import Augmentation, rotation
from medseg.data.chance import SAMPLE, state
from medseg.data.patches import Patch, place_anywhere, place_around, read_patch

SHAPE = (30, 40, 20)
SIZE = (12, 15, 10)
TURNED = Augmentation(rotation_probability=1.0, scale_probability=1.0)
SCALED = Augmentation(rotation_probability=0.0, scale_probability=1.0)


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).random((2, *SHAPE)).astype(np.float32)


@pytest.fixture
def labels() -> np.ndarray:
    """Four smooth bodies that touch, values with a gap."""
    noise = np.random.default_rng(1).standard_normal((4, *SHAPE))
    bodies = np.stack([ndimage.gaussian_filter(part, 3) for part in noise])
    return np.array([0, 1, 2, 5], dtype=np.uint8)[bodies.argmax(0)]


def _by_scipy(array: np.ndarray, patch: Patch) -> np.ndarray:
    assert patch.matrix is not None
    offset = np.array(patch.center) - patch.matrix @ ((np.array(patch.size) - 1) / 2)
    return ndimage.affine_transform(
        array,
        patch.matrix,
        offset=offset,
        output_shape=patch.size,
        order=1,
        mode="grid-constant",
    )


def _patch(augmentation: Augmentation, number: int, center: tuple[float, float, float]) -> Patch:
    chance = state(0, SAMPLE, number)
    return Patch(SIZE, center, augmentation.matrix(chance, (1.0, 1.2, 2.0)))


@pytest.mark.parametrize("augmentation", [TURNED, SCALED])
@pytest.mark.parametrize("center", [(15.0, 18.5, 9.5), (2.0, 39.0, 10.0), (-3.0, 20.0, 22.0)])
def test_a_turned_patch_is_what_scipy_reads(
    image: np.ndarray,
    labels: np.ndarray,
    augmentation: Augmentation,
    center: tuple[float, float, float],
) -> None:
    for number in range(5):
        patch = _patch(augmentation, number, center)
        got, mask = read_patch(image, labels, patch)
        expected = np.stack([_by_scipy(channel, patch) for channel in image])
        np.testing.assert_allclose(got, expected, atol=2e-5)
        assert mask.shape == SIZE
        assert mask.dtype == np.uint8


@pytest.mark.parametrize("augmentation", [TURNED, SCALED])
def test_labels_of_a_turned_patch_are_the_largest_interpolated_mask(
    image: np.ndarray, labels: np.ndarray, augmentation: Augmentation
) -> None:
    seen = set()
    for number in range(6):
        patch = _patch(augmentation, number, (4.0, 20.0, 9.5))
        _, got = read_patch(image, labels, patch)
        values = [1, 2, 5]
        masks = np.stack([_by_scipy((labels == v).astype(np.float64), patch) for v in values])
        scores = np.concatenate([1 - masks.sum(0, keepdims=True), masks])
        ranked = np.sort(scores, axis=0)
        clear = ranked[-1] - ranked[-2] > 1e-4
        assert clear.mean() > 0.95
        expected = np.array([0, *values])[scores.argmax(0)]
        np.testing.assert_array_equal(got[clear], expected[clear])
        seen |= set(np.unique(got))
    assert seen == {0, 1, 2, 5}


def test_linear_labels_are_nearer_to_the_shape_than_the_nearest_label() -> None:
    axes = np.stack(np.meshgrid(*(np.arange(s) - (s - 1) / 2 for s in (28, 36, 28)), indexing="ij"))

    def inside(points: np.ndarray) -> np.ndarray:
        i, j, k = points
        return (i / 5.2) ** 2 + (j / 10.7) ** 2 + (k / 6.3) ** 2 < 1

    shape = inside(axes).astype(np.uint8)
    ours, nearest = [], []
    for number in range(8):
        patch = Patch(
            (32, 32, 32), (13.5, 17.5, 13.5), TURNED.matrix(state(0, 2, number), (1, 1, 1))
        )
        places = np.stack(
            np.meshgrid(*(np.arange(s) - (s - 1) / 2 for s in patch.size), indexing="ij")
        )
        truth = inside(np.einsum("ab,bijk->aijk", patch.matrix, places))
        for found, dice in (
            (read_patch(shape[None].astype(np.float32), shape, patch)[1] > 0, ours),
            (_by_nearest(shape, patch) > 0, nearest),
        ):
            dice.append(2 * (found & truth).sum() / (found.sum() + truth.sum()))
    assert np.mean(ours) > np.mean(nearest) + 0.01


def _by_nearest(array: np.ndarray, patch: Patch) -> np.ndarray:
    assert patch.matrix is not None
    offset = np.array(patch.center) - patch.matrix @ ((np.array(patch.size) - 1) / 2)
    return ndimage.affine_transform(
        array, patch.matrix, offset=offset, output_shape=patch.size, order=0
    )


def test_turning_by_nothing_is_reading_as_it_is(image: np.ndarray, labels: np.ndarray) -> None:
    for center in ((5.5, 7.0, 4.5), (28.5, -2.0, 18.5)):
        plain = read_patch(image, labels, Patch(SIZE, center))
        # A turn too small to move a voxel goes through the sampler for turned patches.
        for matrix in (np.eye(3), rotation(0, 1e-7)):
            turned = read_patch(image, labels, Patch(SIZE, center, matrix))
            np.testing.assert_allclose(turned[0], plain[0], atol=1e-5)
            np.testing.assert_array_equal(turned[1], plain[1])


def test_outside_the_volume_image_and_labels_are_zero(
    image: np.ndarray, labels: np.ndarray
) -> None:
    center = place_around(np.array([0, 0, 0]), SHAPE, (40, 10, 24))
    got, mask = read_patch(image, labels, Patch((40, 10, 24), center))
    np.testing.assert_array_equal(got[:, 5:35, :, 2:22], image[:, :, :10])
    np.testing.assert_array_equal(mask[5:35, :, 2:22], labels[:, :10])
    got[:, 5:35, :, 2:22] = 0
    mask[5:35, :, 2:22] = 0
    assert not got.any()
    assert not mask.any()


class Watched(np.ndarray):
    """An array that remembers how many voxels were asked of it."""

    asked = 0

    def __getitem__(self, place):
        part = np.asarray(self)[place]
        Watched.asked += part.size
        return part


def test_a_turned_patch_reads_its_box_alone() -> None:
    volume = np.zeros((1, 128, 128, 128), dtype=np.float32).view(Watched)
    labels = np.zeros((128, 128, 128), dtype=np.uint8)
    Watched.asked = 0
    matrix = rotation(2, np.deg2rad(30))
    read_patch(volume, labels, Patch((16, 16, 16), (64.0, 64.0, 64.0), matrix))
    side = 16 * (np.cos(np.deg2rad(30)) + np.sin(np.deg2rad(30))) + 4
    assert 16**3 < Watched.asked <= side**2 * 20


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(*[st.integers(1, 30)] * 3),
    st.tuples(*[st.integers(1, 30)] * 3),
    st.integers(0, 2**31),
)
def test_a_patch_hangs_over_only_where_the_volume_is_smaller(
    shape: tuple[int, int, int], size: tuple[int, int, int], seed: int
) -> None:
    chance = np.random.RandomState(seed)
    voxel = np.array([chance.randint(side) for side in shape])
    for center in (place_around(voxel, shape, size), place_anywhere(chance, shape, size)):
        for start, side, patch in zip(Patch(size, center).start, shape, size, strict=True):
            if patch <= side:
                assert 0 <= start <= side - patch
            else:
                assert side - patch <= start <= 0
                assert abs((start + patch - side) + start) <= 1
    start = Patch(size, place_around(voxel, shape, size)).start
    assert all(s <= v < s + p for s, v, p in zip(start, voxel, size, strict=True))


def test_every_place_is_as_likely_as_any_other() -> None:
    chance = np.random.RandomState(0)
    starts = [
        Patch((4, 8, 8), place_anywhere(chance, (9, 8, 4), (4, 8, 8))).start for _ in range(1200)
    ]
    counts = np.bincount([start[0] for start in starts])
    assert len(counts) == 6
    assert counts.min() > 150
    assert {start[1:] for start in starts} == {(0, -2)}


def test_the_patch_is_an_array_of_its_own(image: np.ndarray, labels: np.ndarray) -> None:
    image.flags.writeable = labels.flags.writeable = False
    for patch in (Patch(SIZE, (15.5, 18.0, 9.5)), _patch(TURNED, 0, (15.0, 18.0, 9.0))):
        got, mask = read_patch(image, labels, patch)
        assert got.flags.writeable
        assert mask.flags.writeable
        assert torch.from_numpy(got).dtype == torch.float32
