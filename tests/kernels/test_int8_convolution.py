"""Convolutions in eight bits against exact sums of the same integers."""

import logging
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from medseg_kernels.int8_convolution import int8_convolution, int8_weight, refuses

_told = refuses(torch.zeros(1, 1, 2, 2, 2))
fast = pytest.mark.skipif(_told is not None, reason=str(_told))
BACKENDS = [pytest.param("onednn", marks=fast), "reference"]

CASES = {
    "same size": {"x": (2, 5, 7, 6, 9), "weight": (8, 5, 3, 3, 3), "padding": (1, 1, 1)},
    "many channels": {"x": (1, 48, 8, 9, 10), "weight": (33, 48, 3, 3, 3), "padding": (1, 1, 1)},
    "one channel": {"x": (3, 1, 9, 8, 7), "weight": (16, 1, 3, 3, 3), "padding": (1, 1, 1)},
    "step": {
        "x": (1, 6, 9, 8, 7),
        "weight": (12, 6, 3, 3, 3),
        "stride": (2, 1, 2),
        "padding": (1, 1, 1),
    },
    "flat kernel": {"x": (1, 4, 1, 12, 12), "weight": (4, 4, 1, 3, 3), "padding": (0, 1, 1)},
    "point": {"x": (1, 20, 4, 4, 4), "weight": (7, 20, 1, 1, 1)},
}


def _drawn(case: dict, *, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, dict]:
    generator = torch.Generator().manual_seed(seed)
    options = dict(case)
    x = torch.randn(options.pop("x"), generator=generator)
    weight = torch.randn(options.pop("weight"), generator=generator)
    return x, weight, torch.randn(len(weight), generator=generator), options


@fast
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_onednn_gives_the_exact_sums(case: dict, biased: bool) -> None:
    x, weight, bias, options = _drawn(case)
    rounded, shift = int8_weight(weight), bias if biased else None
    truth = int8_convolution(x, rounded, shift, backend="reference", **options)
    for given in (x, x.contiguous(memory_format=torch.channels_last_3d), x.mT.contiguous().mT):
        made = int8_convolution(given, rounded, shift, backend="onednn", **options)
        torch.testing.assert_close(made, truth, rtol=1e-6, atol=1e-6 * truth.abs().max().item())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_it_is_near_the_convolution_in_floats(case: dict, backend: str) -> None:
    x, weight, bias, options = _drawn(case)
    exact = functional.conv3d(x.double(), weight.double(), bias.double(), **options)
    made = int8_convolution(x, int8_weight(weight), bias, backend=backend, **options)
    assert made.dtype == torch.float32
    apart = (made - exact).square().mean().sqrt() / exact.std()
    # Each factor is off by a step's uniform error, 1 / sqrt(12), with steps of max / 127.
    steps = [float(t.abs().max() / 127 / math.sqrt(12) / t.std()) for t in (x, weight)]
    assert 0 < apart < 1.2 * math.hypot(*steps)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_item_does_not_depend_on_the_others(backend: str) -> None:
    x, weight, bias, options = _drawn(CASES["same size"])
    x[1] *= 50
    rounded = int8_weight(weight)
    both = int8_convolution(x, rounded, bias, backend=backend, **options)
    alone = int8_convolution(x[:1], rounded, bias, backend=backend, **options)
    torch.testing.assert_close(both[:1], alone, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_not_rounded_to_one(backend: str, broken: float) -> None:
    x, weight, bias, options = _drawn(CASES["same size"])
    x[0, 2, 3, 3, 3] = broken
    made = int8_convolution(x, int8_weight(weight), bias, backend=backend, **options)
    assert made[0].isnan().all()
    assert made[1].isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_zeros_give_the_bias(backend: str) -> None:
    _, weight, bias, options = _drawn(CASES["same size"])
    weight[3] = 0
    x = torch.zeros(1, 5, 4, 4, 4)
    made = int8_convolution(x, int8_weight(weight), bias, backend=backend, **options)
    torch.testing.assert_close(made, bias[None, :, None, None, None].expand_as(made))
    x = torch.randn(1, 5, 4, 4, 4)
    made = int8_convolution(x, int8_weight(weight), bias, backend=backend, **options)
    torch.testing.assert_close(made[:, 3], bias[3].expand_as(made[:, 3]))


def test_the_largest_number_of_each_channel_is_kept() -> None:
    weight = torch.randn(6, 4, 3, 3, 3) * torch.logspace(-6, 6, 6)[:, None, None, None, None]
    rounded = int8_weight(weight)
    assert (rounded.values.abs().amax((1, 2, 3, 4)) == 127).all()
    back = rounded.values * rounded.scale[:, None, None, None, None]
    apart = (back - weight).abs().amax((1, 2, 3, 4)) / rounded.scale
    assert (apart <= 0.5001).all()


@fast
def test_weights_are_laid_out_anew_for_each_size_and_forgotten_with_the_weight() -> None:
    from medseg_kernels.int8_convolution.onednn import _laid_out  # noqa: PLC0415

    _, weight, bias, options = _drawn(CASES["same size"])
    rounded = int8_weight(weight)
    before = len(_laid_out)
    for size in (6, 7, 6):
        x = torch.randn(1, 5, size, size, size)
        truth = int8_convolution(x, rounded, bias, backend="reference", **options)
        made = int8_convolution(x, rounded, bias, backend="onednn", **options)
        torch.testing.assert_close(made, truth, rtol=1e-6, atol=1e-4)
    assert len(_laid_out) == before + 1
    assert len(_laid_out[rounded.values]) == 2
    del rounded
    assert len(_laid_out) == before


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_operator_keeps_the_promises_of_torch_library(backend: str) -> None:
    x, weight, bias, options = _drawn(CASES["step"])
    rounded = int8_weight(weight)
    arguments = (x, rounded.values, rounded.scale, bias, *options.values(), backend == "onednn")
    torch.library.opcheck(torch.ops.medseg.int8_convolution.default, arguments)
    meta = [one.to("meta") if isinstance(one, Tensor) else one for one in arguments]
    made = torch.ops.medseg.int8_convolution(*meta)
    assert made.shape == torch.ops.medseg.int8_convolution(*arguments).shape


@pytest.mark.parametrize("backend", BACKENDS)
def test_it_compiles_whole_and_exports(backend: str) -> None:
    x, weight, bias, options = _drawn(CASES["same size"])
    rounded = int8_weight(weight)

    class Layer(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return int8_convolution(x, rounded, bias, backend=backend, **options) * 2

    layer = Layer()
    expected = layer(x)
    made = torch.compile(layer, fullgraph=True, backend="aot_eager")(x)
    assert torch.equal(made, expected)
    exported = torch.export.export(layer, (x,), strict=False)
    assert torch.equal(exported.module()(x), expected)


def test_what_does_not_fit_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    weight = int8_weight(torch.randn(2, 3, 3, 3, 3))
    with pytest.raises(ValueError, match=r"\(b, c, i, j, k\)"):
        int8_convolution(torch.zeros(1, 4, 5, 5, 5), weight)
    with pytest.raises(ValueError, match="no backend 'cuda'"):
        int8_convolution(torch.zeros(1, 3, 5, 5, 5), weight, backend="cuda")
    empty = torch.zeros(0, 3, 5, 5, 5)
    with pytest.raises(ValueError, match="'onednn' refuses: the map is empty"):
        int8_convolution(empty, weight, backend="onednn")
    with caplog.at_level(logging.DEBUG):
        assert int8_convolution(empty, weight).shape == (0, 2, 3, 3, 3)
    assert "refuses: the map is empty" in caplog.text
