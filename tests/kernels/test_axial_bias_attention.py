"""The torch backends against the plain one, the plain one by hand, and Segment Anything's layer."""

import itertools
import logging
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from medseg_kernels.axial_bias_attention import axial_bias_attention, blocked, resized_table
from medseg_kernels.axial_bias_attention.request import Request
from medseg_kernels.axial_bias_attention.windows import kinds

CASES = {
    "2D, global": {"size": (4, 5)},
    "2D, windows": {"size": (6, 8), "window": (3, 4)},
    "2D, odd sizes": {"size": (7, 5), "window": (3, 4)},
    "2D, a window beyond the grid": {"size": (3, 5), "window": (4, 7)},
    "2D, shifted odd sizes": {"size": (7, 5), "window": (3, 4), "shift": (1, 2)},
    "3D, global": {"size": (3, 4, 5)},
    "3D, windows": {"size": (4, 2, 6), "window": (2, 2, 3)},
    "3D, shifted": {"size": (4, 6, 4), "window": (2, 3, 4), "shift": (1, 1, 2)},
    "3D, shifted odd sizes": {"size": (5, 3, 7), "window": (2, 3, 4), "shift": (1, 0, 2)},
    "axes of one place": {"size": (3, 1, 4), "window": (2, 1, 1), "shift": (1, 0, 0)},
    "padding rolled among two windows": {"size": (9, 3), "window": (8, 3), "shift": (4, 0)},
}
HEADS, CHANNELS = 2, 6


def drawn(size, window=None, *, padded, heads=HEADS, channels=CHANNELS, seed=7, **given):
    """A batch of two, a table an axis, and a row of padding if `padded`."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"qkv": (2, *size, 3 * channels)}
    shapes |= {f"table {n}": (2 * w - 1, channels // heads) for n, w in enumerate(window or size)}
    shapes |= {"padding": (3 * channels,)} if padded else {}
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64).to(**given)
        for name, shape in shapes.items()
    }


def attended(inputs, **options) -> Tensor:
    tables = [x for name, x in inputs.items() if name.startswith("table")]
    padding = inputs.get("padding")
    return axial_bias_attention(inputs["qkv"], tables=tables, padding=padding, **options)


def run(backend: str | None, inputs, *, heads=HEADS, **options):
    """The output and every gradient."""
    leaves = {name: x.detach().clone().requires_grad_() for name, x in inputs.items()}
    out = attended(leaves, heads=heads, backend=backend, **options)
    weight = torch.linspace(-9, 9, out.numel(), dtype=torch.float64).cos().view(out.shape)
    (out * weight.to(out)).sum().backward()
    grads = {n: torch.zeros_like(x) if x.grad is None else x.grad for n, x in leaves.items()}
    return {"output": out.detach(), **grads}


@pytest.mark.parametrize("backend", ["blocked", "folded"])
@pytest.mark.parametrize("padded", [False, True], ids=["padding apart", "padding takes part"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_fast_backends_equal_the_reference_forward_and_backward(case, padded, backend) -> None:
    options = dict(case)
    inputs = drawn(options.pop("size"), options.get("window"), padded=padded)
    found = run(backend, inputs, **options)
    truth = run("reference", inputs, **options)
    assert len(found) == 2 + (inputs["qkv"].ndim - 2) + padded
    for name, exact in truth.items():
        torch.testing.assert_close(found[name], exact, rtol=1e-9, atol=1e-10, msg=name)


@pytest.mark.parametrize("backend", ["blocked", "folded"])
@pytest.mark.parametrize("size", [1, 8, 128])
def test_heads_may_have_any_size(size, backend) -> None:
    inputs = drawn((4, 3, 5), (2, 3, 3), padded=True, channels=HEADS * size)
    found = run(backend, inputs, window=(2, 3, 3))
    for name, exact in run("reference", inputs, window=(2, 3, 3)).items():
        torch.testing.assert_close(found[name], exact, rtol=1e-9, atol=1e-10, msg=name)


@pytest.mark.parametrize("size", [(7, 5), (20, 3)], ids=["few queries", "many queries"])
def test_blocks_of_one_head_of_one_window_give_the_same(monkeypatch, size) -> None:
    options = {"window": (size[0], 3), "shift": (2, 1)}
    inputs = drawn(size, options["window"], padded=True)
    together = run("blocked", inputs, **options)
    monkeypatch.setattr(blocked, "_BYTES", 1)
    for name, found in run("blocked", inputs, **options).items():
        torch.testing.assert_close(found, together[name], rtol=1e-9, atol=1e-10, msg=name)


def _by_hand(inputs, *, size, window=None, shift=None) -> Tensor:
    """Every token on its own: which tokens share its window, its score with each, softmax.

    Here the roll is said without one: windows begin at `shift`, and what lies before it is in a
    window that is cut by the border.
    """
    window, shift = window or size, shift or (0,) * len(size)
    padded = [-(-s // w) * w for s, w in zip(size, window, strict=True)]
    row = inputs.get("padding")
    grid = functional.pad(inputs["qkv"], (0, 0, *_far(size, padded)))
    if row is not None:
        hollow = functional.pad(torch.ones(size), _far(size, padded)) == 0
        grid[:, hollow] = row
    places = list(itertools.product(*map(range, padded if row is not None else size)))
    query, key, value = grid.unflatten(-1, (3, HEADS, -1)).unbind(-3)
    out = torch.zeros(2, *size, HEADS, CHANNELS // HEADS, dtype=grid.dtype)

    def home(place: tuple[int, ...]) -> list[tuple[int, int]]:
        """Along each axis the window of a place, and the place in it."""
        return [divmod(p - s + w, w) for p, w, s in zip(place, window, shift, strict=True)]

    for b, token in itertools.product(range(2), itertools.product(*map(range, size))):
        own = home(token)
        seen = [p for p in places if all(x[0] == y[0] for x, y in zip(own, home(p), strict=True))]
        for head in range(HEADS):
            q = query[b][token][head]
            scores = [q @ key[b][other][head] / math.sqrt(CHANNELS / HEADS) for other in seen]
            for axis, (_, p) in enumerate(own):
                table, w = inputs[f"table {axis}"], window[axis]
                for n, other in enumerate(seen):
                    scores[n] = scores[n] + q @ table[p - home(other)[axis][1] + w - 1]
            weights = torch.stack(scores).softmax(0)
            values = torch.stack([value[b][other][head] for other in seen])
            out[b][token][head] = weights @ values
    return out.flatten(-2)


def _far(size, padded) -> list[int]:
    """How much `functional.pad` is to add, the last axis first."""
    return [n for s, p in reversed(list(zip(size, padded, strict=True))) for n in (0, p - s)]


@pytest.mark.parametrize("padded", [False, True], ids=["padding apart", "padding takes part"])
@pytest.mark.parametrize(
    "name", ["2D, odd sizes", "2D, shifted odd sizes", "3D, shifted", "3D, global"]
)
def test_reference_equals_attention_by_hand(name, padded) -> None:
    options = dict(CASES[name])
    inputs = drawn(options.pop("size"), options.get("window"), padded=padded)
    found = attended(inputs, heads=HEADS, backend="reference", **options)
    torch.testing.assert_close(found, _by_hand(inputs, **CASES[name]), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("window", [0, 3, 6], ids=["global", "windows", "a window of the grid"])
def test_it_is_the_attention_of_segment_anything(window) -> None:
    encoder = pytest.importorskip(
        "segment_anything.modeling.image_encoder", reason="needs the extra medseg[sam]"
    )
    given = {"use_rel_pos": True, "window_size": window, "input_size": (6, 7)}
    block = encoder.Block(CHANNELS, HEADS, **given).double()
    block.norm1, block.mlp = torch.nn.Identity(), torch.nn.Identity()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter)
    block.norm2.weight.data.zero_(), block.norm2.bias.data.zero_()
    x = torch.randn(2, 6, 7, CHANNELS, dtype=torch.float64)
    attention = block.attn
    found = axial_bias_attention(
        attention.qkv(x),
        heads=HEADS,
        tables=(attention.rel_pos_h, attention.rel_pos_w),
        window=(window, window) if window else None,
        padding=attention.qkv.bias,
    )
    torch.testing.assert_close(x + attention.proj(found), block(x), rtol=1e-9, atol=1e-10)


def test_tables_are_resized_as_segment_anything_does_it() -> None:
    encoder = pytest.importorskip(
        "segment_anything.modeling.image_encoder", reason="needs the extra medseg[sam]"
    )
    table = torch.randn(27, 5)
    rows = encoder.get_rel_pos(8, 8, table)  # of every pair of places
    place = torch.arange(8)
    found = resized_table(table, 8)
    assert found.shape == (15, 5)
    torch.testing.assert_close(found[place[:, None] - place + 7], rows)
    assert torch.equal(resized_table(table, 14), table)


@pytest.mark.parametrize("backend", ["blocked", "folded"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_lower_precision_is_as_near_the_truth_as_the_reference(dtype, backend) -> None:
    options = {"window": (3, 2, 3), "shift": (1, 1, 0)}
    coarse = drawn((7, 5, 4), (3, 2, 3), padded=True, dtype=dtype)
    for name in ("table 0", "table 1", "table 2"):
        coarse[name] = coarse[name].float()  # autocast leaves parameters alone
    truth = run("reference", {name: x.double() for name, x in coarse.items()}, **options)
    found, peer = (run(name, coarse, **options) for name in (backend, "reference"))
    assert found["output"].dtype == found["qkv"].dtype == dtype
    assert found["table 1"].dtype == torch.float32
    slack = 1e-6 if dtype == torch.float32 else torch.finfo(dtype).eps / 2
    for name, exact in truth.items():
        error, peer_error = ((x[name].double() - exact).abs().mean() for x in (found, peer))
        assert error <= 2 * peer_error + slack * exact.abs().mean(), name


def test_autocast_around_the_operator_changes_nothing() -> None:
    inputs = drawn((5, 4, 3), (2, 2, 3), padded=True, dtype=torch.float32)
    plain = run("blocked", inputs, window=(2, 2, 3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = run("blocked", inputs, window=(2, 2, 3))
    assert all(torch.equal(plain[name], inside[name]) for name in plain)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_under_autocast_the_folded_form_keeps_apart_what_is_apart(dtype) -> None:
    inputs = drawn((5, 4), (3, 4), padded=False, dtype=torch.float32)
    plain = attended(inputs, heads=HEADS, window=(3, 4), shift=(1, 2), backend="folded")
    with torch.autocast("cpu", dtype=dtype):
        inside = attended(inputs, heads=HEADS, window=(3, 4), shift=(1, 2), backend="folded")
    torch.testing.assert_close(inside.float(), plain, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("backend", ["blocked", "folded"])
def test_strides_do_not_matter(backend) -> None:
    inputs = drawn((5, 4, 6), (3, 2, 3), padded=True)
    strided = {
        "qkv": inputs["qkv"].permute(4, 3, 2, 1, 0).contiguous().permute(4, 3, 2, 1, 0),
        **{f"table {n}": inputs[f"table {n}"].mT.contiguous().mT for n in range(3)},
        "padding": inputs["padding"].repeat_interleave(2)[::2],
    }
    assert not any(x.is_contiguous() for x in strided.values())
    plain, other = (run(backend, x, window=(3, 2, 3)) for x in (inputs, strided))
    for name, exact in plain.items():
        torch.testing.assert_close(other[name], exact, rtol=1e-12, atol=1e-13, msg=name)


@pytest.mark.parametrize("padded", [False, True], ids=["padding apart", "padding takes part"])
def test_no_memory_is_read_before_it_is_written(monkeypatch, padded) -> None:
    inputs = drawn((7, 5, 4), (3, 2, 3), padded=padded)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(mode=True)
    try:
        assert torch.empty(3).isnan().all()
        found = run("blocked", inputs, window=(3, 2, 3), shift=(1, 1, 0))
    finally:
        torch.use_deterministic_algorithms(mode=False)
    assert all(x.isfinite().all() for x in found.values())


def test_gradients_are_the_same_every_time_on_many_threads() -> None:
    inputs = drawn((9, 8, 9), (5, 3, 5), padded=True, dtype=torch.float32)
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        first, *others = (run("blocked", inputs, window=(5, 3, 5)) for _ in range(3))
    finally:
        torch.set_num_threads(threads)
    for other in others:
        assert all(torch.equal(first[name], other[name]) for name in first)


def test_what_is_kept_for_the_backward_pass_is_qkv_and_tables_alone() -> None:
    inputs = drawn((16, 16), padded=False)
    qkv = inputs["qkv"].requires_grad_()
    sizes: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda x: sizes.append(x.numel()) or x, lambda x: x
    ):
        attended(inputs, heads=HEADS, backend="blocked")
    assert len(sizes) >= 2
    assert sum(sizes) <= qkv.numel() + 2 * 32 * CHANNELS // HEADS


@pytest.mark.parametrize("backend", ["blocked", "folded", "reference"])
@pytest.mark.parametrize("size", [(0, 4, 4), (4, 4, 0), (0, 4), None], ids=str)
def test_empty_grids_give_empty_tokens(size, backend) -> None:
    window = (3,) * (3 if size is None else len(size))
    inputs = drawn(size or (4, 4, 4), window, padded=True)
    if size is None:
        inputs["qkv"] = inputs["qkv"][:0]
    leaves = {name: x.requires_grad_() for name, x in inputs.items()}
    out = attended(leaves, heads=HEADS, window=window, backend=backend)
    assert out.shape == (*inputs["qkv"].shape[:-1], CHANNELS)
    assert torch.autograd.grad(out.sum(), leaves["qkv"])[0].shape == inputs["qkv"].shape


def _operator_arguments(*, padded: bool):
    inputs = drawn((5, 4, 3), (2, 2, 3), padded=padded)
    tables = torch.cat([inputs[f"table {n}"] for n in range(3)]).requires_grad_()
    padding = inputs["padding"].requires_grad_() if padded else None
    rest = (HEADS, (2, 2, 3), (1, 0, 2), "blocked")
    return (inputs["qkv"].requires_grad_(), tables, padding, *rest)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("padded", [False, True])
def test_the_operators_keep_the_promises_of_torch_library(padded) -> None:
    arguments = _operator_arguments(padded=padded)
    torch.library.opcheck(torch.ops.medseg.axial_bias_attention.default, arguments)


@pytest.mark.parametrize("backend", ["blocked", "folded"])
def test_analytic_gradients_equal_numeric_ones(backend) -> None:
    inputs = drawn((4, 3, 3), (2, 3, 2), padded=True, channels=4)
    options = {"window": (2, 3, 2), "shift": (1, 0, 1)}

    def output(*tensors: Tensor) -> Tensor:
        named = dict(zip(inputs, tensors, strict=True))
        return attended(named, heads=HEADS, backend=backend, **options)

    given = tuple(x.requires_grad_() for x in inputs.values())
    assert torch.autograd.gradcheck(output, given, fast_mode=True)


@pytest.mark.parametrize("backend", ["blocked", "folded"])
def test_it_compiles_without_a_break_and_backward(backend) -> None:
    inputs = drawn((5, 4, 3), (2, 2, 3), padded=True)
    leaves = {name: x.requires_grad_() for name, x in inputs.items()}
    options = {"window": (2, 2, 3), "shift": (1, 0, 0)}

    def layer(given: dict[str, Tensor]) -> Tensor:
        return 2 * attended(given, heads=HEADS, backend=backend, **options)

    expected = layer(leaves)
    found = torch.compile(layer, fullgraph=True, backend="aot_eager")(leaves)
    torch.testing.assert_close(found, expected)
    for grad, exact in zip(
        torch.autograd.grad(found.sin().sum(), leaves.values()),
        torch.autograd.grad(expected.sin().sum(), leaves.values()),
        strict=True,
    ):
        torch.testing.assert_close(grad, exact)


class _Layer(torch.nn.Module):
    def __init__(self, backend: str) -> None:
        super().__init__()
        self.backend = backend
        self.tables = torch.nn.ParameterList([torch.randn(5, 3), torch.randn(7, 3)]).double()

    def forward(self, qkv: Tensor) -> Tensor:
        given = {"heads": HEADS, "window": (3, 4), "backend": self.backend}
        return axial_bias_attention(qkv, tables=list(self.tables), **given)


def test_it_exports_as_one_node_with_a_batch_and_a_size_that_vary() -> None:
    layer, batch, size = _Layer("blocked"), torch.export.Dim("batch"), torch.export.Dim("size")
    qkv, other = (drawn(s, (3, 4), padded=False)["qkv"] for s in ((5, 6), (8, 6)))
    program = torch.export.export(layer, (qkv,), dynamic_shapes={"qkv": {0: batch, 1: size}})
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert targets.count("medseg.axial_bias_attention.default") == 1
    for given in (qkv, other[:1]):
        torch.testing.assert_close(program.module()(given), layer(given))


def test_the_folded_form_exports_as_torch_s_own_operations() -> None:
    layer, qkv = _Layer("folded"), drawn((5, 6), (3, 4), padded=False)["qkv"]
    shapes = {"qkv": {0: torch.export.Dim("batch")}}
    program = torch.export.export(layer, (qkv,), dynamic_shapes=shapes)
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert targets.count("aten.scaled_dot_product_attention.default") == 1
    assert not any("medseg" in target for target in targets)
    for given in (qkv, qkv[:1]):
        torch.testing.assert_close(program.module()(given), layer(given))


def test_the_choice_names_the_refusal(caplog) -> None:
    inputs = drawn((3, 3, 3), padded=False)
    with caplog.at_level(logging.DEBUG, logger="medseg_kernels.axial_bias_attention"):
        attended(inputs, heads=HEADS)
    assert "'triton' refuses" in caplog.text
    with pytest.raises(ValueError, match="'triton' refuses"):
        attended(inputs, heads=HEADS, backend="triton")


def test_on_another_device_the_blocked_form_gives_way_to_the_folded_one(caplog) -> None:
    inputs = {name: x.to("meta") for name, x in drawn((3, 5), padded=False).items()}
    with caplog.at_level(logging.DEBUG, logger="medseg_kernels.axial_bias_attention"):
        assert attended(inputs, heads=HEADS).shape == (2, 3, 5, CHANNELS)
    assert "'blocked' refuses: it is cut for the cache of a CPU" in caplog.text
    assert "'folded' refuses" not in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"qkv": torch.zeros(1, 4, 4, 16)}, "must be"),
        ({"qkv": torch.zeros(4, 4, 12)}, "must be"),
        ({"heads": 0}, "must be"),
        ({"window": (0, 2)}, "starts at 1"),
        ({"window": (2, 2, 2)}, "as many"),
        ({"shift": (2, 0)}, "less than it"),
        ({"shift": (1, 0, 0)}, "as many"),
        ({"window": None}, r"must be \(7, 2\) for 4 places"),
        ({"tables": [torch.zeros(3, 2)]}, "there are 1"),
        ({"tables": [torch.zeros(3, 2), torch.zeros(5, 2)]}, "resized_table"),
        ({"padding": torch.zeros(4)}, "one token's qkv"),
        ({"backend": "cuda"}, "no backend 'cuda'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(change, message) -> None:
    tables = [torch.zeros(3, 2), torch.zeros(3, 2)]
    given = {"qkv": torch.zeros(1, 4, 4, 12), "heads": 2, "tables": tables, "window": (2, 2)}
    options = {**given, **change}
    with pytest.raises(ValueError, match=message):
        axial_bias_attention(options.pop("qkv"), **options)


def test_windows_come_in_few_kinds_and_hold_every_token_once() -> None:
    request = Request(1, (1, 14, 14), (0, 0, 0))
    found = kinds((1, 64, 64), request, masked=False, device=torch.device("cpu"))
    assert [len(kind.keys) for kind in found] == [16, 4, 4, 1]
    assert [kind.shape for kind in found] == [(1, 14, 14), (1, 14, 8), (1, 8, 14), (1, 8, 8)]
    tokens = torch.cat([kind.queries.flatten() for kind in found])
    assert torch.equal(tokens.sort().values, torch.arange(64**2))
    assert all(len(kind.real) + len(kind.hollow) == 196 for kind in found)
