"""The rule for input sizes."""

import pytest

from medseg.models.shape import ShapePolicy

SWIN = ShapePolicy(divisor=(32, 32, 32), minimum=(32, 32, 32), voxels=2 * 32**3)


@pytest.mark.parametrize("size", [(64, 32, 32), (32, 32, 64), (96, 96, 96), (128, 64, 32)])
def test_allowed_sizes_are_their_own_nearest(size) -> None:
    assert SWIN.refuses(size) is None
    assert SWIN.nearest(size) == size


@pytest.mark.parametrize(
    ("size", "nearest"),
    [
        ((1, 1, 1), (64, 32, 32)),
        ((32, 32, 32), (64, 32, 32)),
        ((33, 20, 70), (64, 32, 96)),
        ((97, 96, 96), (128, 96, 96)),
    ],
)
def test_other_sizes_are_refused_with_the_nearest_one(size, nearest) -> None:
    assert SWIN.nearest(size) == nearest
    assert SWIN.refuses(nearest) is None
    refusal = SWIN.refuses(size)
    assert refusal is not None
    assert "x".join(map(str, nearest)) in refusal


def test_a_fixed_size_is_the_only_one() -> None:
    policy = ShapePolicy(fixed=(48, 64, 64))
    assert policy.refuses((48, 64, 64)) is None
    assert policy.nearest((10, 10, 10)) == (48, 64, 64)
    assert "48x64x64" in str(policy.refuses((64, 64, 64)))


def test_two_sides_are_refused() -> None:
    assert "three are needed" in str(SWIN.refuses((64, 64)))


def test_the_policy_without_rules_takes_everything() -> None:
    assert ShapePolicy().refuses((1, 7, 13)) is None
