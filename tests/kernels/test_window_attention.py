"""The grouped backend against the plain one, and the plain one against attention by hand."""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from medseg_kernels.window_attention import window_attention
from medseg_kernels.window_attention.groups import kinds
from medseg_kernels.window_attention.reference import position_bias
from medseg_kernels.window_attention.request import Request
from medseg_kernels.window_attention.table import gradient

CASES = {
    "one window": {"size": (4, 3, 2), "window": (4, 3, 2)},
    "windows that fit": {"size": (4, 6, 4), "window": (2, 3, 2)},
    "odd sizes": {"size": (5, 7, 3), "window": (2, 3, 2)},
    "shifted": {"size": (6, 6, 4), "window": (3, 3, 2), "shift": (1, 1, 1)},
    "shifted odd sizes": {"size": (7, 5, 3), "window": (3, 2, 3), "shift": (1, 1, 0)},
    "padding reaches two windows": {"size": (5, 4, 4), "window": (4, 2, 2), "shift": (2, 0, 0)},
    "dilated": {"size": (4, 6, 4), "window": (2, 3, 2), "dilation": (2, 2, 1)},
    "dilated odd sizes": {"size": (5, 7, 3), "window": (2, 2, 2), "dilation": (2, 3, 1)},
    "dilated and shifted": {
        "size": (5, 6, 4),
        "window": (2, 2, 2),
        "dilation": (2, 1, 2),
        "shift": (1, 1, 3),
    },
}
HEADS, CHANNELS = 2, 6


def drawn(size, window, *, padded: bool, tabled: bool, extra=0, heads=HEADS, channels=CHANNELS):
    """Inputs in float64; the table is that of a window `extra` tokens longer along each axis."""
    generator = torch.Generator().manual_seed(7)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return {
        "qkv": draw(2, *size, 3 * channels),
        "table": draw(*(2 * (w + extra) - 1 for w in window), heads) if tabled else None,
        "padding": draw(3 * channels) if padded else None,
    }


def run(backend: str | None, inputs, *, heads=HEADS, **options) -> dict[str, Tensor]:
    """The output and every gradient."""
    leaves = {
        n: None if x is None else x.detach().clone().requires_grad_() for n, x in inputs.items()
    }
    out = window_attention(**leaves, heads=heads, backend=backend, **options)
    weight = torch.linspace(-9, 9, out.numel(), dtype=torch.float64).cos().view(out.shape)
    (out * weight.to(out)).sum().backward()
    grads = {n: x.grad for n, x in leaves.items() if x is not None}
    return {"output": out.detach(), **grads}


@pytest.mark.parametrize("padded", [False, True], ids=["padding masked", "padding attends"])
@pytest.mark.parametrize("tabled", [False, True], ids=["no table", "table"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-10), (torch.float32, 2e-5)])
def test_grouped_backend_equals_reference_forward_and_backward(
    case, tabled, padded, dtype, near
) -> None:
    """Tokens are gathered in double precision, and left where they are in single."""
    options = dict(case)
    inputs = drawn(options.pop("size"), options["window"], padded=padded, tabled=tabled)
    given = {name: None if one is None else one.to(dtype) for name, one in inputs.items()}
    found, truth = run("grouped", given, **options), run("reference", inputs, **options)
    assert len(found) == 2 + padded + tabled
    for name, exact in truth.items():
        torch.testing.assert_close(found[name].double(), exact, rtol=near, atol=near, msg=name)


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_share_heads_or_groups(threads) -> None:
    options = dict(CASES["shifted odd sizes"])
    inputs = drawn(options.pop("size"), options["window"], padded=True, tabled=True)
    given = {name: one.float() for name, one in inputs.items() if one is not None}
    expected = run("grouped", given, **options)
    torch.set_num_threads(threads)
    try:
        found = run("grouped", given, **options)
    finally:
        torch.set_num_threads(1)
    for name, exact in expected.items():
        assert torch.equal(found[name], exact), name


def _by_hand(inputs, *, size, window, shift=(0, 0, 0), dilation=(1, 1, 1)) -> Tensor:
    """Every token on its own: its group, who it may see, softmax. Padding takes no part."""
    qkv, table = inputs["qkv"], inputs["table"]
    query, key, value = qkv.unflatten(-1, (3, HEADS, -1)).unbind(-3)
    tokens = list(itertools.product(*map(range, size)))
    out = torch.zeros(*qkv.shape[:4], CHANNELS, dtype=qkv.dtype)

    def place(token) -> list[tuple[int, int, int]]:
        """Group, number in the group, and side of the roll, along each axis."""
        found = []
        for x, s, w, d, extent in zip(token, shift, window, dilation, size, strict=True):
            padded = math.ceil(extent / (w * d)) * w * d
            block, rest = divmod((x - s) % padded, w * d)
            found.append(((block, rest % d, x < s), rest // d))
        return found

    places = {token: place(token) for token in tokens}
    for b, token in itertools.product(range(len(qkv)), tokens):
        seen = [
            t
            for t in tokens
            if all(p[0] == q[0] for p, q in zip(places[t], places[token], strict=True))
        ]
        for head in range(HEADS):
            scores = []
            for other in seen:
                offset = [
                    p[1] - q[1] + w - 1
                    for p, q, w in zip(places[token], places[other], window, strict=True)
                ]
                dot = query[b][token][head] @ key[b][other][head] / math.sqrt(CHANNELS / HEADS)
                scores.append(dot + table[(*offset, head)])
            weights = torch.stack(scores).softmax(0)
            mixed = sum(w * value[b][other][head] for w, other in zip(weights, seen, strict=True))
            out[b][token][head * CHANNELS // HEADS : (head + 1) * CHANNELS // HEADS] = mixed
    return out


@pytest.mark.parametrize("name", ["odd sizes", "shifted odd sizes", "dilated and shifted"])
def test_reference_equals_attention_by_hand(name) -> None:
    inputs = drawn(CASES[name]["size"], CASES[name]["window"], padded=False, tabled=True)
    options = {n: v for n, v in CASES[name].items() if n != "size"}
    found = window_attention(**inputs, heads=HEADS, backend="reference", **options)
    torch.testing.assert_close(found, _by_hand(inputs, **CASES[name]), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("position", ["geometric", "prefix"])
def test_a_table_of_a_larger_window_is_read_alike(position) -> None:
    inputs = drawn((5, 4, 3), (2, 4, 3), padded=True, tabled=True, extra=2)
    options = {"window": (2, 4, 3), "position": position}
    found, truth = run("grouped", inputs, **options), run("reference", inputs, **options)
    for name, exact in truth.items():
        torch.testing.assert_close(found[name], exact, rtol=1e-9, atol=1e-10, msg=name)
    used = (truth["table"] != 0).any(-1).sum().item()
    assert used == (3 * 7 * 5 if position == "geometric" else used)
    assert used < truth["table"][..., 0].numel()


def test_position_matters_only_where_the_window_is_smaller_than_the_table() -> None:
    for extra, alike in ((0, True), (1, False)):
        inputs = drawn((4, 4, 4), (2, 2, 2), padded=True, tabled=True, extra=extra)
        geometric, prefix = (
            window_attention(**inputs, heads=HEADS, window=(2, 2, 2), position=position)
            for position in ("geometric", "prefix")
        )
        assert torch.allclose(geometric, prefix) == alike


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_lower_precision_is_as_near_the_truth_as_the_reference(dtype) -> None:
    options = {"window": (3, 2, 3), "shift": (1, 1, 0)}
    exact = drawn((7, 5, 3), (3, 2, 3), padded=True, tabled=True)
    coarse = {name: tensor.to(dtype) for name, tensor in exact.items()}
    coarse["table"] = coarse["table"].float()  # autocast leaves parameters alone
    truth = run("reference", {name: tensor.double() for name, tensor in coarse.items()}, **options)
    found, peer = run("grouped", coarse, **options), run("reference", coarse, **options)
    assert found["output"].dtype == dtype
    assert found["table"].dtype == torch.float32
    assert len(found) == 4
    for name, exactly in truth.items():
        error, peer_error = ((x[name].double() - exactly).abs().mean() for x in (found, peer))
        assert error <= 1.5 * peer_error + 1e-7, name


def test_autocast_around_the_operator_changes_nothing() -> None:
    inputs = drawn((5, 4, 3), (2, 2, 2), padded=True, tabled=True)
    inputs = {name: tensor.float() for name, tensor in inputs.items()}
    plain = run("grouped", inputs, window=(2, 2, 2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = run("grouped", inputs, window=(2, 2, 2))
    assert len(plain) == 4
    for name, tensor in plain.items():
        assert torch.equal(tensor, inside[name]), name


def test_no_memory_is_read_before_it_is_written(monkeypatch) -> None:
    """`torch.empty` and its kin hand out NaN here, so a voxel left out would show."""
    empty_like, new_empty = torch.empty_like, Tensor.new_empty
    handed: list[int] = []

    def poison(tensor: Tensor) -> Tensor:
        handed.append(tensor.numel())
        return tensor.fill_(torch.nan) if tensor.is_floating_point() else tensor

    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: poison(empty_like(*a, **k)))
    monkeypatch.setattr(Tensor, "new_empty", lambda *a, **k: poison(new_empty(*a, **k)))
    options = {"window": (3, 2, 3), "shift": (1, 1, 0)}
    found = run("grouped", drawn((7, 5, 3), (3, 2, 3), padded=True, tabled=True), **options)
    assert len(handed) >= 3
    assert all(tensor.isfinite().all() for tensor in found.values())


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("padded", [False, True])
def test_the_operators_keep_the_promises_of_torch_library(padded) -> None:
    inputs = drawn((5, 4, 3), (2, 2, 2), padded=padded, tabled=True)
    leaves = [None if x is None else x.requires_grad_() for x in inputs.values()]
    arguments = (*leaves, HEADS, (2, 2, 2), (1, 0, 1), (1, 1, 1), False, "grouped")
    torch.library.opcheck(torch.ops.medseg.window_attention.default, arguments)


def test_analytic_gradients_equal_numeric_ones() -> None:
    inputs = drawn((3, 2, 3), (2, 2, 2), padded=True, tabled=True)

    def attended(*tensors: Tensor) -> Tensor:
        named = dict(zip(inputs, tensors, strict=True))
        return window_attention(**named, heads=HEADS, window=(2, 2, 2), shift=(1, 0, 1))

    leaves = tuple(tensor.requires_grad_() for tensor in inputs.values())
    assert torch.autograd.gradcheck(attended, leaves, fast_mode=True)


def test_dropout_goes_to_the_reference_and_is_refused_by_grouped() -> None:
    inputs = drawn((4, 4, 4), (2, 2, 2), padded=True, tabled=True)
    torch.manual_seed(0)
    dropped = window_attention(**inputs, heads=HEADS, window=(2, 2, 2), dropout=0.5)
    kept = window_attention(**inputs, heads=HEADS, window=(2, 2, 2))
    assert not torch.allclose(dropped, kept)
    with pytest.raises(ValueError, match="'grouped' refuses: dropout"):
        window_attention(**inputs, heads=HEADS, window=(2, 2, 2), dropout=0.5, backend="grouped")


def test_the_order_of_backends_is_kept_and_refusals_are_logged(caplog) -> None:
    inputs = drawn((4, 4, 4), (2, 2, 2), padded=True, tabled=True)
    with caplog.at_level("DEBUG", logger="medseg_kernels.window_attention"):
        window_attention(**inputs, heads=HEADS, window=(2, 2, 2))
        window_attention(**inputs, heads=HEADS, window=(2, 2, 2), dropout=0.5)
    said = [record.getMessage() for record in caplog.records]
    assert ["'triton'" in line for line in said] == [True, True, False]
    assert "dropout" in said[1]
    assert "dropout" in said[2]


def test_tokens_may_lie_in_memory_in_any_way() -> None:
    inputs = drawn((5, 4, 3), (2, 2, 2), padded=True, tabled=True)
    apart = {**inputs, "qkv": inputs["qkv"].mT.contiguous().mT}
    assert not apart["qkv"].is_contiguous()
    plain, found = (run("grouped", x, window=(2, 2, 2), shift=(1, 0, 1)) for x in (inputs, apart))
    for name, tensor in plain.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-12, atol=1e-12, msg=name)


@pytest.mark.parametrize("size", [(0, 4, 4, 4), (2, 4, 0, 4)], ids=["no item", "no token"])
def test_where_there_is_nothing_nothing_comes_out(size) -> None:
    inputs = drawn((4, 4, 4), (2, 2, 2), padded=True, tabled=True)
    inputs["qkv"] = inputs["qkv"].new_empty((*size, 3 * CHANNELS))
    found = run(None, inputs, window=(2, 2, 2))
    assert found["output"].shape == (*size, CHANNELS)
    assert found["qkv"].shape == inputs["qkv"].shape
    assert not found["table"].any()
    assert not found["padding"].any()


@pytest.mark.parametrize("prefix", [False, True], ids=["geometric", "prefix"])
@pytest.mark.parametrize("extra", [0, 2])
def test_the_table_s_gradient_is_that_of_reading_it(extra, prefix) -> None:
    request = Request(HEADS, (2, 4, 3), prefix=prefix)
    inputs = drawn((2, 4, 3), (2, 4, 3), padded=False, tabled=True, extra=extra)
    table = inputs["table"].requires_grad_()
    weight = torch.randn(HEADS, 24, 24, dtype=torch.float64)
    (position_bias(table, request) * weight).sum().backward()
    found = gradient(weight, request.extents(table), request)
    torch.testing.assert_close(found, table.grad, rtol=1e-12, atol=1e-12)


class _Attended(nn.Module):
    def forward(self, qkv: Tensor, table: Tensor, padding: Tensor) -> Tensor:
        options = {"window": (2, 2, 2), "shift": (1, 0, 1), "table": table, "padding": padding}
        return window_attention(qkv, heads=HEADS, **options).sin()


def test_it_is_compiled_as_a_whole_with_its_gradients() -> None:
    inputs = drawn((5, 4, 3), (2, 2, 2), padded=True, tabled=True)
    results = []
    for module in (_Attended(), torch.compile(_Attended(), backend="aot_eager", fullgraph=True)):
        leaves = [tensor.clone().requires_grad_() for tensor in inputs.values()]
        out = module(*leaves)
        out.square().sum().backward()
        results.append([out, *(leaf.grad for leaf in leaves)])
    for plain, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, plain, rtol=1e-12, atol=1e-12)


def test_it_is_exported_as_one_node_for_grids_of_any_size() -> None:
    inputs = drawn((5, 4, 3), (2, 2, 2), padded=True, tabled=True)
    sizes = {axis: torch.export.Dim(f"size_{axis}", min=2, max=64) for axis in range(4)}
    exported = torch.export.export(
        _Attended(), tuple(inputs.values()), dynamic_shapes=(sizes, None, None)
    )
    nodes = [n for n in exported.graph.nodes if "medseg.window_attention" in str(n.target)]
    assert len(nodes) == 1
    inputs["qkv"] = torch.randn(3, 6, 3, 7, 3 * CHANNELS, dtype=torch.float64)
    arguments = tuple(inputs.values())
    torch.testing.assert_close(exported.module()(*arguments), _Attended()(*arguments))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"qkv": torch.zeros(1, 2, 2, 2, 16)}, "must be"),
        ({"shift": (2, 0, 0)}, "shift is less"),
        ({"window": (0, 2, 2)}, "start at 1"),
        ({"padding": torch.zeros(5)}, "one token's qkv"),
        ({"table": torch.zeros(3, 3, 1, 2)}, "must be odd"),
        ({"table": torch.zeros(3, 3, 3, 4)}, "must be odd"),
        ({"backend": "cuda"}, "no backend 'cuda'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(change, message) -> None:
    options = {"qkv": torch.zeros(1, 2, 2, 2, 12), "heads": 2, "window": (2, 2, 2)}
    with pytest.raises(ValueError, match=message):
        window_attention(**{**options, **change})


def test_there_are_at_most_eight_kinds_and_every_token_comes_once() -> None:
    request = Request(3, (7, 7, 7), shift=(3, 3, 3))
    found = kinds((24, 24, 24), request, masked=False, device=torch.device("cpu"))
    assert len(found) == 8
    assert sum(kind.apart is None for kind in found) == 1
    rows = torch.cat([kind.rows.flatten() for kind in found])
    assert torch.equal(rows[rows < 24**3].sort().values, torch.arange(24**3))
    assert len(rows) == 28**3
    for kind in found:
        padding = kind.rows[kind.rows >= 24**3] - 24**3
        assert torch.equal(padding.sort().values, torch.arange(kind.paddings))
