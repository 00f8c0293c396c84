"""The Triton form against the plain one: in the interpreter, as binaries, and on a GPU."""

import importlib

import pytest
import torch

from medseg_kernels.neighborhood_attention import neighborhood_attention, refuses
from medseg_kernels.neighborhood_attention.request import Request
from tests.kernels.binaries import TARGETS, Job, compiled
from tests.kernels.test_neighborhood_attention import drawn, run

pytest.importorskip("triton")

CASES = {
    "several tiles": {"size": (9, 2, 3), "window": (5, 1, 2)},
    "a row with an empty tile": {"size": (9, 2, 5), "window": (3, 1, 2), "dilation": (2, 1, 1)},
    "dilated odd sizes": {"size": (3, 7, 5), "window": (3, 2, 1), "dilation": (1, 3, 2)},
}
MODULE = "medseg_kernels.neighborhood_attention.triton"
KERNELS = ("attend", "down_queries", "down_keys", "down_table")


@pytest.fixture
def poisoned(monkeypatch):
    """Memory holds NaN before it is written."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(mode=True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(mode=False)


def _differences(inputs, *, heads: int, **options) -> dict[str, float]:
    """Of output and gradients to the plain form in float64, relative to their size."""
    found = run("triton", inputs, heads=heads, **options)
    exact = {name: x.double() for name, x in inputs.items()}
    truth = run("reference", exact, heads=heads, **options)
    assert found["output"].dtype == inputs["qkv"].dtype
    return {
        name: ((found[name].double() - right).norm() / right.norm()).item()
        for name, right in truth.items()
    }


@pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter is for machines without")
@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_in_the_interpreter_it_equals_the_reference(case) -> None:
    options = dict(case)
    inputs = drawn(options.pop("size"), options["window"], tabled=True, dtype=torch.float32)
    inputs["qkv"] = inputs["qkv"][:1].mT.contiguous().mT
    assert not inputs["qkv"].is_contiguous()
    found = _differences(inputs, heads=2, **options)
    assert len(found) == 3
    assert max(found.values()) < 1e-6, found


@pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter is for machines without")
def test_half_precision_without_a_table_and_a_batch_of_two() -> None:
    inputs = drawn((5, 3, 3), (3, 3, 2), tabled=False, heads=1, channels=5, dtype=torch.float16)
    found = _differences(inputs, heads=1, window=(3, 3, 2), scale=0.3)
    assert len(found) == 2
    assert max(found.values()) < 2e-3, found


@pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter is for machines without")
@pytest.mark.parametrize("size", [8, 40, 128])
def test_heads_of_any_size_up_to_128_channels(size) -> None:
    inputs = drawn((3, 2, 4), (2, 1, 3), tabled=True, heads=1, channels=size, dtype=torch.float32)
    found = _differences(inputs, heads=1, window=(2, 1, 3))
    assert len(found) == 3
    assert max(found.values()) < 1e-6, found


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter is for machines without")
def test_the_operators_keep_the_promises_of_torch_library() -> None:
    inputs = drawn((3, 2, 3), (2, 1, 2), tabled=True, heads=1, dtype=torch.float32)
    leaves = [x[:1].requires_grad_() if x.ndim == 5 else x for x in inputs.values()]
    arguments = (*leaves, 1, (2, 1, 2), (1, 2, 1), 0.5, "triton")
    torch.library.opcheck(torch.ops.medseg.neighborhood_attention.default, arguments)


@pytest.mark.parametrize(
    ("shape", "window", "dtype", "words"),
    [
        ((1, 4, 4, 4, 3 * 129), (3, 3, 3), torch.float32, "up to 128 channels, not 129"),
        ((1, 250, 1, 1, 24), (241, 1, 1), torch.float32, "up to 240, not 241"),
        ((1, 4, 4, 4, 24), (3, 3, 3), torch.float64, "no float64"),
        ((1, 4, 4, 4, 24), (3, 3, 3), torch.float16, "CUDA devices alone"),
    ],
)
def test_what_it_cannot_do_it_says(shape, window, dtype, words) -> None:
    qkv = torch.empty(shape, dtype=dtype, device="meta")
    assert words in str(refuses("triton", qkv, request=Request(1, window, (1, 1, 1), 1.0)))


@pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter is for machines without")
def test_more_numbers_than_32_bits_count_are_refused() -> None:
    request = Request(1, (3, 3, 3), (1, 1, 1), 1.0)
    many = torch.zeros(1).expand(1, 1024, 1024, 128, 24)
    assert "in 32 bits" in str(refuses("triton", many, request=request))
    assert refuses("triton", many[:, ::2], request=request) is None


def _job(kernel: str, capability: int, dtype: torch.dtype, size: int) -> Job:
    forms = importlib.import_module(MODULE)
    cut = forms.table_shape(size, 7) if kernel == "down_table" else forms.shape(size, dtype)
    warps = cut.pop("num_warps")
    names = getattr(forms, kernel).arg_names
    half = "*bf16" if dtype == torch.bfloat16 else "*fp16"
    types = dict.fromkeys(("qkv", "grad", "out", "down"), half)
    types |= dict.fromkeys(("table", "sums", "dots", "partial"), "*fp32")
    types |= dict.fromkeys(("size_i", "size_j", "size_k", "shares"), "i32") | {"scale": "fp32"}
    constants = {"HEADS": 4, "WI": 7, "WJ": 7, "WK": 7, "DI": 1, "DJ": 1, "DK": 1}
    tabled = capability == 90 or kernel == "down_table"  # both kinds somewhere: it takes a while
    constants |= {"TABLED": tabled} | ({} if tabled else {"table": None})
    types = {name: kind for name, kind in types.items() if name not in constants}
    return Job(
        MODULE,
        kernel,
        {name: kind for name, kind in types.items() if name in names},
        {name: x for name, x in (constants | cut).items() if name in names},
        capability,
        warps,
    )


def test_every_kernel_is_a_lean_binary_on_three_generations() -> None:
    """A tile's 64 queries or keys are what Hopper's and Blackwell's matrix units ask for."""
    jobs = [_job(kernel, target, torch.bfloat16, 16) for kernel in KERNELS for target in TARGETS]
    jobs += [_job(kernel, 90, torch.float16, 128) for kernel in KERNELS]
    for job, binary in zip(jobs, compiled(jobs), strict=True):
        place = f"{job.kernel} {job.capability} {binary}"
        assert binary.registers <= 255, place
        # ptxas parks a few numbers to fit a block more, or where 128 channels fill the registers
        assert binary.stack <= (16 if job.constants["E"] == 16 else 128), place
        assert binary.shared <= 99 << 10, place
        matrices = TARGETS[job.capability] in binary.instructions
        assert matrices == (job.kernel != "down_table"), place


TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("tabled", [False, True], ids=["no table", "table"])
@pytest.mark.parametrize(
    ("size", "channels", "options"),
    [
        ((17, 14, 20), 16, {"window": (7, 7, 7)}),
        ((17, 14, 20), 32, {"window": (5, 5, 5), "dilation": (3, 1, 2)}),
        ((9, 10, 11), 64, {"window": (4, 5, 6)}),
        ((9, 10, 11), 128, {"window": (3, 3, 3), "dilation": (2, 2, 2)}),
        ((9, 10, 11), 20, {"window": (5, 5, 5)}),
        ((9, 10, 11), 8, {"window": (9, 10, 11)}),
    ],
)
def test_on_a_gpu_it_equals_the_reference(size, channels, options, tabled, dtype) -> None:
    inputs = drawn(size, options["window"], tabled=tabled, heads=4, channels=4 * channels)
    inputs = {name: x.to("cuda", dtype) for name, x in inputs.items()}
    if tabled:
        inputs["table"] = inputs["table"].float()
    found = _differences(inputs, heads=4, **options)
    assert len(found) == 2 + tabled
    assert max(found.values()) < TOLERANCE[dtype], found


@pytest.mark.gpu
def test_on_a_gpu_it_is_chosen_and_the_same_every_time() -> None:
    inputs = drawn((24, 24, 24), (7, 7, 7), tabled=True, heads=4, channels=64)
    inputs = {name: x.to("cuda", torch.bfloat16) for name, x in inputs.items()}
    first, *others = (run(name, inputs, heads=4, window=(7, 7, 7)) for name in (None, "triton"))
    for other in others:
        assert all(torch.equal(first[name], other[name]) for name in first)
    compiled_form = torch.compile(
        lambda qkv: neighborhood_attention(qkv, heads=4, window=(7, 7, 7)), fullgraph=True
    )
    plain = neighborhood_attention(inputs["qkv"], heads=4, window=(7, 7, 7))
    assert torch.equal(compiled_form(inputs["qkv"]), plain)
