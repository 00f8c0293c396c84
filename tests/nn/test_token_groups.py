"""Which tokens form a group, on grids of any size."""

import itertools

import pytest

from medseg.nn.token_groups import GlobalScope, Groups, IntervalScope, LocalScope, scope

SIDES = range(1, 41)


def test_the_paper_s_grids_have_the_paper_s_groups() -> None:
    far, near = GlobalScope((2, 8, 8)), LocalScope((2, 8, 8))
    assert far.groups((32, 32, 32)) == Groups((2, 8, 8), (16, 4, 4))
    assert far.groups((16, 16, 16)) == Groups((2, 8, 8), (8, 2, 2))
    assert far.groups((8, 8, 8)) == Groups((2, 8, 8), (4, 1, 1))
    assert near.groups((8, 8, 8)) == Groups((2, 8, 8))
    assert near.groups((4, 4, 4)) == far.groups((4, 4, 4)) == Groups((4, 4, 4))


def test_far_groups_span_the_grid_and_waste_less_than_a_group_on_padding() -> None:
    for side, group in itertools.product(SIDES, range(1, 10)):
        groups = GlobalScope((group, 1, 1)).groups((side, 1, 1))
        padded = groups.window[0] * groups.dilation[0]
        assert groups.masked
        assert side <= padded < side + groups.window[0]
        # Every group has a token that is no padding, or its softmax were over nothing.
        assert groups.dilation[0] <= side


@pytest.mark.parametrize("kind", ["local", "global"])
@pytest.mark.parametrize("size", [(1, 9, 9), (9, 3, 9), (9, 9, 7)])
def test_a_grid_with_an_axis_shorter_than_its_group_is_one_group(kind, size) -> None:
    assert scope(kind, (2, 8, 8)).groups(size) == Groups(size)


def test_the_reference_looks_at_the_middle_axis_only() -> None:
    near = scope("local", (2, 8, 8), interval=4)
    assert near.groups((1, 9, 7)) == Groups((2, 8, 8))
    assert near.groups((9, 7, 9)) == Groups((9, 7, 9))


def test_what_the_reference_takes_is_padded_to_its_interval_and_cut_evenly() -> None:
    taken = 0
    for side, interval in itertools.product(SIDES, (1, 2, 4, 8)):
        far = IntervalScope((2, 8, 8), interval)
        size = (8, side, 8)
        if far.refuses(size) is not None or side < 8:
            continue
        groups, padded = far.groups(size), -(-side // interval) * interval
        assert groups.window[1] * groups.dilation[1] == padded
        assert groups.dilation[1] == padded // 8
        assert groups.masked == (padded != side)
        taken += 1
    assert taken > 40


def test_the_reference_s_groups_grow_where_the_grid_is_no_multiple() -> None:
    assert IntervalScope((2, 8, 8), 2).groups((2, 10, 10)).window == (2, 10, 10)
    assert IntervalScope((2, 8, 8), 4).groups((8, 20, 20)).window == (2, 10, 10)


@pytest.mark.parametrize(
    ("size", "interval", "reason"),
    [((16, 28, 28), 4, "28 // 8"), ((1, 8, 8), 1, "shorter"), ((8, 8, 3), 4, "shorter")],
)
def test_what_the_reference_cannot_cut_is_refused(size, interval, reason) -> None:
    assert reason in (IntervalScope((2, 8, 8), interval).refuses(size) or "")


def test_the_reference_masks_no_padding_of_the_first_axis_alone() -> None:
    far = IntervalScope((2, 4, 4), 4)
    assert far.groups((6, 8, 8)).masked is False
    assert far.groups((6, 7, 8)).masked is True
