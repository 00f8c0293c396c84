"""Windows are added as the reference adds them, to the last bit, wherever and however they lie."""

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor

from medseg_kernels import native
from medseg_kernels.window_sum import add_window, compiled

TYPES = [torch.float32, torch.bfloat16, torch.float16]


def drawn(
    shape: tuple[int, int, int, int], *, last: bool = False, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Numbers that lie channels first, or channels `last`."""
    f, i, j, k = shape
    if last:
        return torch.randn(i, j, k, f).to(dtype).permute(3, 0, 1, 2)
    return torch.randn(shape).to(dtype)


def added(backend: str | None, sums: Tensor, counts: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
    """Sums and counts after a window was added, and those that were given as they were."""
    sums, counts = (x.clone(memory_format=torch.preserve_format) for x in (sums, counts))
    inside = (slice(1, -1), slice(2, None), slice(None, -3))
    add_window(sums[(slice(None), *inside)], counts[inside], *rest, backend=backend)
    return sums, counts


@pytest.mark.parametrize("kinds", list(itertools.product(TYPES, TYPES)), ids=str)
@pytest.mark.parametrize("lasts", list(itertools.product([False, True], [False, True])), ids=str)
def test_the_compiled_form_is_the_reference_to_the_bit(
    kinds: tuple[torch.dtype, torch.dtype], lasts: tuple[bool, bool]
) -> None:
    sums = drawn((5, 7, 6, 40), last=lasts[0], dtype=kinds[0])
    counts = torch.rand(7, 6, 40).to(kinds[0])
    features = drawn((5, 5, 4, 37), last=lasts[1], dtype=kinds[1])
    given = (sums, counts, features, torch.rand(5, 4, 37))
    if (refusal := compiled.refuses(sums, features)) is not None:
        pytest.skip(refusal)
    for found, wanted in zip(added("compiled", *given), added("reference", *given), strict=True):
        assert found.stride() == wanted.stride()
        assert torch.equal(found, wanted)


def test_the_reference_is_the_sum_of_weighted_windows() -> None:
    sums, counts = torch.zeros(2, 4, 4, 6), torch.zeros(4, 4, 6)
    windows = torch.randn(3, 2, 4, 4, 6)
    weights = torch.rand(3, 4, 4, 6)
    for window, weight in zip(windows, weights, strict=True):
        add_window(sums, counts, window, weight, backend="reference")
    torch.testing.assert_close(sums, (windows * weights[:, None]).sum(0))
    torch.testing.assert_close(counts, weights.sum(0))


@pytest.mark.parametrize("dtype", TYPES)
def test_sums_of_16_bits_are_rounded_as_torch_rounds(dtype: torch.dtype) -> None:
    # Halves between two neighbors, numbers too small and too large for 16 bits, and none.
    values = torch.tensor([1 + 2**-8, 1 + 2**-11, 1e-7, 6e-8, 7e4, -1e39, torch.nan, torch.inf])
    wide = torch.cat([values, -values, values * 3, torch.randn(1000) * 1e-6]).reshape(1, 1, 1, -1)
    sums, counts = torch.zeros_like(wide, dtype=dtype), torch.zeros(wide.shape[1:], dtype=dtype)
    add_window(sums, counts, wide, torch.ones(wide.shape[1:]))
    torch.testing.assert_close(sums, wide.to(dtype), equal_nan=True, rtol=0, atol=0)


def test_several_threads_give_the_same() -> None:
    given = drawn((3, 7, 6, 20)), torch.rand(7, 6, 20), drawn((3, 5, 4, 17)), torch.rand(5, 4, 17)
    alone = added(None, *given)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    together = added(None, *given)
    torch.set_num_threads(before)
    assert all(map(torch.equal, alone, together))


def test_nothing_is_added_where_there_is_nothing() -> None:
    sums, counts = torch.zeros(0, 2, 3, 4), torch.zeros(2, 3, 4)
    add_window(sums, counts, torch.zeros(0, 2, 3, 4), torch.ones(2, 3, 4))


@pytest.mark.parametrize("backend", ["compiled", "reference"])
def test_the_operator_keeps_the_promises_of_torch_library(backend: str) -> None:
    given = drawn((3, 4, 5, 6)), torch.rand(4, 5, 6), drawn((3, 4, 5, 6)), torch.rand(4, 5, 6)
    torch.library.opcheck(torch.ops.medseg.add_window.default, (*given, backend))


def test_it_is_a_node_of_a_compiled_graph() -> None:
    given = drawn((3, 4, 5, 6)), torch.rand(4, 5, 6), drawn((3, 4, 5, 6)), torch.rand(4, 5, 6)

    def mean(sums: Tensor, counts: Tensor, features: Tensor, weight: Tensor) -> Tensor:
        add_window(sums[:, 1:], counts[1:], features[:, 1:].tanh(), weight[1:])
        return sums / counts

    wanted = mean(*(x.clone() for x in given))
    found = torch.compile(mean, fullgraph=True, backend="aot_eager")(*given)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"features": torch.zeros(2, 3, 4)}, "must be"),
        ({"features": torch.zeros(2, 3, 4, 6)}, "must be"),
        ({"counts": torch.zeros(3, 4, 6)}, "counts"),
        ({"counts": torch.zeros(3, 4, 5).half()}, "of one type"),
        ({"weight": torch.zeros(3, 4, 5).half()}, "must be float32"),
        ({"features": torch.zeros(2, 3, 4, 5).long()}, "floating"),
        ({"backend": "fast"}, "no backend"),
        ({"features": torch.zeros(2, 3, 4, 5).double(), "backend": "compiled"}, "no float64"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict, told: str) -> None:
    given = {
        "sums": torch.zeros(2, 3, 4, 5),
        "counts": torch.zeros(3, 4, 5),
        "features": torch.zeros(2, 3, 4, 5),
        "weight": torch.zeros(3, 4, 5),
    }
    with pytest.raises(ValueError, match=told):
        add_window(**given | changes)


def test_without_a_compiler_torch_serves_and_the_reason_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given = drawn((3, 7, 6, 20)), torch.rand(7, 6, 20), drawn((3, 5, 4, 17)), torch.rand(5, 4, 17)
    wanted = added(None, *given)
    monkeypatch.setattr(native, "CACHE", tmp_path)
    monkeypatch.setattr(native, "COMPILERS", ("no-such-compiler",))
    native.forget()
    with pytest.raises(ValueError, match="no-such-compiler is installed"):
        added("compiled", *given)
    assert all(map(torch.equal, added(None, *given), wanted))
    native.forget()
