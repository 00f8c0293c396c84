"""Bricks: how a volume is cut, what is held at a time, and what is handed on."""

import itertools

import pytest
import torch

from medseg.inference.blend import BlendLogits, Mirroring
from medseg.inference.bricks import Bricks
from medseg.inference.cuts import cuts_of, most_voxels, walk_axes
from medseg.inference.walk import Walk, gathered
from medseg.inference.window import Windows

Shape = tuple[int, int, int]
ORDERS = list(itertools.permutations(range(3)))
CASES = [
    ((40, 33, 25), (16, 12, 16), 0.5),
    ((40, 33, 25), (16, 12, 16), 0.8),
    ((50, 20, 16), (16, 16, 16), 0.0),
    ((9, 40, 13), (16, 12, 16), 0.25),
    ((7, 5, 6), (16, 12, 16), 0.5),
    ((12, 30, 30), (1, 16, 16), 0.5),
]


def windows_of(case: tuple[Shape, Shape, float], rule="monai") -> Windows:
    shape, patch, overlap = case
    return Windows.over(shape, patch, overlap=overlap, rule=rule)


@pytest.mark.parametrize("rule", ["monai", "nnunet"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_pieces_fill_an_axis_and_know_the_windows_that_touch_them(case, rule) -> None:
    windows = windows_of(case, rule)
    cuts = cuts_of(windows, (0, 1, 2), (True, True, True))
    assert len(cuts[2]) == 1
    for axis, along in enumerate(cuts):
        assert along.bounds[0] == 0
        assert along.bounds[-1] == windows.shape[axis]
        assert all(low < high for low, high in itertools.pairwise(along.bounds))
        for piece, (low, high) in enumerate(itertools.pairwise(along.bounds)):
            touching = [
                n
                for n, start in enumerate(windows.starts[axis])
                if start < high and start + windows.patch_size[axis] > low
            ]
            assert along.touched[piece] == (touching[0], touching[-1])


@pytest.mark.parametrize("axes", ORDERS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_boxes_are_the_whole_volume_and_each_voxel_once(case, axes) -> None:
    windows = windows_of(case)
    seen = torch.zeros(windows.shape)
    for box in boxes(windows, axes):
        seen[box.place] += 1
        assert box.mean.shape[1:] == seen[box.place].shape
    assert seen.eq(1).all()


def boxes(windows: Windows, axes: Shape, *, linked=(True, True, True), held=None):
    """Finished boxes of a volume of random numbers; what is held goes to `held`, in numbers."""
    result = torch.randn(2, *windows.patch_size)
    bricks = Bricks(windows, axes, result=result, dtype=torch.float32, linked=linked)
    numbers = itertools.product(*(range(len(windows.starts[axis])) for axis in axes))
    for number in numbers:
        window = [number[axes.index(axis)] for axis in range(3)]
        place = [windows.starts[axis][n] for axis, n in enumerate(window)]
        bricks.add(tuple(place), torch.randn(2, *windows.patch_size))
        if held is not None:
            edges = itertools.chain.from_iterable(bricks._edges.values())
            held.append(
                sum(brick.memory.numel() for brick in bricks._open.values())
                + sum(memory.numel() for memory in bricks._free)
                + sum(edge.sums.numel() + edge.counts.numel() for _, edge in edges)
            )
        yield from bricks.finished(tuple(window))
    assert not bricks._open
    assert not bricks._edges


@pytest.mark.parametrize("axes", ORDERS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_no_more_is_held_than_was_foretold(case, axes) -> None:
    windows, held = windows_of(case), []
    list(boxes(windows, axes, held=held))
    assert max(held) <= 3 * most_voxels(windows, axes)


def test_little_more_than_half_the_depth_of_a_window_is_held() -> None:
    windows = Windows.over((512, 512, 200), (128, 128, 128), overlap=0.5)
    assert walk_axes(windows) == (0, 1, 2)
    # 64 planes of 512 rows, the two columns that a window begins or ends, and one being exported.
    assert most_voxels(windows, (0, 1, 2)) < 1.05 * 64 * (512 + 3 * 64) * 200
    longer = Windows.over((2048, 512, 200), (128, 128, 128), overlap=0.5)
    assert most_voxels(longer, (0, 1, 2)) == most_voxels(windows, (0, 1, 2))


def test_linked_boxes_carry_the_planes_of_those_before_them() -> None:
    windows = windows_of(CASES[0])
    whole = torch.zeros(2, *windows.shape)
    carried = 0
    for box in boxes(windows, (1, 0, 2)):
        whole[(slice(None), *box.place)] = box.mean
        ends = [first + side for first, side in zip(box.first, box.counts.shape, strict=True)]
        i, j, k = map(slice, box.first, ends)
        assert torch.equal(whole[:, i, j, k], box.sums / box.counts)
        carried += sum(box.before)
    assert carried > 10


@pytest.mark.parametrize("sums", [torch.float32, torch.float16])
def test_results_that_lie_channels_last_are_summed_the_same(sums) -> None:
    torch.manual_seed(0)
    network = torch.nn.Conv3d(1, 3, 3, padding=1)
    image = torch.randn(1, 30, 20, 13)
    windows = Windows.over((30, 20, 13), (12, 12, 12), overlap=0.5)
    walk = Walk(windows=windows, axes=walk_axes(windows), sums=sums)

    def last(x: torch.Tensor) -> torch.Tensor:
        return network(x).contiguous(memory_format=torch.channels_last_3d)

    first, other = (
        gathered(walk, BlendLogits([model], Mirroring(), channels=3), image)
        for model in (network, last)
    )
    assert torch.equal(first, other)
