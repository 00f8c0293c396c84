"""Convolutions in two parts against torch's in double precision."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from medseg_kernels.convolution import convolution, refuses

# Items, channels in and out, size, kernel: tiles that are full, and ones that are not.
CASES = {
    "full tiles": (1, 32, 32, (4, 6, 5), (3, 3, 3)),
    "odd channels and sizes": (2, 13, 33, (6, 7, 9), (3, 3, 3)),
    "one plane": (1, 24, 30, (1, 9, 11), (3, 3, 3)),
    "a flat kernel": (1, 40, 8, (9, 3, 5), (1, 3, 3)),
    "a long kernel": (1, 9, 20, (3, 5, 17), (3, 1, 5)),
    "kernel larger than the map": (2, 8, 8, (4, 4, 4), (5, 1, 7)),
    "five blocks of channels": (1, 70, 66, (5, 4, 4), (3, 3, 3)),
}


def _needs_amx() -> None:
    told = refuses(torch.zeros(1, 8, 4, 4, 4), torch.zeros(8, 8, 3, 3, 3))
    if told is not None:
        pytest.skip(told)


def _drawn(case: str) -> tuple[Tensor, Tensor]:
    items, into, out, size, kernel = CASES[case]
    weight = torch.randn(out, into, *kernel) / (into * torch.tensor(kernel).prod()) ** 0.5
    return torch.randn(items, into, *size), weight


def _run(x: Tensor, weight: Tensor, backend: str, *, biased: bool = False) -> list[Tensor]:
    leaves = [x, weight, *([torch.linspace(-2, 2, len(weight)).to(x.dtype)] if biased else [])]
    leaves = [one.detach().clone().requires_grad_() for one in leaves]
    y = convolution(*leaves, backend=backend)
    slope = torch.randn(y.shape, generator=torch.Generator().manual_seed(4))
    return [y.detach(), *torch.autograd.grad(y, leaves, slope.to(y.dtype))]


def _assert_near(found: list[Tensor], expected: list[Tensor]) -> None:
    for ours, truth in zip(found, expected, strict=True):
        assert ours.shape == truth.shape
        assert (ours - truth).abs().max() <= 2e-5 * truth.abs().max()


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_map_and_gradients_equal_torch_in_double_precision(case, biased) -> None:
    _needs_amx()
    x, weight = _drawn(case)
    found = _run(x, weight, "split", biased=biased)
    expected = _run(x.double(), weight.double(), "torch", biased=biased)
    assert len(found) == 3 + biased
    _assert_near(found, expected)
    assert found[0].is_contiguous(memory_format=torch.channels_last_3d)


def test_it_is_a_hundred_times_nearer_than_bfloat16() -> None:
    _needs_amx()
    x, weight = _drawn("full tiles")
    truth = functional.conv3d(x.double(), weight.double(), padding=1)
    half = functional.conv3d(x.bfloat16().double(), weight.bfloat16().double(), padding=1)
    ours = (convolution(x, weight, backend="split") - truth).abs().max()
    assert 100 * ours < (half - truth).abs().max()


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_threads_change_no_bit_of_the_map(threads) -> None:
    _needs_amx()
    x, weight = _drawn("odd channels and sizes")
    expected = _run(x, weight, "split")
    torch.set_num_threads(threads)
    try:
        found = _run(x, weight, "split")
        again = _run(x, weight, "split")
    finally:
        torch.set_num_threads(1)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    _assert_near(found[2:], expected[2:])
    assert all(torch.equal(one, other) for one, other in zip(found, again, strict=True))


def test_other_layouts_of_map_weight_and_gradient() -> None:
    _needs_amx()
    x, weight = _drawn("odd channels and sizes")
    expected = _run(x.double(), weight.double(), "torch")
    x = torch.cat([x, x], dim=1)[:, : x.shape[1]]
    for layout in (torch.contiguous_format, torch.channels_last_3d):
        _assert_near(_run(x, weight.contiguous(memory_format=layout), "split"), expected)
    turned = weight.transpose(2, 4).contiguous().transpose(2, 4)
    y = convolution(x.requires_grad_(), turned)
    y.sum().backward()  # a gradient whose strides are all zero
    ones = torch.autograd.grad(
        functional.conv3d(x.double(), weight.double(), padding=1).sum(), x, retain_graph=False
    )
    _assert_near([x.grad], list(ones))


def test_memory_that_nobody_wrote_is_not_read() -> None:
    _needs_amx()
    x, weight = _drawn("odd channels and sizes")
    expected = _run(x, weight, "split")
    torch.use_deterministic_algorithms(mode=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        found = _run(x, weight, "split")
    finally:
        torch.use_deterministic_algorithms(mode=False)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_what_is_not_a_number_stays_where_it_is() -> None:
    _needs_amx()
    x, weight = _drawn("odd channels and sizes")
    x[0, 3, 5, 0, 0] = torch.nan
    found = convolution(x, weight, backend="split").isnan()
    expected = functional.conv3d(x, weight, padding=1).isnan()
    assert (found & expected).sum() == expected.sum()
    assert not found[1].any()


def test_torchs_own_products_in_tiles_are_not_disturbed() -> None:
    _needs_amx()
    a = torch.randn(64, 64, dtype=torch.bfloat16)
    before = a @ a
    for _ in range(2):
        convolution(*_drawn("full tiles"), backend="split")
        assert torch.equal(a @ a, before)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch 2.15 asks for it itself
def test_the_operator_keeps_the_promises_of_torch_library() -> None:
    _needs_amx()
    x, weight = (one.requires_grad_() for one in _drawn("one plane"))
    torch.library.opcheck(torch.ops.medseg.convolution.default, (x, weight, None))
    compiled = torch.compile(convolution, fullgraph=True, backend="aot_eager")
    y = compiled(x, weight, backend="split")
    y.sum().backward()
    assert torch.equal(y, convolution(x, weight, backend="split"))
    assert x.grad is not None


def test_only_what_is_asked_for_is_differentiated() -> None:
    _needs_amx()
    x, weight = _drawn("one plane")
    convolution(x, weight.requires_grad_(), backend="split").sum().backward()
    assert x.grad is None
    assert weight.grad is not None


def test_refusals_have_reasons_and_a_name_turns_them_into_errors() -> None:
    x, weight = torch.zeros(1, 8, 4, 4, 4), torch.zeros(8, 8, 3, 3, 3)
    assert "float64" in str(refuses(x.double(), weight.double()))
    assert "64 voxels" in str(refuses(x[..., :1], weight))
    assert "3 numbers" in str(refuses(x[:, :1], weight[:, :1]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert "autocast" in str(refuses(x, weight))
    with pytest.raises(ValueError, match="'split' refuses: it is for float32"):
        convolution(x.double(), weight.double(), backend="split")
    with pytest.raises(ValueError, match="must be odd"):
        convolution(x, weight[..., :2])
    with pytest.raises(ValueError, match="they are"):
        convolution(x[:, :7], weight)
