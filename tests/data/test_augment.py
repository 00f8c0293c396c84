from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from medseg.data.augment import Augmentation, coarse_axis, no_augmentation
from medseg.data.chance import SAMPLE, state
from medseg.data.intensity import (
    Blur,
    Brightness,
    Change,
    Contrast,
    Gamma,
    LowResolution,
    Noise,
    around_one,
)
from medseg.data.loader import left_right_swap
from medseg.data.transforms import CENTERED, IMAGE, LABELS, PLACES, RandIntensityd, RandMirrord
from medseg.volume import LabelTable, Target

CHANGES: dict[str, Change] = {
    "noise": Noise(0.1),
    "blur": Blur((0.5, 1.0)),
    "brightness": Brightness((0.75, 1.25)),
    "contrast": Contrast((0.75, 1.25)),
    "low resolution": LowResolution((0.5, 1.0)),
    "gamma": Gamma((0.7, 1.5)),
    "inverted gamma": Gamma((0.7, 1.5), inverted=True),
}


def _channel(seed: int = 0, shape: tuple[int, int, int] = (12, 15, 10)) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))


class Fixed:
    """A random state that answers what the test wants."""

    def __init__(self, *numbers: float) -> None:
        self.numbers = list(numbers)

    def uniform(self, *_bounds: float) -> float:
        return self.numbers.pop(0)

    def rand(self) -> float:
        return 0.0


@pytest.fixture
def case() -> dict:
    generator = np.random.default_rng(0)
    labels = np.zeros((20, 24, 16), dtype=np.uint8)
    labels[3:9, 8:16, 4:12] = 1
    labels[11:17, 8:16, 4:12] = 2
    return {
        IMAGE: generator.standard_normal((2, 20, 24, 16), dtype=np.float32),
        LABELS: labels,
        PLACES: {"left": np.argwhere(labels == 1), "right": np.argwhere(labels == 2)},
        CENTERED: True,
    }


def _augmented(chain: tuple, case: dict, number: int) -> tuple[torch.Tensor, np.ndarray]:
    chance = state(7, SAMPLE, number)
    for transform in chain:
        case = transform.set_random_state(state=chance)(case)
    return case[IMAGE], case[LABELS]


def test_a_sample_is_a_function_of_its_number_in_any_order(case: dict) -> None:
    augmentation = Augmentation(rotation_probability=0.5, scale_probability=0.5)
    chain, again = (
        augmentation.transforms(size=(12, 12, 12), spacing_mm=(1.0, 1.0, 1.0)) for _ in range(2)
    )
    first = {number: _augmented(chain, case, number) for number in range(12)}
    for number in reversed(range(12)):
        image, labels = _augmented(again, case, number)
        assert torch.equal(image, first[number][0])
        np.testing.assert_array_equal(labels, first[number][1])
    assert len({image.numpy().tobytes() for image, _ in first.values()}) == 12


def test_a_sample_does_not_depend_on_the_generators_of_the_process(case: dict) -> None:
    chain = Augmentation(noise_probability=1.0).transforms(size=(8, 8, 8), spacing_mm=(1, 1, 1))
    images = []
    for seed in (1, 2):
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        images.append(_augmented(chain, case, 3)[0])
    assert torch.equal(*images)


def test_the_prepared_case_is_left_as_it_is(case: dict) -> None:
    image, labels = case[IMAGE].copy(), case[LABELS].copy()
    case[IMAGE].flags.writeable = case[LABELS].flags.writeable = False
    always = {name: 1.0 for name in vars(Augmentation()) if name.endswith("_probability")}
    for size in ((12, 12, 12), (20, 24, 16)):
        for augmentation in (Augmentation(**always), Augmentation(**always, rotation_degrees=0.0)):
            chain = augmentation.transforms(size=size, spacing_mm=(1, 1, 1))
            _augmented(chain, case, 0)
    np.testing.assert_array_equal(case[IMAGE], image)
    np.testing.assert_array_equal(case[LABELS], labels)


def test_without_augmentation_a_patch_is_a_crop(case: dict) -> None:
    chain = no_augmentation().transforms(size=(20, 24, 16), spacing_mm=(1, 1, 1))
    for number in range(5):
        image, labels = _augmented(chain, case, number)
        np.testing.assert_array_equal(image.numpy(), case[IMAGE])
        np.testing.assert_array_equal(labels, case[LABELS])


def test_a_mirrored_left_organ_becomes_a_right_one(case: dict) -> None:
    table = LabelTable.from_names({1: "left kidney", 2: "right kidney", 5: "liver"})
    swap = left_right_swap(Target(table))
    case[LABELS][0, 0, 0] = 5
    image, labels = torch.from_numpy(case[IMAGE].copy()), case[LABELS].copy()
    seen = 0
    for number in range(24):
        chance = state(0, SAMPLE, number)
        mirror = RandMirrord((0, 1, 2), swap=swap).set_random_state(state=chance)
        got = mirror({IMAGE: image, LABELS: labels})
        moved = [
            axis
            for axis, corner in enumerate(((19, 0, 0), (0, 23, 0), (0, 0, 15)))
            if _corner_of(got[LABELS], 5)[axis] == corner[axis] > 0
        ]
        expected = np.flip(labels, moved)
        if 0 in moved:
            expected = np.array([0, 2, 1, 3, 4, 5])[expected]
            seen += 1
        np.testing.assert_array_equal(got[LABELS], expected)
        np.testing.assert_array_equal(
            got[IMAGE], np.flip(case[IMAGE], [axis + 1 for axis in moved])
        )
    assert 6 <= seen <= 18


def _corner_of(labels: np.ndarray, value: int) -> tuple[int, ...]:
    return tuple(np.argwhere(labels == value)[0])


def test_a_table_without_pairs_swaps_nothing() -> None:
    assert left_right_swap(Target(LabelTable.from_names({1: "left atrium", 2: "liver"}))) is None


def test_only_the_axes_that_are_named_are_mirrored(case: dict) -> None:
    image, labels = torch.from_numpy(case[IMAGE]), case[LABELS]
    mirror = RandMirrord((2,), swap=None)
    outcomes = [
        mirror.set_random_state(state=state(0, SAMPLE, n))({IMAGE: image, LABELS: labels})[IMAGE]
        for n in range(20)
    ]
    turned = sum(torch.equal(one, torch.flip(image, [3])) for one in outcomes)
    kept = sum(torch.equal(one, image) for one in outcomes)
    assert turned + kept == 20
    assert 4 <= turned <= 16


def test_left_and_right_stay_apart_through_the_whole_chain(case: dict) -> None:
    """The image tells the side by its brightness: mirrored, it must still fit the labels."""
    table = LabelTable.from_names({1: "left kidney", 2: "right kidney"})
    case[IMAGE] = np.zeros_like(case[IMAGE])
    places = np.arange(20, dtype=np.float32)[:, None, None] - 9.5
    case[IMAGE][0] = np.where(case[LABELS] > 0, places, 0)
    chain = replace(no_augmentation(), flip_axes=(0, 1, 2)).transforms(
        size=(20, 24, 16), spacing_mm=(1, 1, 1), swap=left_right_swap(Target(table))
    )
    flipped = 0
    for number in range(16):
        image, labels = _augmented(chain, case, number)
        left, right = (np.argwhere(labels == value)[:, 0].mean() for value in (1, 2))
        assert left < right
        flipped += bool(image[0].numpy()[labels == 1].mean() > 0)
    assert 3 <= flipped <= 13


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_finite_and_keeps_shape_on_odd_channels(name: str) -> None:
    flat = torch.full((5, 4, 3), 2.5)
    thin = torch.from_numpy(np.random.default_rng(0).random((1, 7, 2), dtype=np.float32))
    dot = torch.ones((1, 1, 1))
    for channel in (flat, thin, dot):
        for number in range(4):
            got = CHANGES[name](channel.clone(), state(0, SAMPLE, number))
            assert got.shape == channel.shape
            assert bool(torch.isfinite(got).all())


@pytest.mark.parametrize("name", CHANGES)
def test_every_change_changes(name: str) -> None:
    got = CHANGES[name](_channel(), state(0, SAMPLE, 0))
    assert float((got - _channel()).abs().mean()) > 1e-3


def test_blur_is_scipys_gaussian_filter() -> None:
    sigmas = (0.5, 0.8, 1.0)
    got = Blur((0.5, 1.0))(_channel(), Fixed(*sigmas))
    expected = ndimage.gaussian_filter(
        _channel().numpy().astype(np.float64),
        sigmas,
        mode="mirror",
        radius=[int(np.ceil(3 * sigma)) for sigma in sigmas],
    )
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_low_resolution_spares_the_coarse_axis() -> None:
    ramp = torch.arange(10.0).square().expand(12, 15, 10).contiguous()
    spared = LowResolution((0.5, 0.5), coarse_axis=2)(ramp.clone(), state(0, SAMPLE, 0))
    np.testing.assert_allclose(spared, ramp, atol=1e-4)
    changed = LowResolution((0.5, 0.5))(ramp.clone(), state(0, SAMPLE, 0))
    assert float((changed - ramp).abs().max()) > 1


def test_contrast_keeps_mean_side_and_range() -> None:
    channel = _channel()
    got = Contrast((1.25, 1.25))(channel.clone(), state(0, SAMPLE, 0))
    assert float(got.min()) == float(channel.min())
    assert float(got.max()) == float(channel.max())
    inner = (channel - channel.mean()).abs() < 1
    slope = (got[inner] - channel.mean()) / (channel[inner] - channel.mean())
    np.testing.assert_allclose(slope, 1.25, atol=2e-3)


@pytest.mark.parametrize("inverted", [False, True])
def test_gamma_keeps_mean_deviation_and_order(inverted: bool) -> None:
    channel = _channel()
    got = Gamma((1.4, 1.4), inverted=inverted)(channel.clone(), state(0, SAMPLE, 0))
    assert float(got.mean()) == pytest.approx(float(channel.mean()), abs=1e-5)
    assert float(got.std()) == pytest.approx(float(channel.std()), abs=1e-5)
    order = channel.flatten().argsort()
    assert bool((got.flatten()[order].diff() >= -1e-6).all())


def _peer(module: str, name: str, *settings: object, **more: object) -> Callable[..., dict]:
    library = pytest.importorskip(
        f"batchgeneratorsv2.transforms.{module}", reason="nnU-Net's library is not installed"
    )
    return getattr(library, name)(*settings, **more)


ALL = {"synchronize_channels": True, "p_per_channel": 1}
PEERS = {
    "low resolution": (
        ("spatial.low_resolution", "SimulateLowResolutionTransform", 0.6),
        {**ALL, "synchronize_axes": True, "ignore_axes": None},
    ),
    "gamma": (
        ("intensity.gamma", "GammaTransform", 1.3),
        {**ALL, "p_invert_image": 0, "p_retain_stats": 1},
    ),
    "inverted gamma": (
        ("intensity.gamma", "GammaTransform", 1.3),
        {**ALL, "p_invert_image": 1, "p_retain_stats": 1},
    ),
    "contrast": (
        ("intensity.contrast", "ContrastTransform", 1.2),
        {**ALL, "preserve_range": True},
    ),
}


@pytest.mark.parametrize("name", PEERS)
def test_a_change_equals_that_of_nnunets_library(name: str) -> None:
    settings, more = PEERS[name]
    peer = _peer(*settings, **more)  # type: ignore[arg-type]
    got = CHANGES[name](_channel(), Fixed(settings[2]))  # type: ignore[arg-type]
    np.testing.assert_allclose(got, peer(image=_channel()[None])["image"][0], atol=2e-5)


def test_a_change_comes_as_often_as_its_probability_says() -> None:
    change = RandIntensityd(Brightness((2.0, 2.0)), prob=0.4, channel_prob=0.5)
    changed = []
    for number in range(400):
        image = torch.ones((4, 1, 1, 1))
        got = change.set_random_state(state=state(0, SAMPLE, number))({IMAGE: image})[IMAGE]
        changed.append((got.flatten() == 2).tolist())
    any_channel = np.any(changed, axis=1).mean()
    assert any_channel == pytest.approx(0.4 * (1 - 0.5**4), abs=0.07)
    assert np.mean(changed) == pytest.approx(0.4 * 0.5, abs=0.05)
    assert any(0 < sum(row) < 4 for row in changed)


def test_channels_are_changed_by_numbers_of_their_own() -> None:
    change = RandIntensityd(Brightness((0.75, 1.25)), prob=1.0).set_random_state(seed=0)
    got = change({IMAGE: torch.ones((4, 1, 1, 1))})[IMAGE].flatten().tolist()
    assert len(set(got)) == 4


def test_factors_lie_as_often_below_one_as_above() -> None:
    chance = np.random.RandomState(0)
    factors = np.array([around_one(chance, (0.7, 1.5)) for _ in range(600)])
    assert 0.7 <= factors.min() < factors.max() <= 1.5
    assert (factors < 1).mean() == pytest.approx(0.5, abs=0.06)
    assert around_one(chance, (1.1, 1.2)) >= 1.1


def test_turning_is_rigid_in_millimeters() -> None:
    augmentation = Augmentation(rotation_probability=1.0, scale_probability=0.0)
    spacing = np.array([0.8, 1.0, 2.0])
    for number in range(10):
        matrix = augmentation.matrix(state(0, SAMPLE, number), tuple(spacing))
        assert matrix is not None
        in_mm = matrix * spacing[:, None] / spacing[None, :]
        np.testing.assert_allclose(in_mm @ in_mm.T, np.eye(3), atol=1e-9)
        angle = np.degrees(np.arccos((np.trace(in_mm) - 1) / 2))
        assert 0 < angle <= np.sqrt(3) * 30


def test_thick_slices_are_not_left() -> None:
    augmentation = Augmentation(rotation_probability=1.0, scale_probability=1.0)
    assert coarse_axis((1.4, 1.4, 8.0)) == 2
    assert coarse_axis((1.0, 1.0, 3.0)) is None
    moved = []
    for number in range(10):
        matrix = augmentation.matrix(state(0, SAMPLE, number), (1.4, 1.4, 8.0))
        assert matrix is not None
        np.testing.assert_allclose(matrix[2], (0, 0, 1), atol=1e-12)
        np.testing.assert_allclose(matrix[:2, 2], 0, atol=1e-12)
        moved.append(abs(matrix[0, 1]))
    assert max(moved) > 0.1


def test_a_patch_of_one_slice_is_turned_and_scaled_within_it() -> None:
    turning = Augmentation(rotation_probability=1.0, scale_probability=1.0)
    for axis in range(3):
        size = [48, 48, 48]
        size[axis] = 1
        for seed in range(10):
            drawn = turning.matrix(
                state(0, SAMPLE, seed), spacing_mm=(1, 1.5, 2), size=(size[0], size[1], size[2])
            )
            assert drawn is not None
            assert np.array_equal(drawn[axis], np.eye(3)[axis])
            assert np.array_equal(drawn[:, axis], np.eye(3)[axis])
            assert not np.allclose(drawn, np.eye(3))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_every_change_takes_a_single_slice(axis: int, case: dict) -> None:
    always = {name: 1.0 for name in vars(Augmentation()) if name.endswith("_probability")}
    size = [24, 16, 20]
    size[axis] = 1
    chain = Augmentation(**always).transforms(
        size=(size[0], size[1], size[2]), spacing_mm=(1.0, 1.0, 1.0)
    )
    for number in range(5):
        image, labels = _augmented(chain, case, number)
        assert tuple(image.shape[1:]) == labels.shape == tuple(size)
        assert torch.isfinite(image).all()
        assert image.std() > 0


def test_scales_lie_in_their_range_and_above_one_looks_larger() -> None:
    augmentation = Augmentation(rotation_probability=0.0, scale_probability=1.0, scale=(1.2, 1.4))
    for number in range(10):
        matrix = augmentation.matrix(state(0, SAMPLE, number), (1.0, 1.0, 1.0))
        assert matrix is not None
        assert np.all(np.diag(matrix) == matrix[0, 0])
        assert 1.2 <= 1 / matrix[0, 0] <= 1.4


def test_turns_and_scales_come_as_often_as_nnunet_has_them() -> None:
    drawn = [Augmentation().matrix(state(1, SAMPLE, n), (1.0, 1.0, 1.0)) for n in range(800)]
    turned = [m is not None and abs(m - np.diag(np.diag(m))).max() > 0 for m in drawn]
    still = [m is None for m in drawn]
    assert np.mean(turned) == pytest.approx(0.2, abs=0.05)
    assert np.mean(still) == pytest.approx(0.64, abs=0.05)
