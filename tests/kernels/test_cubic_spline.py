"""The compiled cubic spline gives what scipy's gives, on every shape and axis."""

import itertools

import numpy as np
import pytest

from medseg_kernels import native
from medseg_kernels.cubic_spline import compiled, reference

SHAPES = [(20, 24, 17), (3, 2, 60), (5, 40, 1), (1, 1, 1), (33, 1, 40), (4, 3, 530), (2, 531, 3)]


@pytest.fixture(autouse=True)
def _compiler() -> None:
    refusal = compiled.refuses()
    if refusal:
        pytest.skip(f"the spline cannot be compiled here: {refusal}")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_it_is_scipys_spline(shape: tuple[int, int, int], axis: int) -> None:
    array = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    for target in (1, 2, 7, 33, shape[axis] + 1):
        expected = reference.spline_along(array, axis, target)
        found = compiled.spline_along(array, axis, target)
        assert found.dtype == np.float32
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() < 1e-6


def test_a_line_is_the_same_whatever_lies_beside_it() -> None:
    array = np.random.default_rng(1).standard_normal((6, 40, 700)).astype(np.float32)
    whole = compiled.spline_along(array, 1, 61)
    for lines in (slice(0, 1), slice(3, 12), slice(30, 60), slice(5, 135), slice(690, 700)):
        np.testing.assert_array_equal(
            compiled.spline_along(array[:, :, lines], 1, 61), whole[:, :, lines]
        )


def test_the_order_of_memory_does_not_matter() -> None:
    array = np.random.default_rng(2).standard_normal((9, 10, 11)).astype(np.float32)
    turned = np.asfortranarray(array)
    for axis in range(3):
        np.testing.assert_array_equal(
            compiled.spline_along(turned, axis, 15), compiled.spline_along(array, axis, 15)
        )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("axis", [0, 1, 2, None])
def test_each_slice_is_kept_within_its_bounds(
    shape: tuple[int, int, int], axis: int | None
) -> None:
    array = np.random.default_rng(3).standard_normal(shape).astype(np.float32)
    across = tuple(n for n in range(3) if n != axis)
    low, high = compiled.bounds(array, axis)
    np.testing.assert_array_equal(low, array.min(axis=across).reshape(-1))
    np.testing.assert_array_equal(high, array.max(axis=across).reshape(-1))
    wide = 3 * array
    sides = [1 if n != axis else -1 for n in range(3)]
    expected = np.clip(wide, low.reshape(sides), high.reshape(sides))
    compiled.clamp(wide, axis, low, high)
    np.testing.assert_array_equal(wide, expected)


def test_without_a_compiler_it_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "COMPILERS", ("no-such-compiler",))
    native.forget()
    try:
        assert "no-such-compiler" in str(compiled.refuses())
    finally:
        native.forget()


def test_far_from_zero_it_is_as_exact_as_the_numbers_are() -> None:
    array = (30_000 + np.random.default_rng(4).standard_normal((40, 30, 20))).astype(np.float32)
    for axis, target in itertools.product(range(3), (9, 77)):
        apart = compiled.spline_along(array, axis, target) - reference.spline_along(
            array, axis, target
        )
        assert np.abs(apart).max() < 30_000 * 1e-6
