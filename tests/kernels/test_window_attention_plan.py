"""The kernels' tables of integers, read as a kernel reads them, against groups made by hand."""

import pytest
import torch
from torch import Tensor

from medseg_kernels.window_attention.plan import LARGEST_WINDOW, MULTIPLE, center, plan
from medseg_kernels.window_attention.reference import position_bias
from medseg_kernels.window_attention.request import Request
from tests.kernels.test_window_attention import CASES

CPU = torch.device("cpu")
MORE = {
    "rolled padding": {"size": (2, 2, 3), "window": (4, 2, 2), "shift": (3, 0, 1)},
    "a window of the largest size": {
        "size": (512, 1, 2),
        "window": (512, 1, 1),
        "shift": (9, 0, 0),
    },
    "more tokens than one multiple": {"size": (5, 7, 5), "window": (5, 7, 4)},
}
BITS = [LARGEST_WINDOW << shift for shift in (0, 10, 20)]


def _request(case) -> tuple[tuple[int, int, int], Request]:
    options = dict(case)
    return options.pop("size"), Request(2, **options)


def _read(size, request: Request, *, masked: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Row, whether padding, and side of every token of every group, (g, n) each."""
    found = plan(size, request, request.extents(None), masked=masked, device=CPU)
    place, offset, _ = found.tokens[:, : request.tokens].long()
    first, *bounds, _ = found.groups.long().mT[:, :, None]
    grid_end, roll, second_end = (
        (place + bound)[..., None] & torch.tensor(BITS) for bound in bounds
    )
    row = first + offset - ((roll != 0) * torch.tensor(found.wrap)).sum(-1)
    hollow = ((grid_end & ~roll | second_end) != 0).any(-1)
    side = roll.sum(-1)
    if masked:
        side = side | grid_end.sum(-1) >> 1 | second_end.sum(-1) >> 2
    return row, hollow, side


def _by_hand(size, request: Request, *, masked: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The same from the place of each token along each axis; sides are numbers of their own."""
    axes = []
    for axis, extent in enumerate(size):
        padded = request.padded(size)[axis]
        window, dilation = request.window[axis], request.dilation[axis]
        number, n = torch.arange(padded // window)[:, None], torch.arange(window)
        start = number // dilation * window * dilation + number % dilation
        place = (start + n * dilation + request.shift[axis]) % padded
        beyond, rolled = place >= extent, place < request.shift[axis]
        axes.append((place, beyond, rolled.long() + 2 * (beyond & masked)))
    shapes = [axis[0].shape for axis in axes]

    def spread(values: Tensor, axis: int) -> Tensor:
        """An axis among (i j k of the group, i j k in the group)."""
        view = [values.shape[a // 3] if a % 3 == axis else 1 for a in range(6)]
        return values.view(view).expand([s[0] for s in shapes] + [s[1] for s in shapes])

    places, beyond, sides = ([spread(a[kind], n) for n, a in enumerate(axes)] for kind in range(3))
    row = (places[0] * size[1] + places[1]) * size[2] + places[2]
    side = sides[0] + 4 * sides[1] + 16 * sides[2]
    hollow = beyond[0] | beyond[1] | beyond[2]
    return tuple(x.reshape(request.groups(size), request.tokens) for x in (row, hollow, side))


@pytest.mark.parametrize("masked", [False, True], ids=["padding attends", "padding masked"])
@pytest.mark.parametrize("case", [*CASES.values(), *MORE.values()], ids=[*CASES, *MORE])
def test_tokens_lie_where_they_lie_by_hand(case, masked) -> None:
    size, request = _request(case)
    row, hollow, side = _read(size, request, masked=masked)
    true_row, true_hollow, true_side = _by_hand(size, request, masked=masked)
    assert torch.equal(hollow, true_hollow)
    assert torch.equal(row[~hollow], true_row[~hollow])
    assert torch.equal(row[~hollow].sort().values, torch.arange(len(row[~hollow])))
    together, true_together = (s[:, :, None] == s[:, None] for s in (side, true_side))
    assert torch.equal(together, true_together)
    mixed = plan(size, request, request.extents(None), masked=masked, device=CPU).groups[:, -1]
    assert torch.equal(mixed.bool(), (~true_together).flatten(1).any(1))


@pytest.mark.parametrize("prefix", [False, True], ids=["geometric", "prefix"])
@pytest.mark.parametrize("extents", [(3, 7, 5), (7, 11, 9)])
def test_a_difference_of_two_numbers_is_the_entry_of_the_table(extents, prefix) -> None:
    request = Request(1, (2, 4, 3), prefix=prefix)
    entry = plan((4, 4, 3), request, extents, masked=True, device=CPU).tokens[2].long()
    entries = extents[0] * extents[1] * extents[2]
    number = torch.arange(entries, dtype=torch.float64).view(*extents, 1)
    query, key = entry[:24, None], entry[None, :24]
    assert torch.equal(query - key + center(extents), position_bias(number, request)[0].long())
    beyond = query - entry[None, 24:] + center(extents)
    assert beyond.numel() == 24 * (MULTIPLE - 24)
    assert beyond.min() >= entries
    assert beyond.max() <= entries + center(extents)
