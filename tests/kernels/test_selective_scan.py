"""The fast selective scans against the plain recurrence, forward and backward."""

import logging

import pytest
import torch
from torch import Tensor

from medseg_kernels.selective_scan import chunked, compiled, refuses, selective_scan

NAMES = ("x", "step", "decay", "write", "read", "skip")
needs_compiler = pytest.mark.skipif(
    compiled.refuses(torch.zeros(1), 1) is not None, reason=str(compiled.refuses(torch.zeros(1), 1))
)
FORMS = ["chunked", "torch", pytest.param("compiled", marks=needs_compiler)]
# Of a result and of gradients, relative to their size.
TOLERANCE = {"chunked": 1e-11, "torch": 1e-11, "compiled": 2e-6}


def drawn(
    tokens: int,
    *,
    items: int = 2,
    channels: int = 6,
    states: int = 4,
    dtype: torch.dtype = torch.float64,
) -> dict[str, Tensor]:
    """Steps from small to some that forget all; decay and skip in float32 at least."""
    generator = torch.Generator().manual_seed(tokens)
    shapes = [(items, channels, tokens)] * 2 + [(channels, states)] + [(items, states, tokens)] * 2
    values = [
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in (*shapes, (channels,))
    ]
    values[1] = values[1].exp() / 4
    values[2] = -16 * values[2].abs()
    exact = torch.promote_types(dtype, torch.float32)
    return {
        name: one.to(exact if name in ("decay", "skip") else dtype).requires_grad_()
        for name, one in zip(NAMES, values, strict=True)
    }


def gradients(output: Tensor, given: dict[str, Tensor]) -> tuple[Tensor, ...]:
    weight = torch.linspace(-9, 9, output.numel(), dtype=torch.float64).cos().view_as(output)
    return torch.autograd.grad((output * weight.to(output)).sum(), list(given.values()))


def differences(given: dict[str, Tensor], **options) -> dict[str, float]:
    """Of a form's output and gradients to the recurrence in float64, relative to their size."""
    exact = {name: one.detach().double().requires_grad_() for name, one in given.items()}
    expected = selective_scan(**exact, backend="reference")
    found = selective_scan(**given, **options)
    assert found.dtype == given["x"].dtype
    results = (found, *gradients(found, given))
    truth = (expected, *gradients(expected, exact))
    assert [one.dtype for one in results[1:]] == [one.dtype for one in given.values()]
    return {
        name: ((one.double() - right).norm() / (right.norm() + 1e-30)).item()
        for name, one, right in zip(("output", *NAMES), results, truth, strict=True)
    }


def _suiting(form: str) -> torch.dtype:
    return torch.float32 if form == "compiled" else torch.float64


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tokens", [2, 7, 8, 9, 63, 64, 65, 200, 1000])
def test_it_equals_the_recurrence_in_outputs_and_gradients(tokens: int, form: str) -> None:
    found = differences(drawn(tokens, dtype=_suiting(form)), backend=form)
    assert max(found.values()) < TOLERANCE[form], found


@pytest.mark.parametrize("form", FORMS)
def test_one_token_has_no_decay(form: str) -> None:
    given = drawn(1, dtype=_suiting(form))
    found = differences(given, backend=form)
    assert max(one for name, one in found.items() if name != "decay") < TOLERANCE[form], found
    assert not gradients(selective_scan(**given, backend=form), given)[2].any()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("channels", "states"), [(3, 1), (15, 3), (16, 16), (17, 16), (64, 16), (65, 2), (150, 16)]
)
def test_any_number_of_channels_and_states(channels: int, states: int, form: str) -> None:
    given = drawn(70, channels=channels, states=states, dtype=_suiting(form))
    found = differences(given, backend=form)
    assert max(found.values()) < TOLERANCE[form], found


@pytest.mark.parametrize("form", [form for form in FORMS if form != "torch"])
@pytest.mark.parametrize("block", [1, 16, 37, 1000])
def test_how_many_tokens_make_a_block_changes_nothing(block: int, form: str) -> None:
    found = differences(drawn(130, dtype=_suiting(form)), backend=form, block=block)
    assert max(found.values()) < TOLERANCE[form], found


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_lower_precision_is_as_near_the_truth_as_the_recurrence(
    dtype: torch.dtype, form: str
) -> None:
    given = drawn(300, dtype=dtype)
    ours, peer = (differences(given, backend=one) for one in (form, "reference"))
    for name, error in ours.items():
        assert error <= 1.5 * peer[name] + 2e-6, name


def test_analytic_gradients_equal_numeric_ones() -> None:
    given = drawn(11, channels=2, states=2)
    assert torch.autograd.gradcheck(
        lambda *args: selective_scan(**dict(zip(NAMES, args, strict=True)), block=8),
        tuple(given.values()),
    )


@needs_compiler
def test_the_exponential_in_c_is_that_of_float32() -> None:
    """A state of one, kept by exp(step decay) once, and read."""
    exponents = torch.cat([-torch.linspace(0, 87, 2000), torch.tensor([-90.0, -1e4, 1.0, 80.0])])
    n = len(exponents)
    step = torch.stack([torch.ones(n), exponents.abs()], dim=-1)[None]
    found = selective_scan(
        torch.tensor([1.0, 0.0]).expand(1, n, 2),
        step,
        decay=exponents.sign()[:, None],
        write=torch.ones(1, 1, 2),
        read=torch.ones(1, 1, 2),
        skip=torch.zeros(n),
        backend="compiled",
    )[0, :, 1]
    exact = exponents.double().exp()
    # Where float32 has nothing left but its smallest numbers, it may stay at the least of them.
    assert ((found - exact).abs() <= 3e-7 * exact + 2e-38).all()


@needs_compiler
def test_what_is_not_a_number_is_not_hidden() -> None:
    given = drawn(40, dtype=torch.float32)
    given["step"].data[0, 2, 20] = torch.nan
    found = selective_scan(**given, backend="compiled")
    assert found[0, 2, 20:].isnan().all()
    assert found[0, 2, :20].isfinite().all()
    assert found[0, 3].isfinite().all()


@pytest.mark.parametrize("form", FORMS)
def test_large_steps_and_long_pauses_stay_finite(form: str) -> None:
    given = {name: one.detach().float() for name, one in drawn(2000).items()}
    given["step"] = torch.where(torch.rand_like(given["step"]) < 0.1, 50.0, 1e-7)
    given = {name: one.requires_grad_() for name, one in given.items()}
    output = selective_scan(**given, backend=form)
    assert output.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients(output, given))


def test_autocast_around_it_changes_nothing() -> None:
    given = drawn(100, dtype=torch.float32)
    for form in ("chunked", "torch", "reference"):
        plain = selective_scan(**given, backend=form)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(selective_scan(**given, backend=form), plain)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_strides_do_not_matter(dtype: torch.dtype, form: str) -> None:
    given = {name: one.detach() for name, one in drawn(70, channels=20, dtype=dtype).items()}
    strided = {
        name: one if name == "skip" else one.mT.contiguous().mT for name, one in given.items()
    }
    strided["step"] = torch.cat([given["step"]] * 2, dim=1).flip(2)[:, 20:].flip(2)
    assert sum(not one.is_contiguous() for one in strided.values()) == 4
    leaves = [{n: x.requires_grad_() for n, x in some.items()} for some in (given, strided)]
    outputs = [selective_scan(**some, backend=form) for some in leaves]
    torch.testing.assert_close(*outputs)
    torch.testing.assert_close(*map(gradients, outputs, leaves))


@pytest.mark.parametrize("form", FORMS)
def test_no_memory_is_read_before_it_is_written(form: str, monkeypatch) -> None:
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    given = drawn(130, channels=70, dtype=_suiting(form))
    torch.use_deterministic_algorithms(mode=True)
    try:
        assert torch.empty(3).isnan().all()
        output = selective_scan(**given, backend=form)
        found = gradients(output, given)
    finally:
        torch.use_deterministic_algorithms(mode=False)
    assert all(one.isfinite().all() for one in (output, *found))


@needs_compiler
def test_gradients_are_the_same_on_any_number_of_threads() -> None:
    given = drawn(130, channels=200, states=16, dtype=torch.float32)
    threads, found = torch.get_num_threads(), []
    try:
        for number in (1, 3, 4):
            torch.set_num_threads(number)
            output = selective_scan(**given, backend="compiled")
            found.append((output, *gradients(output, given)))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(one, two) for one, two in zip(found[0], other, strict=True))


@pytest.mark.parametrize("form", [form for form in FORMS if form != "torch"])
def test_what_is_kept_for_the_backward_pass_grows_with_the_tokens_alone(form: str) -> None:
    kept = []
    for tokens in (256, 512):
        sizes: list[int] = []

        def count(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        given = drawn(tokens, states=16, dtype=torch.float32)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            selective_scan(**given, block=64, backend=form)
        inputs = sum(one.numel() for one in given.values())
        kept.append(sum(sizes) - inputs)
    # The states before each of four and of eight blocks.
    assert kept == [2 * 4 * 6 * 16, 2 * 8 * 6 * 16]


@pytest.mark.parametrize("backend", [None, "chunked", "torch", "reference"])
@pytest.mark.parametrize("sizes", [(0, 6, 5), (2, 0, 5), (2, 6, 0)])
def test_nothing_gives_nothing(sizes: tuple[int, int, int], backend: str | None) -> None:
    b, d, n = sizes
    shapes = [(b, d, n)] * 2 + [(d, 4)] + [(b, 4, n)] * 2 + [(d,)]
    values = (torch.zeros(shape, requires_grad=True) for shape in shapes)
    given = dict(zip(NAMES, values, strict=True))
    output = selective_scan(**given, backend=backend)
    assert output.shape == sizes
    for one, gradient in zip(given.values(), gradients(output, given), strict=True):
        assert gradient.shape == one.shape
        assert not gradient.any()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("form", [form for form in FORMS if form != "torch"])
def test_the_operators_keep_the_promises_of_torch_library(form: str) -> None:
    given = drawn(20, dtype=_suiting(form))
    given["write"] = given["write"].detach().mT.contiguous().mT.requires_grad_()
    arguments = (*given.values(), 16, form)
    torch.library.opcheck(torch.ops.medseg.selective_scan.default, arguments)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_it_compiles_without_a_break_and_backward(dtype: torch.dtype) -> None:
    given = drawn(70, dtype=dtype)

    def layer(*args: Tensor) -> Tensor:
        return 2 * selective_scan(**dict(zip(NAMES, args, strict=True)))

    expected = layer(*given.values())
    found = torch.compile(layer, fullgraph=True, backend="aot_eager")(*given.values())
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients(found, given), gradients(expected, given))


class _Layer(torch.nn.Module):
    def __init__(self, backend: str | None) -> None:
        super().__init__()
        self.backend = backend

    def forward(self, *given: Tensor) -> Tensor:
        return selective_scan(**dict(zip(NAMES, given, strict=True)), backend=self.backend)


def test_it_exports_as_one_node_or_in_torch_s_own_operations() -> None:
    given = tuple(one.detach() for one in drawn(70).values())
    expected = _Layer(None)(*given)
    targets = {}
    for backend in (None, "torch"):
        program = torch.export.export(_Layer(backend), given)
        graphs = [one.graph for one in program.graph_module.modules() if hasattr(one, "graph")]
        targets[backend] = [
            str(node.target) for graph in graphs for node in graph.nodes if node.op != "output"
        ]
        torch.testing.assert_close(program.module()(*given), expected)
    assert targets[None].count("medseg.selective_scan.default") == 1
    assert not any("aten" in target for target in targets[None])
    # About two steps for the square root of the tokens.
    assert 10 < sum("aten.addcmul" in target for target in targets["torch"]) < 25
    assert not any("medseg" in target for target in targets["torch"])


def test_the_choice_names_the_refusal(caplog) -> None:
    given = drawn(4)
    with caplog.at_level(logging.DEBUG, logger="medseg_kernels.selective_scan"):
        selective_scan(**given)
    assert "'triton' refuses" in caplog.text
    assert "'compiled' refuses: it has no float64" in caplog.text
    for backend, told in (
        ("triton", "no float64"),
        ("compiled", "no float64"),
        ("mamba_ssm", "CUDA devices alone"),
    ):
        with pytest.raises(ValueError, match=f"{backend!r} refuses: .*{told}"):
            selective_scan(**given, backend=backend)


@pytest.mark.parametrize(
    ("backend", "options", "told"),
    [
        ("compiled", {"states": 257}, "up to 256 states"),
        ("triton", {"block": 48}, "16, 32, ... 1024 tokens, not 48"),
        ("mamba_ssm", {}, "CUDA"),
    ],
)
def test_what_a_backend_cannot_do_it_says(backend: str, options: dict, told: str) -> None:
    assert told in str(refuses(torch.zeros(1, 2, 3), backend=backend, **options))


def test_blocks_that_do_not_fit_a_cache_are_worked_on_one_after_another() -> None:
    assert chunked.block_of(torch.zeros(1, 256, 4096), 16) < 100
    assert chunked.block_of(torch.zeros(64, 2048, 8), 16) == 8


@pytest.mark.parametrize(
    ("name", "told"), [("step", "both are"), ("skip", r"\(d,\)"), ("read", "both are")]
)
def test_shapes_that_do_not_fit_are_refused(name: str, told: str) -> None:
    given = drawn(4)
    given[name] = given[name][..., :-1]
    with pytest.raises(ValueError, match=told):
        selective_scan(**given)


@pytest.mark.parametrize(
    ("options", "told"), [({"block": 0}, "block 0"), ({"backend": "quick"}, "no backend 'quick'")]
)
def test_arguments_that_do_not_fit_are_refused(options: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        selective_scan(**drawn(4), **options)
