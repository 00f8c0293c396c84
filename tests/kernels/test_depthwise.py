"""Depthwise convolutions and their transposes against torch's in double precision."""

import logging

import pytest
import torch
from torch import Tensor

from medseg_kernels import native
from medseg_kernels.depthwise import chosen, depthwise, refuses

# Size of the map, sides of the kernel, and steps.
CASES = {
    "3x3x3": ((2, 20, 5, 6, 9), (3, 3, 3), {}),
    "a slice": ((3, 33, 1, 12, 17), (1, 5, 5), {}),
    "sides of their own": ((1, 16, 4, 5, 6), (5, 1, 3), {}),
    "more lines than stay": ((1, 3, 4, 120, 60), (3, 3, 3), {}),
    "smaller than the kernel": ((2, 5, 2, 3, 1), (7, 7, 7), {}),
    "gaps": ((1, 17, 9, 12, 10), (7, 7, 7), {"dilation": 3}),
    "many taps in a row": ((1, 4, 2, 3, 21), (1, 1, 19), {}),
    "one voxel": ((2, 7, 1, 1, 1), (3, 3, 3), {}),
    "step 2": ((2, 20, 7, 6, 9), (3, 3, 3), {"stride": 2}),
    "step 2, 5x5x5": ((1, 9, 8, 5, 18), (5, 5, 5), {"stride": 2}),
    "step 3 and gaps": ((1, 3, 8, 11, 10), (3, 3, 3), {"stride": 3, "dilation": 2}),
    "transposed": ((2, 20, 3, 4, 5), (3, 3, 3), {"transposed": True}),
    "transposed, step 2": ((2, 20, 3, 4, 9), (3, 3, 3), {"stride": 2, "transposed": True}),
    "transposed, step 2, 5x5x5": ((1, 18, 4, 2, 5), (5, 5, 5), {"stride": 2, "transposed": True}),
    "transposed, step 3": (
        (1, 3, 2, 3, 1), (3, 3, 3), {"stride": 3, "dilation": 2, "transposed": True},
    ),
}  # fmt: skip
OF_LATTICES = ["3x3x3", "smaller than the kernel", "gaps", "one voxel"]


def _needs_compiled() -> None:
    told = refuses("compiled", torch.zeros(1, 1, 1, 1, 1), torch.zeros(1, 1, 1, 1, 1))
    if told is not None:
        pytest.skip(told)


def _drawn(case: str) -> tuple[Tensor, Tensor, Tensor]:
    size, sides, _ = CASES[case]
    x = torch.randn(size).contiguous(memory_format=torch.channels_last_3d)
    return x, torch.randn(size[1], 1, *sides), torch.randn(size[1])


def _run(case: str, given: tuple[Tensor, ...], backend: str) -> list[Tensor]:
    leaves = [one.detach().clone().requires_grad_() for one in given]
    y = depthwise(*leaves, **CASES[case][2], backend=backend)
    slope = torch.randn(y.shape, generator=torch.Generator().manual_seed(4))
    return [y.detach(), *torch.autograd.grad(y, leaves, slope.to(y.dtype))]


def _truth(case: str, given: tuple[Tensor, ...]) -> list[Tensor]:
    return _run(case, tuple(one.double() for one in given), "reference")


def _assert_right(case: str) -> None:
    given = _drawn(case)
    for some in (given, given[:2]):
        found, expected = _run(case, some, "compiled"), _truth(case, some)
        assert len(found) == len(some) + 1
        for ours, truth in zip(found, expected, strict=True):
            assert ours.shape == truth.shape
            assert (ours - truth).abs().max() <= 1e-5 * max(1, truth.abs().max())
        assert found[0].is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("case", CASES)
def test_maps_and_gradients_equal_torch_in_double_precision(case) -> None:
    _needs_compiled()
    _assert_right(case)


@pytest.mark.usefixtures("narrow_vectors")
@pytest.mark.parametrize("case", CASES)
def test_each_width_of_vectors(case) -> None:
    _needs_compiled()
    _assert_right(case)


@pytest.mark.parametrize("case", OF_LATTICES)
def test_lattices_equal_torch(case) -> None:
    given = tuple(one.double() for one in _drawn(case))
    found, expected = _run(case, given, "lattices"), _run(case, given, "reference")
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        y = depthwise(*given, **CASES[case][2], backend="lattices")
    torch.testing.assert_close(y, expected[0], rtol=1e-9, atol=1e-9)


def test_lattices_in_half_precision_under_autocast() -> None:
    given = _drawn("gaps")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert chosen(*given[:2]) == "lattices"
        found = depthwise(*given, dilation=3)
    expected = _truth("gaps", given)[0]
    assert (found - expected).abs().max() <= 3e-2 * expected.abs().max()


@pytest.mark.parametrize("case", ["3x3x3", "transposed, step 2"])
@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_no_bit_of_the_maps(case, threads) -> None:
    _needs_compiled()
    given = _drawn(case)
    expected = _run(case, given, "compiled")
    torch.set_num_threads(threads)
    try:
        found, again = _run(case, given, "compiled"), _run(case, given, "compiled")
    finally:
        torch.set_num_threads(1)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    assert all(torch.equal(one, other) for one, other in zip(found, again, strict=True))


@pytest.mark.parametrize("case", ["3x3x3", "gaps", "step 2, 5x5x5", "transposed, step 2, 5x5x5"])
def test_memory_that_nobody_wrote_is_not_read(case) -> None:
    _needs_compiled()
    given = _drawn(case)
    expected = _run(case, given, "compiled")
    torch.use_deterministic_algorithms(mode=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        found = _run(case, given, "compiled")
    finally:
        torch.use_deterministic_algorithms(mode=False)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_any_layout_is_taken_and_what_is_not_a_number_stays_where_it_is_read() -> None:
    _needs_compiled()
    x, weight, bias = _drawn("3x3x3")
    expected = depthwise(x, weight, bias, backend="compiled")
    turned = weight.permute(4, 3, 2, 1, 0).contiguous().permute(4, 3, 2, 1, 0)
    found = depthwise(x.contiguous(), turned, bias, backend="compiled")
    assert torch.equal(found, expected)
    x[1, 3, 2, 3, 4] = torch.nan
    missing = depthwise(x, weight, bias, backend="compiled").isnan()
    assert missing.sum() == 27
    assert missing[1, 3, 1:4, 2:5, 3:6].all()


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch 2.15 asks for it itself
@pytest.mark.parametrize("case", ["3x3x3", "step 2", "transposed, step 2"])
def test_the_operator_keeps_the_promises_of_torch_library(case) -> None:
    _needs_compiled()
    x, weight, bias = (one.requires_grad_() for one in _drawn(case))
    steps = {"stride": 1, "dilation": 1, "transposed": False} | CASES[case][2]
    given = (x, weight, bias, *steps.values())
    torch.library.opcheck(torch.ops.medseg.depthwise.default, given)
    torch.compiler.reset()  # cases must not count as recompilations of each other
    traced = torch.compile(depthwise, fullgraph=True, backend="aot_eager")
    for backend in ("compiled", "reference", None):
        y = traced(x, weight, bias, **steps, backend=backend)
        y.sum().backward()
        assert torch.equal(y, depthwise(x, weight, bias, **steps, backend=backend))


def test_only_what_is_asked_for_is_differentiated() -> None:
    _needs_compiled()
    x, weight, _ = _drawn("3x3x3")
    depthwise(x, weight.requires_grad_(), backend="compiled").sum().backward()
    assert x.grad is None
    assert weight.grad is not None


def test_refusals_have_reasons_and_a_name_turns_them_into_errors(monkeypatch, caplog) -> None:
    x, weight, bias = _drawn("3x3x3")
    assert "float64" in str(refuses("compiled", x.double(), weight.double()))
    assert "meta" in str(refuses("compiled", x.to("meta"), weight.to("meta")))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert "autocast" in str(refuses("compiled", x, weight))
    assert "step 1" in str(refuses("lattices", x, weight, stride=2))
    assert "cubes" in str(refuses("lattices", x, weight[..., :1]))
    monkeypatch.setattr(native, "COMPILERS", ())
    native.forget()
    with caplog.at_level(logging.DEBUG, logger="medseg_kernels.depthwise"):
        assert chosen(x, weight) == "lattices"
        assert chosen(x, weight, stride=2) == "reference"
    native.forget()
    assert "none of the compilers" in caplog.text
    with pytest.raises(ValueError, match="'lattices' refuses: it is for convolutions of step 1"):
        depthwise(x, weight, bias, transposed=True, backend="lattices")
    with pytest.raises(ValueError, match="no backend 'best'"):
        depthwise(x, weight, backend="best")
    with pytest.raises(ValueError, match="they are"):
        depthwise(x, weight[1:])
    with pytest.raises(ValueError, match="are odd"):
        depthwise(x, weight[..., :2])
    with pytest.raises(ValueError, match="steps are 1 or more"):
        depthwise(x, weight, stride=0)
