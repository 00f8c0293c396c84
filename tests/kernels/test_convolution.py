"""Convolutions of each engine against torch's in double precision."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from medseg_kernels.convolution import chosen, convolution, refuses, winograd

ENGINES = ("split", "winograd")
# Items, channels in and out, size, kernel: tiles that are full, and ones that are not.
CASES = {
    "full tiles": (1, 32, 32, (8, 12, 8), (3, 3, 3)),
    "odd channels and sizes": (2, 13, 33, (6, 7, 9), (3, 3, 3)),
    "one channel": (1, 1, 24, (9, 6, 5), (3, 3, 3)),
    "one plane": (1, 24, 30, (1, 19, 11), (3, 3, 3)),
    "a flat kernel": (1, 40, 8, (9, 5, 5), (1, 3, 3)),
    "a long kernel": (1, 9, 20, (3, 5, 17), (3, 1, 5)),
    "two sides of one": (1, 12, 5, (9, 4, 6), (3, 1, 1)),
    "kernel larger than the map": (2, 8, 8, (4, 4, 4), (5, 1, 7)),
    "five blocks of channels": (1, 70, 66, (5, 8, 6), (3, 3, 3)),
    "many tiles": (1, 3, 20, (33, 32, 5), (1, 1, 3)),
}
# Where one of the two has no part.
FOR_SPLIT_ALONE = {"a long kernel", "kernel larger than the map"}
FOR_WINOGRAD_ALONE = {"one channel", "two sides of one", "many tiles"}
SERVED = [
    *(("split", case) for case in CASES if case not in FOR_WINOGRAD_ALONE),
    *(("winograd", case) for case in CASES if case not in FOR_SPLIT_ALONE),
]


def _engine(name: str, case: str) -> str:
    told = refuses(name, *_drawn(case))
    if told is not None:
        pytest.skip(told)
    return name


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


def _assert_right(case: str, engine: str, *, biased: bool = False) -> None:
    x, weight = _drawn(case)
    found = _run(x, weight, engine, biased=biased)
    _assert_near(found, _run(x.double(), weight.double(), "torch", biased=biased))
    assert len(found) == 3 + biased
    assert found[0].is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("engine", "case"), SERVED)
def test_map_and_gradients_equal_torch_in_double_precision(engine, case, biased) -> None:
    _assert_right(case, _engine(engine, case), biased=biased)


@pytest.mark.parametrize("tile", [(2, 2, 2), (4, 4, 4), (2, 4, 2)], ids=str)
@pytest.mark.parametrize("case", ["odd channels and sizes", "one channel"])
def test_tiles_of_any_size(monkeypatch, case, tile) -> None:
    _engine("winograd", case)
    monkeypatch.setattr(winograd, "best_tile", lambda *_: tile)
    _assert_right(case, "winograd")


def test_the_best_tile_has_the_least_to_multiply() -> None:
    assert winograd.best_tile((96, 96, 96), (3, 3, 3)) == (4, 4, 4)
    assert winograd.best_tile((6, 6, 6), (3, 3, 3)) == (2, 2, 2)
    assert winograd.best_tile((2, 64, 64), (3, 3, 1)) == (2, 4, 1)


def test_a_weight_in_several_parts(monkeypatch) -> None:
    case = "five blocks of channels"
    _engine("winograd", case)
    expected = _run(*_drawn_again(case), "winograd", biased=True)
    monkeypatch.setattr(winograd, "PACKED_BYTES", 1)
    found = _run(*_drawn_again(case), "winograd", biased=True)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def _drawn_again(case: str) -> tuple[Tensor, Tensor]:
    torch.manual_seed(8)
    return _drawn(case)


@pytest.mark.usefixtures("narrow_vectors")
@pytest.mark.parametrize(
    "case", ["odd channels and sizes", "five blocks of channels", "many tiles"]
)
def test_each_width_of_vectors(case) -> None:
    _assert_right(case, _engine("winograd", case), biased=True)


def test_split_is_a_hundred_times_nearer_than_bfloat16() -> None:
    _engine("split", "full tiles")
    x, weight = _drawn("full tiles")
    truth = functional.conv3d(x.double(), weight.double(), padding=1)
    half = functional.conv3d(x.bfloat16().double(), weight.bfloat16().double(), padding=1)
    ours = (convolution(x, weight, backend="split") - truth).abs().max()
    assert 100 * ours < (half - truth).abs().max()


def test_winograd_is_as_near_as_float32() -> None:
    _engine("winograd", "full tiles")
    x = functional.leaky_relu(torch.randn(1, 48, 24, 24, 24))
    weight = torch.randn(24, 48, 3, 3, 3) / 36
    truth = functional.conv3d(x.double(), weight.double(), padding=1)
    found = convolution(x, weight, backend="winograd")
    assert (found - truth).square().mean().sqrt() < 1e-6 * truth.abs().max()
    assert (found - truth).abs().max() < 1e-5 * truth.abs().max()


@pytest.mark.parametrize("threads", [2, 3, 8])
@pytest.mark.parametrize(
    ("engine", "case"),
    [
        ("split", "odd channels and sizes"),
        ("winograd", "odd channels and sizes"),
        ("winograd", "many tiles"),
    ],
)
def test_threads_change_no_bit_of_the_map(engine, case, threads) -> None:
    engine = _engine(engine, case)
    x, weight = _drawn(case)
    expected = _run(x, weight, engine)
    torch.set_num_threads(threads)
    try:
        found = _run(x, weight, engine)
        again = _run(x, weight, engine)
    finally:
        torch.set_num_threads(1)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    _assert_near(found[2:], expected[2:])
    assert all(torch.equal(one, other) for one, other in zip(found, again, strict=True))


@pytest.mark.parametrize("engine", ENGINES)
def test_other_layouts_of_map_weight_and_gradient(engine) -> None:
    engine = _engine(engine, "odd channels and sizes")
    x, weight = _drawn("odd channels and sizes")
    expected = _run(x.double(), weight.double(), "torch")
    x = torch.cat([x, x], dim=1)[:, : x.shape[1]]
    for layout in (torch.contiguous_format, torch.channels_last_3d):
        _assert_near(_run(x, weight.contiguous(memory_format=layout), engine), expected)
    turned = weight.transpose(2, 4).contiguous().transpose(2, 4)
    y = convolution(x.requires_grad_(), turned, backend=engine)
    y.sum().backward()  # a gradient whose strides are all zero
    ones = torch.autograd.grad(
        functional.conv3d(x.double(), weight.double(), padding=1).sum(), x, retain_graph=False
    )
    _assert_near([x.grad], list(ones))


@pytest.mark.parametrize(
    ("engine", "case"),
    [
        ("split", "odd channels and sizes"),
        ("winograd", "odd channels and sizes"),
        ("winograd", "one plane"),
        ("winograd", "many tiles"),
    ],
)
def test_memory_that_nobody_wrote_is_not_read(engine, case) -> None:
    engine = _engine(engine, case)
    x, weight = _drawn(case)
    expected = _run(x, weight, engine)
    torch.use_deterministic_algorithms(mode=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        found = _run(x, weight, engine)
    finally:
        torch.use_deterministic_algorithms(mode=False)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_not_a_number_stays_near_where_it_is(engine) -> None:
    engine = _engine(engine, "odd channels and sizes")
    x, weight = _drawn("odd channels and sizes")
    x[0, 3, 5, 0, 0] = torch.nan
    found = convolution(x, weight, backend=engine).isnan()
    expected = functional.conv3d(x, weight, padding=1).isnan()
    assert (found & expected).sum() == expected.sum()
    assert not found[1].any()
    assert not found[0, :, :, 4:].any()


def test_torchs_own_products_in_tiles_are_not_disturbed() -> None:
    _engine("split", "full tiles")
    a = torch.randn(64, 64, dtype=torch.bfloat16)
    before = a @ a
    for _ in range(2):
        convolution(*_drawn("full tiles"), backend="split")
        assert torch.equal(a @ a, before)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch 2.15 asks for it itself
@pytest.mark.parametrize("engine", ENGINES)
def test_the_operator_keeps_the_promises_of_torch_library(engine) -> None:
    engine = _engine(engine, "one plane")
    x, weight = (one.requires_grad_() for one in _drawn("one plane"))
    torch.library.opcheck(torch.ops.medseg.convolution.default, (x, weight, None, engine))
    for backend in (engine, None):
        compiled = torch.compile(convolution, fullgraph=True, backend="aot_eager")
        y = compiled(x, weight, backend=backend)
        y.sum().backward()
        assert torch.equal(y, convolution(x, weight, backend=backend))
        assert x.grad is not None


@pytest.mark.parametrize("engine", ENGINES)
def test_a_traced_graph_takes_any_size_and_number_of_items(engine) -> None:
    engine = _engine(engine, "one plane")

    class Layer(torch.nn.Module):
        def forward(self, x: Tensor, weight: Tensor) -> Tensor:
            return convolution(x, weight)

    items, size = torch.export.Dim("items", max=9), torch.export.Dim("size", max=90)
    given = (torch.randn(2, 9, 4, 3, 5), torch.randn(8, 9, 3, 3, 3))
    traced = torch.export.export(Layer(), given, dynamic_shapes=({0: items, 2: size}, None))
    x, weight = torch.randn(3, 9, 11, 3, 5), given[1]
    assert torch.equal(traced.module()(x, weight), convolution(x, weight))


@pytest.mark.parametrize("engine", ENGINES)
def test_only_what_is_asked_for_is_differentiated(engine) -> None:
    engine = _engine(engine, "one plane")
    x, weight = _drawn("one plane")
    convolution(x, weight.requires_grad_(), backend=engine).sum().backward()
    assert x.grad is None
    assert weight.grad is not None


def test_refusals_have_reasons_and_a_name_turns_them_into_errors() -> None:
    x, weight = torch.zeros(1, 8, 4, 4, 4), torch.zeros(8, 8, 3, 3, 3)
    for engine in ENGINES:
        assert "float64" in str(refuses(engine, x.double(), weight.double()))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert "autocast" in str(refuses(engine, x, weight))
    assert "64 voxels" in str(refuses("split", x[..., :1], weight))
    assert "3 numbers" in str(refuses("split", x[:, :1], weight[:, :1]))
    assert "200 voxels" in str(refuses("winograd", x, weight))
    assert "sides are 1 or 3" in str(refuses("winograd", x, weight[..., :1, :1, :1]))
    assert chosen(x.double(), weight.double()) == "torch"
    with pytest.raises(ValueError, match="'split' refuses: it is for float32"):
        convolution(x.double(), weight.double(), backend="split")
    with pytest.raises(ValueError, match="no backend 'best'"):
        convolution(x, weight, backend="best")
    with pytest.raises(ValueError, match="must be odd"):
        convolution(x, weight[..., :2])
    with pytest.raises(ValueError, match="they are"):
        convolution(x[:, :7], weight)
