"""The CPU's attention, of each width of vectors, against torch's in double precision."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from medseg_kernels import attend
from medseg_kernels.attend import compiled, matrices

# Groups, heads, queries, keys and channels; whether the bias differs by group, and by head.
Given = tuple[Tensor, Tensor, Tensor, Tensor | None]
CASES = {
    "a window": ((3, 2, 343, 343, 16), (False, True)),
    "odd numbers": ((2, 3, 5, 7, 13), (True, True)),
    "one of each": ((1, 1, 1, 1, 1), None),
    "more of both than are taken at a time": ((2, 2, 150, 1000, 64), (True, False)),
    "no bias": ((1, 2, 17, 800, 80), None),
    "large heads": ((2, 1, 9, 48, 128), (False, False)),
}


# Groups, heads, queries and channels; the axes of the keys.
ON_A_GRID = {
    "a window of three axes": ((2, 3, 60, 16), (3, 4, 5)),
    "of two": ((2, 2, 196, 64), (14, 14)),
    "of one": ((1, 2, 5, 8), (37,)),
    "more than are taken at a time": ((1, 2, 90, 24), (5, 13, 17)),
    "axes of one place": ((2, 1, 9, 13), (1, 3, 1)),
}


@pytest.fixture(autouse=True)
def _compiled() -> None:
    told = attend.refuses(torch.device("cpu"), torch.float32)
    if told is not None:
        pytest.skip(told)


def _drawn(case: str) -> Given:
    (g, heads, n, m, e), varies = CASES[case]
    # As a kernel gathers them: heads lie beside each other, queries with keys and values or not.
    packed = torch.randn(g, m, 2, heads, e)
    query = torch.randn(g, n, heads, e).transpose(1, 2)
    key, value = packed.permute(2, 0, 3, 1, 4)
    if varies is None:
        return query, key, value, None
    bias = torch.randn(g if varies[0] else 1, heads if varies[1] else 1, n, m)
    bias[..., 1:].masked_fill_(torch.rand(bias[..., 1:].shape) < 0.3, -torch.inf)
    return query, key, value, bias


def _gradients(given: Given, slope: Tensor) -> list[Tensor]:
    """What `backward` writes over memory that holds no numbers, and what it adds to ones."""
    into = [torch.full_like(one, torch.nan) for one in given[:3]]
    bias = given[3]
    if bias is None:
        attend.backward(*given, slope, into=into)
        return into
    of_bias = bias.new_ones((len(bias), slope.shape[1], *bias.shape[2:]))
    attend.backward(*given, slope, into=into, of_bias=of_bias)
    return [*into, (of_bias - 1).sum_to_size(bias.shape)]


def _assert_right(case: str) -> None:
    given = _drawn(case)
    found, slope = attend.forward(*given), torch.randn_like(given[0])
    exact = [None if one is None else one.double().requires_grad_() for one in given]
    query, key, value, bias = exact
    assert query is not None
    assert key is not None
    scores = query @ key.mT / query.shape[-1] ** 0.5
    expected = (scores if bias is None else scores + bias).softmax(-1) @ value
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-5
    assert found.transpose(1, 2).is_contiguous()
    leaves = [one for one in exact if one is not None]
    truth = torch.autograd.grad(expected, leaves, slope.double())
    for ours, exactly in zip(_gradients(given, slope), truth, strict=True):
        assert ours.shape == exactly.shape
        assert (ours - exactly).abs().max() <= 1e-5 * max(1, exactly.abs().max())


@pytest.mark.parametrize("case", CASES)
def test_equals_torch_in_double_precision(case) -> None:
    _assert_right(case)


@pytest.mark.usefixtures("narrow_vectors")
@pytest.mark.parametrize("case", CASES)
def test_each_width_of_vectors(case) -> None:
    _assert_right(case)


def _drawn_on_a_grid(case: str) -> tuple[list[Tensor], list[Tensor]]:
    (g, heads, n, e), extents = ON_A_GRID[case]
    m = math.prod(extents)
    tokens = [torch.randn(g, rows, heads, e).transpose(1, 2) for rows in (n, m, m)]
    axes = [torch.randn(g, heads, n, w) for w in extents]
    for axis in axes:
        axis[..., 1:].masked_fill_(torch.rand(axis[..., 1:].shape) < 0.3, -torch.inf)
    return tokens, axes


def _gradients_on_a_grid(tokens: list[Tensor], axes: list[Tensor], slope: Tensor) -> list[Tensor]:
    into = [torch.full_like(one, torch.nan) for one in tokens]
    of_axes = [torch.full_like(one, torch.nan) for one in axes]
    attend.backward(*tokens, None, slope, into=into, axes=axes, of_axes=of_axes)
    return [*into, *of_axes]


def _assert_right_on_a_grid(case: str) -> None:
    tokens, axes = _drawn_on_a_grid(case)
    found = attend.forward(*tokens, None, axes=axes)
    leaves = [one.double().requires_grad_() for one in (*tokens, *axes)]
    query, key, value, *exact = leaves
    bias = torch.zeros(1, dtype=torch.float64)
    for axis in exact:  # each in turn the fastest so far
        bias = (bias[..., None] + axis[..., None, :]).flatten(3)
    expected = (query @ key.mT / query.shape[-1] ** 0.5 + bias).softmax(-1) @ value
    assert (found - expected).abs().max() <= 1e-5
    assert found.transpose(1, 2).is_contiguous()
    slope = torch.randn(found.shape)
    truth = torch.autograd.grad(expected, leaves, slope.double())
    for ours, exactly in zip(_gradients_on_a_grid(tokens, axes, slope), truth, strict=True):
        assert (ours - exactly).abs().max() <= 1e-5 * max(1, exactly.abs().max())


@pytest.mark.parametrize("case", ON_A_GRID)
def test_a_bias_may_be_a_sum_over_axes(case) -> None:
    _assert_right_on_a_grid(case)


@pytest.mark.usefixtures("narrow_vectors")
@pytest.mark.parametrize("case", ON_A_GRID)
def test_sums_over_axes_with_each_width_of_vectors(case) -> None:
    _assert_right_on_a_grid(case)


@pytest.mark.parametrize("case", ON_A_GRID)
def test_sums_over_axes_without_a_compiler(monkeypatch, case) -> None:
    monkeypatch.setattr(compiled, "_unready", lambda: "no compiler here")
    monkeypatch.setattr(matrices, "_BYTES", 1 << 14)  # several blocks
    _assert_right_on_a_grid(case)


def test_memory_that_nobody_wrote_is_not_read() -> None:
    tokens, axes = _drawn_on_a_grid("more than are taken at a time")
    slope = torch.randn(tokens[0].shape)

    def run() -> list[Tensor]:
        mixed = attend.forward(*tokens, None, axes=axes)
        return [mixed, *_gradients_on_a_grid(tokens, axes, slope)]

    expected = run()
    torch.use_deterministic_algorithms(mode=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        found = run()
    finally:
        torch.use_deterministic_algorithms(mode=False)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_no_bit(threads) -> None:
    for case in ("a window", "odd numbers"):
        given = _drawn(case)
        slope = torch.randn_like(given[0])
        alone = [attend.forward(*given), *_gradients(given, slope)]
        torch.set_num_threads(threads)
        try:
            found = [attend.forward(*given), *_gradients(given, slope)]
        finally:
            torch.set_num_threads(1)
        assert all(torch.equal(one, other) for one, other in zip(found, alone, strict=True))


def test_gradients_are_never_written_into_a_copy() -> None:
    given = _drawn("no bias")
    apart = [torch.empty(one.mT.shape).mT for one in given[:3]]
    assert apart[0].stride(-1) != 1
    with pytest.raises(AssertionError):
        attend.backward(*given, torch.randn_like(given[0]), into=apart)


def test_large_scores_and_a_scale_of_its_own() -> None:
    query, key, value, _ = _drawn("odd numbers")
    found = attend.forward(query, key, value, None, 300.0)
    exact = (query.double(), key.double(), value.double())
    expected = functional.scaled_dot_product_attention(*exact, scale=300.0)
    assert (found - expected).abs().max() <= 1e-3
    # Largest and smallest scores lie further apart than float's exponent reaches.
    assert (300 * query @ key.mT).abs().max() > 200


def test_what_is_beyond_the_source_is_torchs(monkeypatch) -> None:
    query, key, value, _ = _drawn("no bias")
    half = attend.forward(query.bfloat16(), key.bfloat16(), value.bfloat16(), None)
    assert half.dtype == torch.bfloat16
    given = _drawn("a window")
    slope = torch.randn_like(given[0])
    ours = [attend.forward(*given), *_gradients(given, slope)]
    monkeypatch.setattr(compiled, "_unready", lambda: "no compiler here")
    assert "no compiler" in str(attend.refuses(slope.device, slope.dtype))
    torchs = [attend.forward(*given), *_gradients(given, slope)]
    for one, other in zip(ours, torchs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
