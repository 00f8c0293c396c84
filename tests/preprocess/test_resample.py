"""Resampling against scipy, scikit-image and nnU-Net, and its own laws."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from medseg.preprocess import resample
from medseg.preprocess.labels import resample_labels
from medseg.preprocess.operators import cubic_operator, linear_operator
from medseg.preprocess.resample import coarse_axis, resample_image, resample_linear

SHAPES = [
    ((20, 24, 17), (33, 41, 29)),
    ((20, 24, 17), (11, 13, 9)),
    ((20, 24, 17), (20, 50, 6)),
    ((20, 24, 5), (40, 48, 5)),
    ((3, 2, 60), (7, 5, 130)),
]
FEW = settings(derandomize=True, max_examples=30, deadline=None)
sides = st.integers(1, 12)
shapes = st.tuples(sides, sides, sides)


def smooth(shape, seed=0):
    noise = np.random.default_rng(seed).standard_normal(shape)
    return (1000 * ndimage.gaussian_filter(noise, 1.0)).astype(np.float32)


def blobs(shape, count, seed=0):
    """Label values 0 to `count` in smooth regions."""
    noise = np.random.default_rng(seed).standard_normal((count + 1, *shape))
    return np.argmax([ndimage.gaussian_filter(n, 2.5) for n in noise], axis=0).astype(np.uint8)


def farthest(ours, peer, array):
    return np.abs(ours - peer).max() / np.ptp(array)


def assert_differs_in_ties_only(labels, one, other):
    """Where two label maps differ, both labels have the same interpolated weight."""
    differ = one != other
    gap = np.zeros(one.shape)
    for value in np.unique(labels):
        weight = resample_linear((labels == value).astype(np.float32), one.shape)
        gap += weight * ((one == value).astype(float) - (other == value))
    assert np.abs(gap[differ]).max(initial=0) < 1e-5


@pytest.fixture(scope="module")
def nnunet_resampling():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("nnunetv2.preprocessing.resampling.default_resampling")


@pytest.fixture(params=["compiled", "not compiled"])
def form(request, monkeypatch):
    """With the C form of the spline, and without it."""
    if request.param == "not compiled":
        monkeypatch.setattr(resample, "_is_compiled", lambda: False)


@pytest.mark.usefixtures("form")
class TestPeers:
    @pytest.mark.parametrize(("old", "new"), SHAPES)
    def test_cubic_is_scipys_spline(self, old, new):
        array = smooth(old)
        factors = [n / o for n, o in zip(new, old, strict=True)]
        peer = ndimage.zoom(array, factors, order=3, mode="nearest", grid_mode=True)
        peer = np.clip(peer, array.min(), array.max())
        assert peer.shape == new
        assert farthest(resample_image(array, new), peer, array) < 1e-5

    @pytest.mark.parametrize(("old", "new"), SHAPES)
    @pytest.mark.parametrize("order", [1, 3])
    def test_both_are_scikit_images_resize(self, old, new, order):
        transform = pytest.importorskip("skimage.transform")
        array = smooth(old)
        peer = transform.resize(
            array.astype(float), new, order=order, mode="edge", anti_aliasing=False
        )
        ours = (resample_image if order == 3 else resample_linear)(array, new)
        assert farthest(ours, peer, array) < 1e-5

    @pytest.mark.parametrize(
        ("old", "new", "old_mm", "new_mm"),
        [
            ((6, 30, 28), (6, 45, 42), (5, 1.5, 1.5), (5, 1, 1)),
            ((6, 30, 28), (15, 45, 42), (5, 1.5, 1.5), (2, 1, 1)),
            ((12, 30, 28), (6, 20, 19), (4, 1, 1), (8, 1.5, 1.5)),
            ((30, 28, 12), (30, 28, 6), (1, 1, 1), (1, 1, 4)),
            ((30, 12, 28), (30, 10, 28), (1, 3.3, 1), (1, 4, 1)),
            ((30, 12, 13), (15, 12, 20), (0.24, 1.25, 1.25), (0.5, 1.25, 0.8)),
        ],
    )
    @pytest.mark.parametrize("order", [1, 3])
    def test_thick_slices_are_treated_as_in_nnunet(
        self, nnunet_resampling, old, new, old_mm, new_mm, order
    ):
        array = smooth(old)
        peer = nnunet_resampling.resample_data_or_seg_to_shape(
            array[None],
            new,
            old_mm,
            new_mm,
            is_seg=False,
            order=order,
            order_z=0,
            force_separate_z=None,
        )[0]
        ours = (resample_image if order == 3 else resample_linear)(
            array, new, coarse_axis=coarse_axis(old_mm, new_mm)
        )
        assert farthest(ours, peer, array) < 1e-5

    def test_labels_are_nearly_those_of_nnunet(self, nnunet_resampling):
        labels = blobs((20, 24, 22), 4)
        peer = nnunet_resampling.resample_data_or_seg_to_shape(
            labels[None].astype(float),
            (33, 36, 33),
            (1, 1, 1),
            (0.6, 0.66, 0.66),
            is_seg=True,
            order=1,
            order_z=0,
            force_separate_z=None,
        )[0]
        ours = resample_labels(labels, (33, 36, 33))
        assert (ours == peer).mean() > 0.99
        assert_differs_in_ties_only(labels, ours, peer)


class TestImages:
    @FEW
    @given(shapes, shapes, st.floats(-1e4, 1e4, width=32))
    def test_a_constant_stays_constant(self, old, new, value):
        array = np.full(old, value, dtype=np.float32)
        for by in (resample_image, resample_linear):
            result = by(array, new)
            assert result.shape == new
            assert np.allclose(result, value, rtol=1e-5)

    @FEW
    @given(shapes, shapes, st.integers(0, 5))
    def test_the_range_is_kept(self, old, new, seed):
        array = np.random.default_rng(seed).standard_normal(old).astype(np.float32)
        for by in (resample_image, resample_linear):
            result = by(array, new)
            assert result.dtype == np.float32
            assert result.min() >= array.min() - 1e-5
            assert result.max() <= array.max() + 1e-5

    @FEW
    @given(shapes, st.integers(0, 5))
    def test_the_same_shape_changes_nothing(self, shape, seed):
        array = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
        assert np.array_equal(resample_image(array, shape), array)
        assert np.array_equal(resample_linear(array, shape), array)

    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_memory_order_and_flips_do_not_matter(self, axis):
        array = smooth((9, 10, 11))
        turned = np.flip(np.asfortranarray(array), axis)
        once = resample_image(np.ascontiguousarray(turned), (15, 7, 20))
        assert np.array_equal(resample_image(turned, (15, 7, 20)), once)
        back = np.flip(resample_image(array, (15, 7, 20)), axis)
        assert np.allclose(once, back, atol=1e-3 * np.ptp(array))

    def test_every_third_voxel_is_a_sample_when_a_side_triples(self):
        array = smooth((8, 9, 10))
        result = resample_image(array, (24, 27, 30))
        assert np.allclose(result[1::3, 1::3, 1::3], array, atol=1e-3)

    def test_a_large_axis_is_cut_into_bands(self):
        array = np.random.default_rng(0).standard_normal((300, 2, 3)).astype(np.float32)
        peer = ndimage.zoom(array, (2, 1, 1), order=3, mode="nearest", grid_mode=True)
        peer = np.clip(peer, array.min(), array.max())
        assert np.allclose(resample_image(array, (600, 2, 3)), peer, atol=1e-5)

    @FEW
    @given(st.integers(1, 60), st.integers(1, 60))
    def test_weights_sum_to_one(self, source, target):
        for operator in (linear_operator, cubic_operator):
            weights = operator(source, target)
            assert weights.shape == (target, source)
            assert np.allclose(weights.sum(axis=1), 1, atol=1e-5)
        assert linear_operator(source, target).min() >= 0

    def test_operators_cannot_be_changed(self):
        with pytest.raises(ValueError, match="read-only"):
            linear_operator(4, 6)[0, 0] = 1


def test_both_forms_are_equal_and_the_slower_one_says_why_once(monkeypatch, caplog):
    array = smooth((9, 20, 21))
    faster = [resample_image(array, (13, 31, 15), coarse_axis=axis) for axis in (None, 0, 1, 2)]
    monkeypatch.setattr(resample.cubic_spline, "refuses", lambda: "no compiler")
    resample._is_compiled.cache_clear()
    with caplog.at_level("INFO"):
        slower = [resample_image(array, (13, 31, 15), coarse_axis=axis) for axis in (None, 0, 1, 2)]
    resample._is_compiled.cache_clear()
    for one, other in zip(faster, slower, strict=True):
        assert farthest(one, other, array) < 1e-6
    assert [record.getMessage() for record in caplog.records] == [
        "images are resampled at half the speed, without C: no compiler"
    ]


class TestCoarseAxis:
    @pytest.mark.parametrize(
        ("old", "new", "axis"),
        [
            ((1, 1, 1), (2, 2, 2), None),
            ((1, 1, 3), (1, 1, 1), None),
            ((1, 1, 3.1), (1, 1, 1), 2),
            ((1, 1, 1), (5, 1, 1), 0),
            ((1, 4, 1), (1, 1, 5), 1),
            ((0.24, 1.25, 1.25), (1, 1, 1), None),
            ((0.24, 1.25, 1.25), (1, 1, 9), None),
        ],
    )
    def test_the_rule(self, old, new, axis):
        assert coarse_axis(old, new) == axis

    def test_images_linear_and_labels_take_the_same_slices(self):
        array = np.arange(6, dtype=np.float32)[None, None].repeat(4, 0).repeat(5, 1)
        for size in (2, 3, 9, 12, 13):
            image = resample_image(array, (7, 9, size), coarse_axis=2)
            linear = resample_linear(array, (7, 9, size), coarse_axis=2)
            labels = resample_labels(array.astype(np.uint8), (7, 9, size), coarse_axis=2)
            assert np.allclose(image, labels, atol=1e-5)
            assert np.allclose(linear, labels, atol=1e-5)
            place = (np.arange(size) + 0.5) * 6 / size - 0.5
            assert np.abs(labels[0, 0] - place).max() <= 0.5 + 1e-9


def by_one_hot(labels, shape):
    """The definition: every mask interpolated, and the largest wins."""
    values = np.unique(labels)
    weights = [resample_linear((labels == value).astype(np.float32), shape) for value in values]
    return values[np.argmax(weights, axis=0)]


class TestLabels:
    @FEW
    @given(shapes, shapes, st.sampled_from([np.uint8, np.uint16]), st.integers(0, 99))
    def test_the_largest_linear_mask_wins(self, old, new, dtype, seed):
        generator = np.random.default_rng(seed)
        values = generator.integers(0, np.iinfo(dtype).max, 5)
        labels = generator.choice(values, old).astype(dtype)
        result = resample_labels(labels, new)
        assert result.dtype == dtype
        assert_differs_in_ties_only(labels, result, by_one_hot(labels, new))

    @pytest.mark.parametrize("count", [1, 4, 30])
    @pytest.mark.parametrize("new", [(37, 41, 29), (14, 15, 11), (20, 24, 40)])
    def test_many_labels(self, count, new):
        labels = blobs((20, 24, 17), count)
        result, expected = resample_labels(labels, new), by_one_hot(labels, new)
        assert_differs_in_ties_only(labels, result, expected)
        assert (result == expected).mean() > 0.99

    @FEW
    @given(shapes, shapes, st.integers(0, 2), st.integers(0, 9))
    def test_a_flipped_map_has_the_same_labels_flipped(self, old, new, axis, seed):
        labels = np.random.default_rng(seed).integers(0, 3, old).astype(np.uint8)
        flipped = resample_labels(np.flip(labels, axis), new)
        assert np.array_equal(np.flip(flipped, axis), resample_labels(labels, new))

    def test_no_label_is_invented(self):
        labels = blobs((12, 13, 14), 6) * 40
        assert set(np.unique(resample_labels(labels, (25, 31, 9)))) <= set(np.unique(labels))

    def test_the_same_shape_returns_the_labels_themselves(self):
        labels = blobs((5, 6, 7), 3)
        assert resample_labels(labels, (5, 6, 7)) is labels

    def test_at_equal_weights_the_nearer_and_then_the_smaller_value_wins(self):
        labels = np.array([3, 1], dtype=np.uint8).reshape(2, 1, 1)
        assert resample_labels(labels, (1, 1, 1)).item() == 1
        assert resample_labels(labels, (3, 1, 1)).ravel().tolist() == [3, 1, 1]
        # Seen from 1 / 6 voxel into the cell, 5 weighs (5 + 1) / 12 and so do the others together.
        corner = np.array([[5, 2], [2, 5]], dtype=np.uint8)[..., None]
        assert resample_labels(corner, (3, 3, 1))[0, 0, 0] == 5
        assert resample_labels(corner, (1, 1, 1)).item() == 2

    def test_more_places_than_a_chunk(self):
        labels = np.random.default_rng(0).integers(0, 9, (30, 30, 30)).astype(np.uint8)
        result = resample_labels(labels, (45, 45, 45))
        assert_differs_in_ties_only(labels, result, by_one_hot(labels, (45, 45, 45)))
