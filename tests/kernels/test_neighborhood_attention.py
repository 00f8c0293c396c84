"""The tiled backend against the plain one, and the plain one against attention by hand."""

import itertools
import logging
import math

import pytest
import torch
from torch import Tensor

from medseg_kernels.neighborhood_attention import neighborhood_attention, tiled
from medseg_kernels.neighborhood_attention.reference import neighbors
from medseg_kernels.neighborhood_attention.request import Request
from medseg_kernels.neighborhood_attention.tiles import kinds

CASES = {
    "one neighborhood": {"size": (3, 5, 2), "window": (3, 5, 2)},
    "odd windows": {"size": (7, 9, 5), "window": (3, 5, 3)},
    "even windows": {"size": (5, 6, 9), "window": (4, 2, 6)},
    "windows of one": {"size": (3, 5, 6), "window": (1, 3, 1)},
    "dilated": {"size": (6, 9, 4), "window": (3, 3, 2), "dilation": (2, 3, 1)},
    "dilated odd sizes": {"size": (7, 11, 5), "window": (3, 3, 2), "dilation": (2, 3, 2)},
    "many tiles": {"size": (13, 6, 5), "window": (3, 3, 3)},
}
HEADS, CHANNELS = 2, 6


def drawn(size, window, *, tabled: bool, heads=HEADS, channels=CHANNELS, seed=7, **given):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"qkv": (2, *size, 3 * channels), "table": (*(2 * w - 1 for w in window), heads)}
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64).to(**given)
        for name, shape in shapes.items()
        if tabled or name != "table"
    }


def run(backend: str | None, inputs, *, heads=HEADS, **options):
    """The output and every gradient."""
    leaves = {name: x.detach().clone().requires_grad_() for name, x in inputs.items()}
    out = neighborhood_attention(**leaves, heads=heads, backend=backend, **options)
    weight = torch.linspace(-9, 9, out.numel(), dtype=torch.float64).cos().view(out.shape)
    (out * weight.to(out)).sum().backward()
    return {"output": out.detach(), **{name: x.grad for name, x in leaves.items()}}


@pytest.mark.parametrize("tabled", [False, True], ids=["no table", "table"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_tiled_backend_equals_reference_forward_and_backward(case, tabled) -> None:
    options = dict(case)
    inputs = drawn(options.pop("size"), options["window"], tabled=tabled)
    found = run("tiled", inputs, **options)
    truth = run("reference", inputs, **options)
    assert len(found) == 2 + tabled
    for name, exact in truth.items():
        torch.testing.assert_close(found[name], exact, rtol=1e-9, atol=1e-10, msg=name)


@pytest.mark.parametrize("size", [1, 8, 128])
def test_heads_may_have_any_size(size) -> None:
    inputs = drawn((5, 4, 3), (3, 2, 3), tabled=True, channels=HEADS * size)
    found = run("tiled", inputs, window=(3, 2, 3))
    for name, exact in run("reference", inputs, window=(3, 2, 3)).items():
        torch.testing.assert_close(found[name], exact, rtol=1e-9, atol=1e-10, msg=name)


def test_tiles_one_at_a_time_give_the_same(monkeypatch) -> None:
    inputs = drawn((9, 6, 7), (3, 3, 5), tabled=True)
    together = run("tiled", inputs, window=(3, 3, 5))
    monkeypatch.setattr(tiled, "_CPU_BYTES", 1)
    for name, found in run("tiled", inputs, window=(3, 3, 5)).items():
        torch.testing.assert_close(found, together[name], rtol=1e-9, atol=1e-10, msg=name)


def _by_hand(inputs, *, size, window, dilation=(1, 1, 1)) -> Tensor:
    """Every token on its own: which tokens are its neighbors, softmax."""
    query, key, value = inputs["qkv"].unflatten(-1, (3, HEADS, -1)).unbind(-3)
    tokens = list(itertools.product(*map(range, size)))
    out = torch.zeros(*query.shape[:4], HEADS, CHANNELS // HEADS, dtype=query.dtype)

    def near(p: int, q: int, length: int, w: int, d: int) -> bool:
        """Whether fewer than w tokens of p's row lie nearer; ties go to the lower one if w is even.

        That is the window pushed inward, said without its start: the w tokens nearest to p.
        """
        row = range(p % d, length, d)
        by_distance = sorted(row, key=lambda place: (abs(place - p), place))
        return q in by_distance[:w]

    for b, token in itertools.product(range(len(query)), tokens):
        seen = [t for t in tokens if all(map(near, token, t, size, window, dilation))]
        assert len(seen) == math.prod(window)
        for head in range(HEADS):
            scores = []
            for other in seen:
                offset = [
                    (p - q) // d + w - 1
                    for p, q, w, d in zip(token, other, window, dilation, strict=True)
                ]
                dot = query[b][token][head] @ key[b][other][head] / math.sqrt(CHANNELS / HEADS)
                scores.append(dot + inputs["table"][(*offset, head)])
            weights = torch.stack(scores).softmax(0)
            out[b][token][head] = sum(
                w * value[b][other][head] for w, other in zip(weights, seen, strict=True)
            )
    return out.flatten(-2)


@pytest.mark.parametrize("name", ["plain", "dilated"])
def test_reference_equals_attention_by_hand(name) -> None:
    case = {
        "plain": {"size": (5, 4, 6), "window": (4, 2, 3)},
        "dilated": {"size": (7, 4, 5), "window": (3, 3, 2), "dilation": (2, 1, 2)},
    }[name]
    inputs = drawn(case["size"], case["window"], tabled=True)
    options = {n: v for n, v in case.items() if n != "size"}
    found = neighborhood_attention(**inputs, heads=HEADS, backend="reference", **options)
    torch.testing.assert_close(found, _by_hand(inputs, **case), rtol=1e-9, atol=1e-10)


def test_neighbors_at_the_borders_are_natten_s() -> None:
    plain = neighbors(7, 5, 1)
    assert plain[:, 0].tolist() == [0, 0, 0, 1, 2, 2, 2]
    assert neighbors(6, 4, 1)[:, 0].tolist() == [0, 0, 0, 1, 2, 2]
    dilated = neighbors(8, 3, 2)
    assert dilated[0].tolist() == [0, 2, 4]
    assert dilated[7].tolist() == [3, 5, 7]
    uneven = neighbors(7, 3, 2)  # rows 0 2 4 6 and 1 3 5
    assert uneven[6].tolist() == [2, 4, 6]
    assert uneven[5].tolist() == uneven[1].tolist() == [1, 3, 5]


def test_a_scale_of_zero_without_a_table_is_the_mean_of_the_neighbors() -> None:
    inputs = drawn((6, 5, 4), (3, 3, 3), tabled=False)
    found = neighborhood_attention(**inputs, heads=HEADS, window=(3, 3, 3), scale=0.0)
    value = inputs["qkv"][..., 2 * CHANNELS :]
    torch.testing.assert_close(found[:, 2, 3, 1], value[:, 1:4, 2:5, 0:3].mean((1, 2, 3)))
    torch.testing.assert_close(found[:, 0, 4, 3], value[:, 0:3, 2:5, 1:4].mean((1, 2, 3)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_lower_precision_is_as_near_the_truth_as_the_reference(dtype) -> None:
    options = {"window": (3, 2, 3), "dilation": (2, 1, 1)}
    coarse = drawn((7, 5, 4), (3, 2, 3), tabled=True, dtype=dtype)
    coarse["table"] = coarse["table"].float()  # autocast leaves parameters alone
    truth = run("reference", {name: x.double() for name, x in coarse.items()}, **options)
    found, peer = (run(name, coarse, **options) for name in ("tiled", "reference"))
    assert found["output"].dtype == found["qkv"].dtype == dtype
    assert found["table"].dtype == torch.float32
    for name, exact in truth.items():
        error, peer_error = ((x[name].double() - exact).abs().mean() for x in (found, peer))
        assert error <= 1.5 * peer_error + 1e-7, name


def test_autocast_around_the_operator_changes_nothing() -> None:
    inputs = drawn((5, 4, 3), (2, 2, 3), tabled=True, dtype=torch.float32)
    plain = run("tiled", inputs, window=(2, 2, 3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = run("tiled", inputs, window=(2, 2, 3))
    assert all(torch.equal(plain[name], inside[name]) for name in plain)


def test_strides_do_not_matter() -> None:
    inputs = drawn((5, 4, 6), (3, 2, 3), tabled=True)
    strided = {
        "qkv": inputs["qkv"].permute(4, 3, 2, 1, 0).contiguous().permute(4, 3, 2, 1, 0),
        "table": inputs["table"].mT.contiguous().mT,
    }
    assert not any(x.is_contiguous() for x in strided.values())
    plain, other = (
        neighborhood_attention(**x, heads=HEADS, window=(3, 2, 3), backend="tiled")
        for x in (inputs, strided)
    )
    assert torch.equal(plain, other)


def test_no_memory_is_read_before_it_is_written(monkeypatch) -> None:
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(mode=True)
    try:
        assert torch.empty(3).isnan().all()
        found = run("tiled", drawn((7, 5, 4), (3, 2, 3), tabled=True), window=(3, 2, 3))
    finally:
        torch.use_deterministic_algorithms(mode=False)
    assert all(x.isfinite().all() for x in found.values())


def test_gradients_are_the_same_every_time_on_many_threads() -> None:
    inputs = drawn((9, 8, 9), (5, 3, 5), tabled=True, dtype=torch.float32)
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        first, *others = (run("tiled", inputs, window=(5, 3, 5)) for _ in range(3))
    finally:
        torch.set_num_threads(threads)
    for other in others:
        assert all(torch.equal(first[name], other[name]) for name in first)


def test_what_is_kept_for_the_backward_pass_is_qkv_alone() -> None:
    inputs = drawn((8, 8, 8), (5, 5, 5), tabled=False)
    qkv = inputs["qkv"].requires_grad_()
    sizes: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: sizes.append(x.numel()) or x, lambda x: x
    ):
        neighborhood_attention(qkv, heads=HEADS, window=(5, 5, 5), backend="tiled")
    assert sizes
    assert sum(sizes) <= qkv.numel()


@pytest.mark.parametrize("size", [(0, 4, 4), (4, 4, 0), None], ids=["no i", "no k", "no batch"])
def test_empty_grids_give_empty_tokens(size) -> None:
    inputs = drawn(size or (4, 4, 4), (3, 3, 3), tabled=True)
    if size is None:
        inputs["qkv"] = inputs["qkv"][:0]
    for backend in ("tiled", "reference"):
        leaves = {name: x.requires_grad_() for name, x in inputs.items()}
        out = neighborhood_attention(**leaves, heads=HEADS, window=(3, 3, 3), backend=backend)
        assert out.shape == (*inputs["qkv"].shape[:4], CHANNELS)
        assert torch.autograd.grad(out.sum(), leaves["qkv"])[0].shape == inputs["qkv"].shape


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("tabled", [False, True])
def test_the_operators_keep_the_promises_of_torch_library(tabled) -> None:
    inputs = drawn((5, 4, 3), (2, 2, 3), tabled=tabled)
    leaves = [x.requires_grad_() for x in inputs.values()] + [None] * (not tabled)
    arguments = (*leaves, HEADS, (2, 2, 3), (2, 1, 1), 0.5, "tiled")
    torch.library.opcheck(torch.ops.medseg.neighborhood_attention.default, arguments)


def test_analytic_gradients_equal_numeric_ones() -> None:
    inputs = drawn((4, 3, 3), (2, 3, 2), tabled=True, channels=4)

    def output(qkv: Tensor, table: Tensor) -> Tensor:
        return neighborhood_attention(
            qkv, table=table, heads=HEADS, window=(2, 3, 2), dilation=(2, 1, 1)
        )

    given = (inputs["qkv"][:1].requires_grad_(), inputs["table"].requires_grad_())
    assert torch.autograd.gradcheck(output, given, fast_mode=True)


def test_it_compiles_without_a_break_and_backward() -> None:
    inputs = drawn((5, 4, 3), (2, 2, 3), tabled=True)
    leaves = {name: x.requires_grad_() for name, x in inputs.items()}

    def layer(qkv: Tensor, table: Tensor) -> Tensor:
        return 2 * neighborhood_attention(
            qkv, table=table, heads=HEADS, window=(2, 2, 3), backend="tiled"
        )

    expected = layer(**leaves)
    found = torch.compile(layer, fullgraph=True, backend="aot_eager")(**leaves)
    torch.testing.assert_close(found, expected)
    for grad, exact in zip(
        torch.autograd.grad(found.sin().sum(), leaves.values()),
        torch.autograd.grad(expected.sin().sum(), leaves.values()),
        strict=True,
    ):
        torch.testing.assert_close(grad, exact)


def test_it_exports_as_one_node() -> None:
    class Layer(torch.nn.Module):
        def forward(self, qkv: Tensor) -> Tensor:
            return neighborhood_attention(qkv, heads=HEADS, window=(2, 2, 3), backend="tiled")

    batch, size = torch.export.Dim("batch"), torch.export.Dim("size", min=2)
    qkv, other = (drawn(s, (2, 2, 3), tabled=False)["qkv"] for s in ((5, 4, 3), (7, 4, 3)))
    program = torch.export.export(Layer(), (qkv,), dynamic_shapes={"qkv": {0: batch, 1: size}})
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert targets.count("medseg.neighborhood_attention.default") == 1
    for given in (qkv, other[:1]):
        torch.testing.assert_close(program.module()(given), Layer()(given))


def test_the_choice_names_the_refusal(caplog) -> None:
    inputs = drawn((3, 3, 3), (3, 3, 3), tabled=False)
    with caplog.at_level(logging.DEBUG, logger="medseg_kernels.neighborhood_attention"):
        neighborhood_attention(**inputs, heads=HEADS, window=(3, 3, 3))
    assert "'triton' refuses" in caplog.text
    with pytest.raises(ValueError, match="'triton' refuses"):
        neighborhood_attention(**inputs, heads=HEADS, window=(3, 3, 3), backend="triton")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"qkv": torch.zeros(1, 4, 4, 4, 16)}, "must be"),
        ({"qkv": torch.zeros(4, 4, 4, 12)}, "must be"),
        ({"heads": 0}, "must be"),
        ({"window": (0, 2, 2)}, "start at 1"),
        ({"dilation": (1, 1, 0)}, "start at 1"),
        ({"window": (5, 2, 2)}, "is smaller than window"),
        ({"dilation": (1, 3, 1)}, r"at least \(2, 6, 2\)"),
        ({"table": torch.zeros(3, 3, 5, 2)}, "must be"),
        ({"table": torch.zeros(3, 3, 3, 4)}, "must be"),
        ({"backend": "cuda"}, "no backend 'cuda'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(change, message) -> None:
    options = {"qkv": torch.zeros(1, 4, 4, 4, 12), "heads": 2, "window": (2, 2, 2)}
    with pytest.raises(ValueError, match=message):
        neighborhood_attention(**{**options, **change})


def test_interior_tiles_share_one_mask_and_every_token_is_queried_once() -> None:
    request = Request(1, (7, 7, 7), (1, 1, 1), 1.0)
    found = kinds((24, 24, 24), request, tile=(4, 4, 4), device=torch.device("cpu"))
    assert len(found) == 27
    inside = max(found, key=lambda kind: math.prod(len(axis.queries) for axis in kind.axes))
    assert inside.shape == (64, 1000)
    rows = torch.cat([rows.flatten() for kind in found for rows, _ in kind.parts(1, 10**6)])
    assert torch.equal(rows.sort().values, torch.arange(24**3))
