"""Labels of logits that are made, where they are needed, of sums over windows."""

import itertools

import pytest
import torch
from torch import Tensor

from medseg_kernels.pruned_export import (
    export_sums,
    pruned_argmax,
    pruned_regions,
    reference,
)
from tests.kernels.test_pruned_export import BACKENDS, TYPES, Triple, blobs, places


def drawn_sums(channels: int, shape: Triple, *, last: bool = False) -> tuple[Tensor, Tensor]:
    """Sums over windows, channels first or last, and counts, as parts of larger ones."""
    counts = torch.rand(shape) + 0.5
    sums = blobs(channels, shape) * counts
    if last:
        sums = sums.movedim(0, -1).contiguous().movedim(-1, 0)
    return sums[:, 1:, :, 2:], counts[1:, :, 2:]


def drawn_head(classes: int, channels: int) -> tuple[Tensor, Tensor]:
    made = torch.Generator().manual_seed(1)
    return torch.randn(classes, channels, generator=made), torch.randn(classes, generator=made)


def differs_beyond_ties(found: Tensor, logits: Tensor, where: tuple) -> Tensor:
    """The voxels whose label has a logit that is less than the largest by more than rounding."""
    mixed = torch.stack([reference.interpolated(channel, where) for channel in logits])
    chosen = mixed.gather(0, found.long()[None])[0]
    return chosen < mixed.amax(0) - 1e-5 * mixed.abs().amax()


GRIDS = {
    "as it is": ((14, 12, 27), (14, 12, 27)),
    "finer": ((14, 12, 27), (21, 19, 40)),
    "coarser": ((14, 12, 27), (6, 5, 9)),
    "one axis": ((14, 12, 27), (14, 12, 60)),
}


@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize(("classes", "channels"), [(1, 3), (20, 7), (300, 5)])
def test_sums_give_the_labels_of_the_logits_that_are_made_of_them(
    grid: tuple[Triple, Triple], classes: int, channels: int, last: bool
) -> None:
    sums, counts = drawn_sums(channels, (15, 12, 29), last=last)
    weight, bias = drawn_head(classes, channels)
    where, means = places(*grid), sums / counts
    logits = torch.einsum("cf,fijk->cijk", weight.double(), means.double())
    logits = (logits + bias.double()[:, None, None, None]).float()
    for backend in [*BACKENDS, "reference"]:
        found, largest = export_sums(sums, counts, where, head=(weight, bias), backend=backend)
        assert found.shape == grid[1]
        assert largest == means.abs().max()
        assert not differs_beyond_ties(found, logits, where).any()


@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("kind", TYPES)
def test_sums_of_logits_are_the_same_by_every_backend(
    grid: tuple[Triple, Triple], kind: torch.dtype, last: bool
) -> None:
    sums, counts = (x.to(kind) for x in drawn_sums(9, (15, 12, 29), last=last))
    where, values = places(*grid), range(1, 10)
    means = (sums / counts).float()
    wanted = pruned_argmax(means, where, backend="reference")
    regions = pruned_regions(means, where, values, backend="reference")
    for backend in [*BACKENDS, "reference"]:
        found, largest = export_sums(sums, counts, where, backend=backend)
        assert torch.equal(found, wanted)
        assert largest == means.abs().max()
        found, _ = export_sums(sums, counts, where, values=values, backend=backend)
        assert torch.equal(found, regions)


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_regions_of_sums_are_those_of_the_logits_made_of_them(grid: tuple[Triple, Triple]) -> None:
    sums, counts = drawn_sums(7, (15, 12, 29))
    weight, bias = drawn_head(4, 7)
    where, values = places(*grid), (3, 300, 1, 2)
    logits = torch.einsum("cf,fijk->cijk", weight.double(), (sums / counts).double())
    logits = (logits + bias.double()[:, None, None, None]).float()
    wanted = pruned_regions(logits, where, values, backend="reference")
    mixed = torch.stack([reference.interpolated(channel, where) for channel in logits])
    clear = (mixed.abs() > 1e-5 * mixed.abs().amax()).all(0)
    assert clear.float().mean() > 0.99
    for backend in BACKENDS:
        found, _ = export_sums(
            sums, counts, where, head=(weight, bias), values=values, backend=backend
        )
        assert torch.equal(found[clear], wanted[clear])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("place", [(0, 0, 0, 0), (3, 7, 5, 11), (6, 13, 11, 26)])
def test_what_is_no_number_shows_in_the_largest_size(
    grid: tuple[Triple, Triple], place: tuple[int, ...], bad: float
) -> None:
    """Where a coarser grid passes the voxel over as well."""
    sums, counts = drawn_sums(7, (15, 12, 29))
    sums[place] = bad
    for backend, head in itertools.product(BACKENDS, (None, drawn_head(4, 7))):
        _, largest = export_sums(sums, counts, places(*grid), head=head, backend=backend)
        assert not largest < torch.finfo(torch.float32).max


def test_every_label_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty memory is filled with a value that is no label."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(mode=True)
    assert torch.empty(3, dtype=torch.uint8).eq(255).all()
    sums, counts = drawn_sums(7, (15, 12, 29))
    for backend, grid in itertools.product(BACKENDS, GRIDS.values()):
        labels, _ = export_sums(sums, counts, places(*grid), backend=backend)
        assert labels.lt(7).all()
    torch.use_deterministic_algorithms(mode=False)


@pytest.mark.parametrize("backend", [*BACKENDS, "reference", None])
def test_the_operator_keeps_the_promises_of_torch_library(backend: str | None) -> None:
    sums, counts = drawn_sums(3, (4, 4, 7))
    where = places((3, 4, 5), (5, 6, 7))
    left, beyond = [place.left for place in where], [place.beyond for place in where]
    operator = torch.ops.medseg.pruned_export.default
    weight, bias = drawn_head(300, 3)
    given = (None, None, None), (counts, None, None), (counts, weight, bias)
    for made, is_regions in itertools.product(given, (False, True)):
        values = [3] * (3 if made[1] is None else 300) if is_regions else []
        torch.library.opcheck(operator, (sums, *made, left, beyond, values, backend))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"counts": torch.ones(3, 4, 4)}, "counts"),
        ({"head": (torch.ones(5, 3), torch.ones(5))}, "weight"),
        ({"head": (torch.ones(5, 2), torch.ones(4))}, "bias"),
        ({"values": (1, 2, 3)}, "3 values for 2 regions"),
        ({"backend": "fast"}, "no backend"),
    ],
)
def test_sums_that_do_not_fit_are_refused(changes: dict, told: str) -> None:
    given = {"sums": torch.ones(2, 3, 4, 5), "counts": torch.ones(3, 4, 5)}
    with pytest.raises(ValueError, match=told):
        export_sums(places=places((3, 4, 5), (3, 4, 5)), **given | changes)
