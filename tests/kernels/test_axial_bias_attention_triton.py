"""The Triton form against the plain one: in the interpreter, as binaries, and on a GPU."""

import importlib

import pytest
import torch

from medseg_kernels.axial_bias_attention import axial_bias_attention, refuses
from medseg_kernels.axial_bias_attention.request import Request
from tests.kernels.binaries import TARGETS, Job, compiled
from tests.kernels.test_axial_bias_attention import attended, drawn, run

pytest.importorskip("triton")

CASES = {
    "2D, global": {"size": (3, 5)},
    "2D, lines of several blocks": {"size": (2, 35)},
    "2D, shifted odd sizes": {"size": (5, 6), "window": (3, 4), "shift": (1, 2)},
    "3D, global": {"size": (3, 4, 5)},
    "3D, shifted odd sizes": {"size": (3, 2, 5), "window": (2, 2, 3), "shift": (1, 0, 2)},
    "3D, blocks along all axes": {"size": (2, 2, 34)},
    "axes of one place": {"size": (3, 1, 2), "window": (2, 1, 1), "shift": (1, 0, 0)},
}
MODULE = "medseg_kernels.axial_bias_attention.triton"
KERNELS = ("attend", "down_queries", "down_keys")
# Segment Anything's global attention and its windows, 3DSAM-adapter's shifted windows.
ASKED = {
    (1, 64, 64): {"TAKES_PART": False, "SI": 0, "SJ": 0, "SK": 0},
    (1, 14, 14): {"TAKES_PART": True, "SI": 0, "SJ": 0, "SK": 0},
    (8, 8, 8): {"TAKES_PART": False, "SI": 4, "SJ": 4, "SK": 4},
}


@pytest.fixture
def poisoned(monkeypatch):
    """Memory holds NaN before it is written."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(mode=True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(mode=False)


def _differences(inputs, *, heads: int, **options) -> dict[str, float]:
    """Of output and gradients to the plain form in float64, relative to their size.

    A table of an axis of one place has no effect: its true gradient is nothing but rounding.
    """
    found = run("triton", inputs, heads=heads, **options)
    exact = {name: x.double() for name, x in inputs.items()}
    truth = run("reference", exact, heads=heads, **options)
    assert found["output"].dtype == inputs["qkv"].dtype
    return {
        name: ((found[name].double() - right).norm() / right.norm().clamp(min=1e-6)).item()
        for name, right in truth.items()
    }


@pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter is for machines without")
@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("padded", [False, True], ids=["padding apart", "padding takes part"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_in_the_interpreter_it_equals_the_reference(case, padded) -> None:
    options = dict(case)
    inputs = drawn(options.pop("size"), options.get("window"), padded=padded, dtype=torch.float32)
    inputs["qkv"] = inputs["qkv"][:1].mT.contiguous().mT
    assert not inputs["qkv"].is_contiguous()
    found = _differences(inputs, heads=2, **options)
    assert len(found) == inputs["qkv"].ndim + padded
    assert max(found.values()) < 2e-6, found


@pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter is for machines without")
def test_half_precision_and_a_batch_of_two() -> None:
    inputs = drawn((3, 5), (3, 4), padded=True, heads=1, channels=5, dtype=torch.float16)
    inputs["table 0"] = inputs["table 0"].float()  # autocast leaves parameters alone
    found = _differences(inputs, heads=1, window=(3, 4), shift=(1, 0))
    assert len(found) == 5
    assert max(found.values()) < 3e-3, found


@pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter is for machines without")
@pytest.mark.parametrize("size", [8, 40, 128])
def test_heads_of_any_size_up_to_128_channels(size) -> None:
    inputs = drawn((3, 4), padded=False, heads=1, channels=size, dtype=torch.float32)
    inputs = {name: x[:1] if name == "qkv" else x / size**0.5 for name, x in inputs.items()}
    found = _differences(inputs, heads=1)
    assert len(found) == 4
    assert max(found.values()) < 2e-6, found


@pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter is for machines without")
def test_autocast_around_the_operator_changes_nothing() -> None:
    inputs = drawn((2, 3), padded=False, dtype=torch.float32)
    plain = run("triton", inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = run("triton", inputs)
    assert all(torch.equal(plain[name], inside[name]) for name in plain)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter is for machines without")
@pytest.mark.parametrize("padded", [False, True])
def test_the_operators_keep_the_promises_of_torch_library(padded) -> None:
    inputs = drawn((1, 2, 3), (1, 2, 2), padded=padded, heads=1, dtype=torch.float32)
    tables = torch.cat([inputs[f"table {n}"] for n in range(3)]).requires_grad_()
    padding = inputs["padding"].requires_grad_() if padded else None
    rest = (1, (1, 2, 2), (0, 1, 0), "triton")
    arguments = (inputs["qkv"][:1].requires_grad_(), tables, padding, *rest)
    torch.library.opcheck(torch.ops.medseg.axial_bias_attention.default, arguments)


@pytest.mark.parametrize("size", [(0, 4, 4), (4, 4, 0)], ids=str)
@pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter is for machines without")
def test_empty_grids_give_empty_tokens(size) -> None:
    inputs = drawn(size, (2, 2, 2), padded=True, dtype=torch.float32)
    leaves = {name: x.requires_grad_() for name, x in inputs.items()}
    out = attended(leaves, heads=2, window=(2, 2, 2), backend="triton")
    out.sum().backward()
    assert leaves["qkv"].grad.shape == inputs["qkv"].shape
    assert not any(leaves[name].grad.any() for name in leaves)


@pytest.mark.parametrize(
    ("shape", "window", "dtype", "words"),
    [
        ((1, 1, 4, 4, 3 * 129), (1, 4, 4), torch.float32, "up to 128 channels, not 129"),
        ((1, 1, 4, 130, 24), (1, 4, 129), torch.float32, "up to 128 places of an axis, not 129"),
        ((1, 1, 4, 4, 24), (1, 4, 4), torch.float64, "no float64"),
        ((1, 1, 4, 4, 24), (1, 4, 4), torch.float16, "CUDA devices alone"),
    ],
)
def test_what_it_cannot_do_it_says(shape, window, dtype, words) -> None:
    qkv = torch.empty(shape, dtype=dtype, device="meta")
    assert words in str(refuses("triton", qkv, request=Request(1, window, (0, 0, 0))))


@pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter is for machines without")
def test_more_numbers_than_32_bits_count_are_refused() -> None:
    request = Request(1, (8, 8, 8), (0, 0, 0))
    many = torch.zeros(1).expand(1, 256, 512, 512, 24)
    assert "in 32 bits" in str(refuses("triton", many, request=request))
    assert refuses("triton", many[:, ::8], request=request) is None


def _job(kernel: str, capability: int, dtype: torch.dtype, size: int, window) -> Job:
    forms = importlib.import_module(MODULE)
    cut = forms.shape(size, window, dtype)
    cut = forms.for_keys(cut) if kernel == "down_keys" else cut
    warps, stages = cut.pop("num_warps"), cut.pop("num_stages")
    given = "*bf16:16" if dtype == torch.bfloat16 else "*fp32:16"
    types = dict.fromkeys(("qkv", "bias", "padding", "grad", "out", "down"), given)
    types |= dict.fromkeys(("sums", "dots", "down_bias", "partial"), "*fp32:16")
    types |= dict.fromkeys(("size_i", "size_j", "size_k"), "i32") | {"scale": "fp32"}
    constants = dict(zip(("WI", "WJ", "WK"), window, strict=True)) | {"HEADS": 12}
    constants |= ASKED[window] | cut
    names = getattr(forms, kernel).arg_names
    types, constants = ({n: x for n, x in d.items() if n in names} for d in (types, constants))
    return Job(MODULE, kernel, types, constants, capability, warps, stages)


def test_every_kernel_is_a_lean_binary_on_three_generations() -> None:
    """A tile's 64 queries or keys are what Hopper's and Blackwell's matrix units ask for."""
    asked = [(target, window) for window in ASKED for target in TARGETS]
    asked = [one for one in asked if one[0] == 90 or one[1] == (1, 64, 64)]  # it takes a while
    jobs = [_job(kernel, one[0], torch.bfloat16, 64, one[1]) for kernel in KERNELS for one in asked]
    for job, binary in zip(jobs, compiled(jobs), strict=True):
        place = f"{job.kernel} {job.capability} {binary}"
        assert binary.registers <= 255, place
        # a few numbers of a loop that fills the registers of the oldest
        assert binary.stack <= (96 if job.capability == 80 else 16), place
        assert binary.shared <= 99 << 10, place
        assert TARGETS[job.capability] in binary.instructions, place


def test_the_largest_heads_fit_the_smaller_cards() -> None:
    jobs = [
        _job(kernel, 80, dtype, 128, (1, 64, 64))
        for dtype in (torch.bfloat16, torch.float32)
        for kernel in KERNELS
    ]
    for job, binary in zip(jobs, compiled(jobs), strict=True):
        assert binary.stack <= 96, f"{job.kernel} {binary}"
        assert binary.shared <= 99 << 10, f"{job.kernel} {binary}"


TOLERANCE = {torch.float32: 1e-5, torch.float16: 6e-3, torch.bfloat16: 5e-2}


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("padded", [False, True], ids=["padding apart", "padding takes part"])
@pytest.mark.parametrize(
    ("size", "channels", "options"),
    [
        ((32, 40), 64, {}),
        ((30, 33), 64, {"window": (14, 14)}),
        ((17, 20), 80, {"window": (14, 14), "shift": (7, 3)}),
        ((5, 100), 128, {}),
        ((9, 10, 11), 64, {"window": (8, 8, 8), "shift": (4, 4, 4)}),
        ((9, 10, 11), 20, {}),
        ((9, 10, 40), 32, {"window": (3, 3, 33)}),
        ((6, 7, 5), 8, {"window": (2, 2, 2)}),
    ],
)
def test_on_a_gpu_it_equals_the_reference(size, channels, options, padded, dtype) -> None:
    inputs = drawn(size, options.get("window"), padded=padded, heads=4, channels=4 * channels)
    inputs = {name: x.to("cuda", dtype) for name, x in inputs.items()}
    for name in inputs:
        if name.startswith("table"):
            inputs[name] = inputs[name].float() / channels**0.5
    found = _differences(inputs, heads=4, **options)
    assert len(found) == 2 + len(size) + padded
    assert max(found.values()) < TOLERANCE[dtype], found


@pytest.mark.gpu
def test_on_a_gpu_it_is_chosen_and_the_same_every_time() -> None:
    inputs = drawn((64, 64), (14, 14), padded=True, heads=4, channels=256)
    inputs = {name: x.to("cuda", torch.bfloat16) for name, x in inputs.items()}
    options = {"heads": 4, "window": (14, 14)}
    first, *others = (run(name, inputs, **options) for name in (None, "triton"))
    for other in others:
        assert all(torch.equal(first[name], other[name]) for name in first)
    given = {"tables": (inputs["table 0"], inputs["table 1"]), **options}
    compiled_form = torch.compile(lambda qkv: axial_bias_attention(qkv, **given), fullgraph=True)
    assert torch.equal(compiled_form(inputs["qkv"]), axial_bias_attention(inputs["qkv"], **given))
