"""Linear layers of each width of vectors against torch's in double precision."""

import logging

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from medseg_kernels.linear import Norm, linear, product, refuses

# Shapes of the rows, and numbers of a row: before and after.
CASES = {
    "whole vectors": ((2, 5, 6, 7), 48, 96),
    "odd numbers": ((3, 101), 13, 37),
    "one number": ((500,), 1, 1),
    "a row": ((1,), 30, 20),
    "numbers alone": ((), 30, 20),
    "sums of sums": ((20000,), 5, 3),
    "many numbers": ((70,), 300, 130),
    "more than are multiplied at once": ((70,), 2500, 20),
    "more on the way back": ((70,), 20, 2500),
}
STEPS = ("nothing", "norm", "gelu", "norm, gelu")


@pytest.fixture(autouse=True)
def _any_size_and_processor(monkeypatch) -> None:
    monkeypatch.setattr(product, "LEAST_PRODUCTS", 1)
    monkeypatch.setattr(product, "_is_amd", lambda: True)
    told = refuses(torch.zeros(1, 1), torch.zeros(1, 1))
    if told is not None:
        pytest.skip(told)


def _drawn(case: str) -> tuple[Tensor, Tensor, Tensor]:
    rows, into, out = CASES[case]
    shapes, generator = ((*rows, into), (out, into), (out,)), torch.Generator().manual_seed(1)
    x, weight, bias = (torch.randn(shape, generator=generator) for shape in shapes)
    return x, weight, bias


def _run(given: tuple[Tensor, ...], backend: str, step: str = "nothing") -> list[Tensor]:
    """The rows, and the gradients of what is given and of a norm's gain and shift."""
    leaves = [one.detach().clone().requires_grad_() for one in given]
    x, generator = leaves[0], torch.Generator().manual_seed(4)
    norms = []
    if "norm" in step:
        drawn = torch.randn(2, x.shape[-1], generator=generator).to(x.dtype)
        norms = [one.requires_grad_() for one in drawn.unbind()]
    norm = Norm(*norms, eps=1e-3) if norms else None
    y = linear(*leaves, norm=norm, gelu="gelu" in step, backend=backend)
    slope = torch.randn(y.shape, generator=generator)
    return [y.detach(), *torch.autograd.grad(y, [*leaves, *norms], slope.to(y.dtype))]


def _assert_right(case: str, step: str) -> None:
    given = _drawn(case)
    for some in (given, given[:2]):
        found = _run(some, "product", step)
        expected = _run(tuple(one.double() for one in some), "torch", step)
        assert len(found) == 1 + len(some) + 2 * ("norm" in step)
        for ours, truth in zip(found, expected, strict=True):
            assert ours.shape == truth.shape
            # Numbers near zero are sums of larger ones that cancel.
            assert (ours - truth).abs().max() <= 1e-5 * truth.abs().max().clamp(min=1)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("case", CASES)
def test_rows_and_gradients_equal_torch_in_double_precision(case, step) -> None:
    _assert_right(case, step)


@pytest.mark.usefixtures("narrow_vectors")
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("case", CASES)
def test_each_width_of_vectors(case, step) -> None:
    _assert_right(case, step)


def test_gelu_is_right_wherever_it_is_not_flat() -> None:
    x = torch.linspace(-9, 9, 20001)[:, None].requires_grad_()
    one = torch.ones(1, 1)
    found, exact = linear(x, one, gelu=True, backend="product"), x.detach().double()
    assert (found - functional.gelu(exact)).abs().max() < 5e-7
    (slope,) = torch.autograd.grad(found.sum(), x)
    exact.requires_grad_()
    (expected,) = torch.autograd.grad(functional.gelu(exact).sum(), exact)
    assert (slope - expected).abs().max() < 5e-7


def test_a_norm_of_large_numbers_that_hardly_differ() -> None:
    x = 1000 + torch.randn(300, 48)
    gain, shift, weight = torch.rand(48), torch.randn(48), torch.randn(20, 48)
    norms = {"norm": Norm(gain, shift)}
    exact = [one.double() for one in (x, weight, gain, shift)]
    expected = linear(*exact[:2], norm=Norm(*exact[2:]), backend="torch")
    error, of_torch = (
        (linear(x, weight, **norms, backend=backend) - expected).abs().mean()
        for backend in ("product", "torch")
    )
    assert error <= 2 * of_torch


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_no_bit_of_the_rows(threads) -> None:
    given = _drawn("sums of sums")
    expected = _run(given, "product", "norm")
    torch.set_num_threads(threads)
    try:
        found, again = _run(given, "product", "norm"), _run(given, "product", "norm")
    finally:
        torch.set_num_threads(1)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    assert all(torch.equal(one, other) for one, other in zip(found, again, strict=True))


def test_other_layouts() -> None:
    x, weight, bias = _drawn("odd numbers")
    expected = _run((x.double(), weight.double(), bias.double()), "torch")[0]
    apart = x.transpose(0, 1).contiguous().transpose(0, 1)
    turned = weight.t().contiguous().t()
    found = linear(apart, turned, bias[:, None].expand(-1, 2)[:, 0], backend="product")
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    slope = torch.ones(1).expand(expected.shape)  # its strides are all zero
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(linear(x, turned, backend="product"), x, slope)
    torch.testing.assert_close(gradient, slope @ weight, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("case", ["odd numbers", "sums of sums"])
def test_memory_that_nobody_wrote_is_not_read(case, step) -> None:
    given = _drawn(case)
    expected = _run(given, "product", step)
    torch.use_deterministic_algorithms(mode=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        found = _run(given, "product", step)
    finally:
        torch.use_deterministic_algorithms(mode=False)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_what_is_not_a_number_stays_in_its_row() -> None:
    x, weight, bias = _drawn("odd numbers")
    x[1, 50, 3] = torch.nan
    found = linear(x, weight, bias, backend="product").isnan()
    assert found[1, 50].all()
    assert found.sum() == found[1, 50].numel()


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch 2.15 asks for it itself
def test_the_operator_keeps_the_promises_of_torch_library() -> None:
    given = tuple(one.requires_grad_() for one in _drawn("odd numbers"))
    norm = Norm(torch.randn(13, requires_grad=True), torch.randn(13, requires_grad=True))
    for steps in ((None, None, 0.0, True), (*norm, False)):
        torch.library.opcheck(torch.ops.medseg.linear.default, (*given, *steps))
    compiled = torch.compile(linear, fullgraph=True, backend="aot_eager")
    settings = (
        {"backend": "product"},
        {"backend": "torch"},
        {},
        {"norm": norm, "backend": "product"},
        {"gelu": True, "backend": "product"},
    )
    for setting in settings:
        y = compiled(*given, **setting)
        y.sum().backward()
        assert torch.equal(y, linear(*given, **setting))


def test_a_traced_graph_takes_any_number_of_rows() -> None:
    class Layer(torch.nn.Module):
        def forward(self, x: Tensor, weight: Tensor) -> Tensor:
            return linear(x, weight)

    given = (torch.randn(2, 6, 9), torch.randn(8, 9))
    rows = torch.export.Dim("rows", max=9)
    traced = torch.export.export(Layer(), given, dynamic_shapes=({0: rows}, None))
    x, weight = torch.randn(3, 6, 9), given[1]
    assert torch.equal(traced.module()(x, weight), linear(x, weight))


@pytest.mark.parametrize("asked", [0, 1, 2])
@pytest.mark.parametrize("step", STEPS)
def test_only_what_is_asked_for_is_differentiated(step, asked) -> None:
    given = _drawn("odd numbers")
    given[asked].requires_grad_()
    norm = Norm(torch.rand(13), torch.rand(13)) if "norm" in step else None
    found, expected = (
        torch.autograd.grad(
            linear(*given, norm=norm, gelu="gelu" in step, backend=backend).square().sum(),
            given[asked],
        )[0]
        for backend in ("product", "torch")
    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


def test_refusals_have_reasons_and_a_name_turns_them_into_errors(monkeypatch, caplog) -> None:
    x, weight, bias = _drawn("odd numbers")
    assert "float64" in str(refuses(x.double(), weight.double()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert "autocast" in str(refuses(x, weight))
    monkeypatch.setattr(product, "LEAST_PRODUCTS", 1 << 24)
    with caplog.at_level(logging.DEBUG, logger="medseg_kernels.linear"):
        assert torch.equal(linear(x, weight, bias), functional.linear(x, weight, bias))
    assert "fewer than 16777216 products" in caplog.text
    with pytest.raises(ValueError, match="'product' refuses: there are fewer"):
        linear(x, weight, backend="product")
    monkeypatch.setattr(product, "LEAST_PRODUCTS", 1)
    monkeypatch.setattr(product, "_is_amd", lambda: False)
    assert "MKL" in str(refuses(x, weight))
    with pytest.raises(ValueError, match="no backend 'best'"):
        linear(x, weight, backend="best")
    with pytest.raises(ValueError, match="they are"):
        linear(x[..., 1:], weight)
    with pytest.raises(ValueError, match="gain and shift of a norm"):
        linear(x, weight, norm=Norm(torch.ones(12), torch.zeros(12)))
