"""Intensities are scaled as each kind says, and never to what is no number."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.fault import InputFault
from medseg.preprocess.normalise import Normalisation

FEW = settings(derandomize=True, max_examples=30, deadline=None)
SHAPE = (6, 5, 4)


def channel(seed=0, *, mean=0.0, std=1.0):
    noise = np.random.default_rng(seed).standard_normal(SHAPE)
    return (mean + std * noise).astype(np.float32)


@FEW
@given(st.floats(-1e5, 1e5), st.floats(1, 1e4), st.integers(0, 9))
def test_zscore_has_mean_0_and_deviation_1(mean, std, seed):
    scaled = Normalisation("zscore").apply(channel(seed, mean=mean, std=std))
    assert scaled.dtype == np.float32
    # A float32 at 1e5 is known to 0.004, which is what is left of a deviation of 1.
    assert abs(scaled.mean(dtype=np.float64)) < 1e-2
    assert abs(scaled.std(dtype=np.float64) - 1) < 1e-2


def test_zscore_equals_numpy_in_double_precision():
    image = channel(mean=-700, std=250)
    expected = (image - image.mean(dtype=np.float64)) / image.std(dtype=np.float64)
    assert np.allclose(Normalisation("zscore").apply(image), expected, atol=1e-5)


def test_zscore_of_nonzero_voxels_leaves_zeros():
    image = channel(mean=50, std=5)
    image[:3] = 0
    scaled = Normalisation("zscore_nonzero").apply(image)
    inside = image[3:]
    assert (scaled[:3] == 0).all()
    assert np.allclose(scaled[3:], (inside - inside.mean()) / inside.std(), atol=1e-4)


def test_zscore_of_nothing_but_zeros_is_zeros():
    zeros = np.zeros(SHAPE, dtype=np.float32)
    for kind in ("zscore", "zscore_nonzero"):
        assert (Normalisation(kind).apply(zeros) == 0).all()


def test_zscore_of_a_constant_is_zeros():
    image = np.full(SHAPE, 0.1, dtype=np.float32)
    assert (Normalisation("zscore").apply(image) == 0).all()


def test_ct_clips_and_uses_the_numbers_of_the_data_set():
    image = np.array([-2000, -100, 40, 900, 3000], dtype=np.float32).reshape(5, 1, 1)
    step = Normalisation("ct", lower=-100, upper=900, mean=40, std=70)
    expected = (np.array([-100, -100, 40, 900, 900]) - 40) / 70
    assert np.allclose(step.apply(image).ravel(), expected)


def test_a_range_becomes_0_to_1():
    image = np.array([-2000, -160, 40, 240, 3000], dtype=np.float32).reshape(5, 1, 1)
    scaled = Normalisation("range", lower=-160, upper=240).apply(image)
    assert np.allclose(scaled.ravel(), [0, 0, 0.5, 1, 1])


def test_none_changes_nothing():
    assert np.array_equal(Normalisation("none").apply(channel()), channel())


def test_the_image_given_is_not_changed():
    image = channel(mean=3)
    for step in (
        Normalisation("zscore"),
        Normalisation("zscore_nonzero"),
        Normalisation("ct", lower=0, upper=1, mean=0, std=1),
        Normalisation("range", lower=0, upper=1),
    ):
        step.apply(image)
        assert np.array_equal(image, channel(mean=3))


@pytest.mark.parametrize(
    ("step", "value"),
    [
        (Normalisation("zscore"), 3e38),
        (Normalisation("none"), np.nan),
        (Normalisation("range", lower=0, upper=1e-60), 1.0),
        (Normalisation("ct", lower=0, upper=1, mean=0, std=float("nan")), 1.0),
    ],
)
def test_what_is_no_number_is_refused(step, value):
    image = channel()
    image[0, 0, 0], image[0, 0, 1] = value, -value
    with pytest.raises(InputFault, match="no numbers") as fault:
        step.apply(image)
    assert fault.value.code == "E_NORMALISED"


@pytest.mark.parametrize(
    ("settings_", "text"),
    [
        ({"kind": "ct", "lower": 0.0, "upper": 1.0}, "needs mean, std"),
        ({"kind": "range"}, "needs lower, upper"),
        ({"kind": "range", "lower": 1.0, "upper": 1.0}, "not below"),
        ({"kind": "range", "lower": float("nan"), "upper": 1.0}, "not below"),
        ({"kind": "minmax"}, "'minmax' is not known; it is one of zscore"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings_, text):
    with pytest.raises(InputFault, match=text) as fault:
        Normalisation(**settings_)
    assert fault.value.code == "E_NORMALISE"


@pytest.mark.parametrize(
    "step",
    [Normalisation("zscore"), Normalisation("ct", lower=-1.5, upper=2, mean=0.1, std=1 / 3)],
)
def test_json_keeps_every_number(step):
    assert Normalisation.from_json(json.loads(json.dumps(step.to_json()))) == step
