"""The forms of the mLSTM cell against each other, forward and backward."""

import itertools
import logging

import pytest
import torch
from torch import Tensor

from medseg_kernels.mlstm import chunkwise as chunkwise_form
from medseg_kernels.mlstm import compiled as compiled_form
from medseg_kernels.mlstm import mlstm

needs_compiler = pytest.mark.skipif(
    compiled_form.refuses(torch.zeros(1)) is not None,
    reason=str(compiled_form.refuses(torch.zeros(1))),
)
FAST = ["chunkwise", pytest.param("compiled", marks=needs_compiler)]
DIRECTIONS = ("forward", "backward", "halves", "both")


def drawn(
    tokens: int,
    *,
    size: int = 8,
    heads: int = 3,
    gates: float = 2.0,
    dtype: torch.dtype = torch.float64,
) -> list[Tensor]:
    """Query, key, value and the two gates, these in float32 at least."""
    generator = torch.Generator().manual_seed(tokens)
    wide = [torch.randn(2, heads, tokens, size, generator=generator) for _ in range(3)]
    narrow = [gates * torch.randn(2, heads, tokens, generator=generator) for _ in range(2)]
    exact = torch.promote_types(dtype, torch.float32)
    return [
        *(one.to(dtype).requires_grad_() for one in wide),
        *(one.to(exact).requires_grad_() for one in narrow),
    ]


def gradients(output: Tensor, given: list[Tensor]) -> tuple[Tensor, ...]:
    weight = torch.linspace(-9, 9, output.numel(), dtype=torch.float64).cos().view_as(output)
    return torch.autograd.grad((output * weight.to(output)).sum(), given)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("tokens", [1, 7, 8, 9, 37])
@pytest.mark.parametrize("gates", [0.1, 2.0, 30.0])
def test_the_forms_agree_in_outputs_and_gradients(
    tokens: int, gates: float, direction: str
) -> None:
    given = drawn(tokens, gates=gates)
    forms = ("parallel", "recurrent", "chunkwise", "torch")
    outputs = [mlstm(*given, direction=direction, backend=form, chunk=8) for form in forms]
    for one, other in itertools.combinations(outputs, 2):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    found = [gradients(output, given) for output in outputs]
    for one, other in itertools.combinations(found, 2):
        for ours, theirs in zip(one, other, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


def test_directions_are_the_forward_one_with_tokens_turned_round() -> None:
    given = [one.detach() for one in drawn(150)]
    ahead = mlstm(*given, backend="recurrent")
    back = mlstm(*(one.flip(2) for one in given), backend="recurrent").flip(2)
    assert not torch.allclose(ahead, back)
    expected = {
        "forward": ahead,
        "backward": back,
        "halves": torch.cat([ahead[:, :2], back[:, 2:]], dim=1),
        "both": ahead + back,
    }
    for direction, right in expected.items():
        found = mlstm(*given, direction=direction)
        torch.testing.assert_close(found, right, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("tokens", "size"), [(63, 128), (1000, 8), (130, 20)])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_many_tokens_and_large_heads_with_the_default_chunk(
    tokens: int, size: int, direction: str
) -> None:
    given = drawn(tokens, size=size, heads=2)
    expected = mlstm(*given, direction=direction, backend="parallel")
    found = mlstm(*given, direction=direction)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        gradients(found, given), gradients(expected, given), rtol=1e-8, atol=1e-8
    )


def apart(given: list[Tensor], direction: str, **options) -> list[float]:
    """Of a form's output and gradients to the parallel one in float64, relative to their size."""
    exact = [one.detach().double().requires_grad_() for one in given]
    expected = mlstm(*exact, direction=direction, backend="parallel")
    found = mlstm(*given, direction=direction, **options)
    assert found.dtype == given[0].dtype
    results = (found, *gradients(found, given))
    truth = (expected, *gradients(expected, exact))
    assert [one.dtype for one in results[1:]] == [one.dtype for one in given]
    return [
        ((one.double() - right).norm() / right.norm()).item()
        for one, right in zip(results, truth, strict=True)
    ]


@needs_compiler
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(
    ("tokens", "size"), [(2, 8), (47, 5), (48, 16), (49, 20), (63, 128), (200, 160), (1000, 8)]
)
@pytest.mark.parametrize("gates", [0.1, 2.0])
def test_the_form_in_c_is_as_near_the_truth_as_that_in_torch(
    tokens: int, size: int, gates: float, direction: str
) -> None:
    """Where a token's sum of weights is near nothing, float32 is far from the truth in any form."""
    given = drawn(tokens, size=size, gates=gates, dtype=torch.float32)
    ours, peer = (apart(given, direction, backend=form) for form in ("compiled", "chunkwise"))
    for error, other in zip(ours, peer, strict=True):
        assert error <= 3 * other + 3e-6


@needs_compiler
@pytest.mark.parametrize("chunk", [1, 5, 64, 1000])
def test_the_length_of_a_chunk_changes_nothing_in_c(chunk: int) -> None:
    given = drawn(130, gates=0.5, dtype=torch.float32)
    found = apart(given, "halves", backend="compiled", chunk=chunk)
    assert max(found) < 1e-4, found


@pytest.mark.parametrize("chunk", [1, 5, 64, 1000])
@pytest.mark.parametrize("together", [1, 1 << 30])
def test_neither_a_chunk_s_length_nor_how_many_go_together_changes_anything(
    chunk: int, together: int, monkeypatch
) -> None:
    monkeypatch.setattr(chunkwise_form, "_CPU_NUMBERS", together)
    given = drawn(130)
    expected = mlstm(*given, direction="halves", backend="parallel")
    found = mlstm(*given, direction="halves", chunk=chunk)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        gradients(found, given), gradients(expected, given), rtol=1e-8, atol=1e-8
    )


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_analytic_gradients_equal_numeric_ones(direction: str) -> None:
    given = drawn(6, size=2, heads=2, gates=0.5)
    assert torch.autograd.gradcheck(lambda *args: mlstm(*args, direction=direction, chunk=4), given)


def test_equal_exponents_share_the_gradient_of_the_largest() -> None:
    """It passes through the 1e-6 beside the divisor alone, so little of it does."""
    given = drawn(40)
    for gate, level in zip(given[3:], (0.0, 1e4), strict=True):
        gate.data.fill_(level)
    found, expected = (
        gradients(mlstm(*given, backend=form, chunk=16), given)
        for form in ("chunkwise", "parallel")
    )
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("direction", "kept"), [("forward", slice(25)), ("backward", slice(25, 40))]
)
def test_no_token_sees_a_later_one(direction: str, kept: slice) -> None:
    given = drawn(40)
    changed = [one.detach().clone() for one in given]
    for one in changed:
        one[:, :, slice(25, 40) if direction == "forward" else slice(25)] = 5.0
    before, after = (mlstm(*one, direction=direction, chunk=16) for one in (given, changed))
    same = (before == after).all(dim=(0, 1, 3))
    assert same[kept].all()
    assert not same.any(dim=0) or same.sum() == len(same[kept])


@pytest.mark.parametrize("form", FAST)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_extreme_gates_over_many_tokens_stay_finite(direction: str, form: str) -> None:
    for sign in (-1.0, 1.0):
        given = drawn(2000, size=4, dtype=torch.float32)
        for gate in given[3:]:
            gate.data.add_(sign * 80)
        output = mlstm(*given, direction=direction, backend=form)
        assert output.isfinite().all()
        assert all(gradient.isfinite().all() for gradient in gradients(output, given))


@pytest.mark.parametrize("form", FAST)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_lower_precision_is_as_near_the_truth_as_the_parallel_form(
    dtype: torch.dtype, form: str
) -> None:
    coarse = drawn(200, dtype=dtype)
    ours, peer = (apart(coarse, "halves", backend=name) for name in (form, "parallel"))
    for error, other in zip(ours, peer, strict=True):
        # What is kept of a result is rounded to its type.
        assert error <= 2 * other + max(torch.finfo(dtype).eps, 1e-6)


def test_autocast_around_the_operator_changes_nothing() -> None:
    given = drawn(100, dtype=torch.float32)
    plain = mlstm(*given)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = [mlstm(*given, backend=form) for form in (None, "chunkwise", "torch", "parallel")]
    assert torch.equal(inside[0], plain)
    for other in inside[1:]:
        torch.testing.assert_close(other, plain, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("form", FAST)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_strides_do_not_matter(dtype: torch.dtype, form: str) -> None:
    given = [one.detach() for one in drawn(70, dtype=dtype)]
    tokens_first = [one.transpose(1, 2).contiguous().transpose(1, 2) for one in given]
    unlike = [given[0].mT.contiguous().mT, *tokens_first[1:]]
    found = []
    for some in (given, tokens_first, unlike):
        leaves = [one.detach().requires_grad_() for one in some]
        output = mlstm(*leaves, direction="both", backend=form)
        of_inputs = gradients(output, leaves)
        assert [one.stride() for one in of_inputs] == [one.stride() for one in leaves]
        found.append((output, *of_inputs))
    assert not any(one.is_contiguous() for one in (*tokens_first, unlike[0]))
    for other in found[1:]:
        assert all(torch.equal(one, two) for one, two in zip(found[0], other, strict=True))


@pytest.mark.parametrize("form", FAST)
def test_no_memory_is_read_before_it_is_written(form: str, monkeypatch) -> None:
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    given = drawn(130, dtype=torch.float32)
    torch.use_deterministic_algorithms(mode=True)
    try:
        assert torch.empty(3).isnan().all()
        output = mlstm(*given, direction="both", backend=form)
        found = gradients(output, given)
    finally:
        torch.use_deterministic_algorithms(mode=False)
    assert all(one.isfinite().all() for one in (output, *found))


@needs_compiler
def test_what_is_not_a_number_stays_in_its_lane() -> None:
    given = [one.detach() for one in drawn(100, dtype=torch.float32)]
    given[1][0, 1, 60] = torch.nan
    read = mlstm(*given, backend="compiled")
    assert read[0, 1, 60:].isnan().all()
    assert read[0, 1, :60].isfinite().all()
    others = torch.ones(2, 3, dtype=torch.bool)
    others[0, 1] = False
    assert read[others].isfinite().all()


@needs_compiler
def test_gradients_are_the_same_on_any_number_of_threads() -> None:
    given = drawn(130, dtype=torch.float32)
    threads, found = torch.get_num_threads(), []
    try:
        for number in (1, 3, 4):
            torch.set_num_threads(number)
            output = mlstm(*given, direction="both", backend="compiled")
            found.append((output, *gradients(output, given)))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(one, two) for one, two in zip(found[0], other, strict=True))


@pytest.mark.parametrize("form", FAST)
def test_inputs_results_and_a_number_a_token_are_kept_for_the_backward_pass(form: str) -> None:
    sizes: list[int] = []

    def count(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    given = drawn(300, dtype=torch.float32)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        output = mlstm(*given, backend=form)
    tokens = output.numel() // output.shape[-1]
    assert sum(sizes) == sum(one.numel() for one in given) + output.numel() + tokens


@pytest.mark.parametrize("backend", [None, "torch", "parallel", "recurrent"])
@pytest.mark.parametrize("shape", [(0, 3, 5, 8), (2, 0, 5, 8), (2, 3, 0, 8), (2, 3, 5, 0)])
def test_nothing_gives_nothing(shape: tuple[int, ...], backend: str | None) -> None:
    given = [torch.zeros(shape, requires_grad=True) for _ in range(3)]
    given += [torch.zeros(shape[:3], requires_grad=True) for _ in range(2)]
    output = mlstm(*given, direction="both", backend=backend)
    assert output.shape == shape
    for one, gradient in zip(given, torch.autograd.grad(output.sum(), given), strict=True):
        assert gradient.shape == one.shape
        assert not gradient.any()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("form", FAST)
@pytest.mark.parametrize("lanes", [(3, 0), (2, 1), (3, 3)])
def test_the_operators_keep_the_promises_of_torch_library(
    lanes: tuple[int, int], form: str
) -> None:
    dtype = torch.float32 if form == "compiled" else torch.float64
    arguments = (*drawn(20, dtype=dtype), *lanes, 8, form)
    torch.library.opcheck(torch.ops.medseg.mlstm.default, arguments)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("direction", ["halves", "both"])
def test_it_compiles_without_a_break_and_backward(direction: str, dtype: torch.dtype) -> None:
    given = drawn(70, dtype=dtype)

    def layer(*args: Tensor) -> Tensor:
        return 2 * mlstm(*args, direction=direction)

    expected = layer(*given)
    found = torch.compile(layer, fullgraph=True, backend="aot_eager")(*given)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients(found, given), gradients(expected, given))


class _Layer(torch.nn.Module):
    def __init__(self, backend: str | None) -> None:
        super().__init__()
        self.backend = backend

    def forward(self, *given: Tensor) -> Tensor:
        return mlstm(*given, direction="backward", backend=self.backend)


def test_it_exports_as_one_node_or_in_torch_s_own_operations() -> None:
    given = tuple(one.detach() for one in drawn(70))
    expected = _Layer(None)(*given)
    targets = {}
    for backend in (None, "torch"):
        program = torch.export.export(_Layer(backend), given)
        graphs = [one.graph for one in program.graph_module.modules() if hasattr(one, "graph")]
        targets[backend] = [
            str(node.target) for graph in graphs for node in graph.nodes if node.op != "output"
        ]
        torch.testing.assert_close(program.module()(*given), expected)
    assert targets[None].count("medseg.mlstm.default") == 1
    assert not any("aten" in target for target in targets[None])
    assert any("aten.exp" in target for target in targets["torch"])
    assert not any("medseg" in target for target in targets["torch"])


def test_the_choice_names_the_refusal(caplog) -> None:
    given = drawn(4)
    with caplog.at_level(logging.DEBUG, logger="medseg_kernels.mlstm"):
        mlstm(*given)
    assert "'triton' refuses" in caplog.text
    assert "'compiled' refuses: it has no float64" in caplog.text
    for backend in ("triton", "compiled"):
        with pytest.raises(ValueError, match=f"{backend!r} refuses: it has no float64"):
            mlstm(*given, backend=backend)


@pytest.mark.parametrize(
    ("change", "options", "told"),
    [
        ({0: torch.zeros(2, 3, 5, 8)}, {}, "query"),
        ({1: torch.zeros(2, 3, 4, 9)}, {}, "key"),
        ({3: torch.zeros(2, 3, 4, 1)}, {}, "input_gate"),
        ({2: torch.zeros(2, 3, 4, 8)}, {}, "one type"),
        ({}, {"chunk": 0}, "chunk 0"),
        ({}, {"backend": "quick"}, "no backend 'quick'"),
        ({}, {"direction": "up"}, "direction 'up': it is forward"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(change: dict, options: dict, told: str) -> None:
    given = [change.get(n, one) for n, one in enumerate(drawn(4))]
    with pytest.raises(ValueError, match=told):
        mlstm(*given, **options)
