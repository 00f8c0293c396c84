"""The CPU's attention, of each width of vectors, against torch's in double precision."""

import platform

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from medseg_kernels import attend as module
from medseg_kernels import native
from medseg_kernels.attend import attend, refuses

# Groups, heads, queries, keys and channels; whether the bias differs by group, and by head.
CASES = {
    "a window": ((3, 2, 343, 343, 16), (False, True)),
    "odd numbers": ((2, 3, 5, 7, 13), (True, True)),
    "one of each": ((1, 1, 1, 1, 1), None),
    "more keys than a chunk": ((2, 2, 50, 1000, 64), (True, False)),
    "no bias": ((1, 2, 17, 800, 80), None),
    "large heads": ((2, 1, 9, 48, 128), (False, False)),
}


@pytest.fixture(autouse=True)
def _compiled() -> None:
    told = refuses(torch.zeros(1))
    if told is not None:
        pytest.skip(told)


def _drawn(case: str) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
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


def _assert_right(case: str) -> None:
    given = _drawn(case)
    found = attend(*given)
    query, key, value, bias = (None if one is None else one.double() for one in given)
    expected = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-5
    assert found.transpose(1, 2).is_contiguous()


@pytest.mark.parametrize("case", CASES)
def test_equals_torch_in_double_precision(case) -> None:
    _assert_right(case)


@pytest.mark.parametrize(
    "without", [("-mno-avx512f",), ("-mno-avx512f", "-mno-fma", "-mno-avx2")], ids=str
)
def test_each_width_of_vectors(monkeypatch, without) -> None:
    if platform.machine() != "x86_64":
        pytest.skip("these widths are of x86")
    monkeypatch.setattr(native, "FLAGS", (*native.FLAGS, *without))
    native.forget()
    try:
        for case in CASES:
            _assert_right(case)
    finally:
        native.forget()


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_no_bit(threads) -> None:
    given = _drawn("odd numbers")
    alone = attend(*given)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert torch.equal(attend(*given), alone)
    finally:
        torch.set_num_threads(before)


def test_large_scores_and_a_scale_of_its_own() -> None:
    query, key, value, _ = _drawn("odd numbers")
    found = attend(query, key, value, None, 300.0)
    exact = (query.double(), key.double(), value.double())
    expected = functional.scaled_dot_product_attention(*exact, scale=300.0)
    assert (found - expected).abs().max() <= 1e-3
    # Largest and smallest scores lie further apart than float's exponent reaches.
    assert (300 * query @ key.mT).abs().max() > 200


def test_what_is_beyond_the_source_is_torchs(monkeypatch) -> None:
    half = [one.bfloat16() for one in _drawn("no bias")[:3]]
    assert attend(*half, None).dtype == torch.bfloat16
    given = _drawn("a window")
    ours = attend(*given)
    monkeypatch.setattr(module, "_unready", lambda: "no compiler here")
    assert "no compiler" in str(refuses(given[0]))
    assert (attend(*given) - ours).abs().max() <= 1e-5
