"""The Triton form of the mLSTM cell: in the interpreter, as binaries, and on a GPU."""

import importlib
import itertools

import pytest
import torch
from torch import Tensor

from medseg_kernels.mlstm import mlstm, refuses
from tests.kernels.binaries import TARGETS, Job, compiled
from tests.kernels.test_mlstm import DIRECTIONS, apart, drawn, gradients

interpreted = pytest.mark.skipif(
    torch.cuda.is_available(), reason="the interpreter is for machines without a GPU"
)
# Kernels that multiply matrices, and those that do not.
MATRICES, OTHERS = ("writing", "reading", "returning", "down"), ("gates", "sloping")
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 3e-2}


@pytest.fixture
def poisoned(monkeypatch):
    """Memory holds NaN before it is written."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(mode=True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(mode=False)


@interpreted
@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("tokens", "size", "direction"),
    [
        (2, 8, "forward"),
        (16, 8, "backward"),
        (37, 20, "both"),
        (37, 33, "halves"),
        (63, 16, "forward"),
        (40, 128, "backward"),
    ],
)
def test_in_the_interpreter_it_equals_the_parallel_form(
    tokens: int, size: int, direction: str, dtype: torch.dtype
) -> None:
    given = [one.detach()[:1, :2].requires_grad_() for one in drawn(tokens, size=size, dtype=dtype)]
    found = apart(given, direction, backend="triton", chunk=16)
    assert len(found) == 6
    assert max(found) < TOLERANCE[dtype], found


@interpreted
def test_in_the_interpreter_strides_do_not_matter() -> None:
    given = [one.detach() for one in drawn(20, dtype=torch.float32)]
    tokens_first = [one.transpose(1, 2).contiguous().transpose(1, 2) for one in given]
    unlike = [given[0].mT.contiguous().mT, *tokens_first[1:]]
    found = []
    for some in (given, tokens_first, unlike):
        leaves = [one.detach().requires_grad_() for one in some]
        output = mlstm(*leaves, direction="both", backend="triton", chunk=16)
        of_inputs = gradients(output, leaves)
        assert [one.stride() for one in of_inputs] == [one.stride() for one in leaves]
        found.append((output, *of_inputs))
    for other in found[1:]:
        assert all(torch.equal(one, two) for one, two in zip(found[0], other, strict=True))


@interpreted
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_in_the_interpreter_extreme_gates_stay_finite(sign: float) -> None:
    given = drawn(50, size=4, dtype=torch.float32)
    for gate in given[3:]:
        gate.data.add_(sign * 80)
    output = mlstm(*given, direction="both", backend="triton", chunk=16)
    assert output.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients(output, given))


@interpreted
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_the_operators_keep_the_promises_of_torch_library() -> None:
    arguments = (*drawn(20, size=4, dtype=torch.float32), 2, 1, 16, "triton")
    checks = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(torch.ops.medseg.mlstm.default, arguments, test_utils=checks)


@pytest.mark.parametrize(
    ("shape", "chunk", "dtype", "words"),
    [
        ((1, 2, 4, 129), None, torch.float32, "up to 128 channels, not 129"),
        ((1, 2, 4, 8), 128, torch.float32, "16, 32 or 64 tokens, not 128"),
        ((1, 2, 4, 8), None, torch.float64, "no float64"),
        ((1, 2, 4, 8), None, torch.float16, "CUDA devices alone"),
    ],
)
def test_what_it_cannot_do_it_says(
    shape: tuple[int, ...], chunk: int | None, dtype: torch.dtype, words: str
) -> None:
    query = torch.empty(shape, dtype=dtype, device="meta")
    assert words in str(refuses(query, backend="triton", chunk=chunk))


def _job(kernel: str, capability: int, dtype: torch.dtype, size: int) -> Job:
    """The kernel as a call with contiguous tensors of many tokens compiles it."""
    forms = importlib.import_module("medseg_kernels.mlstm.triton")
    chunk = 64 if dtype == torch.bfloat16 else 32
    cut = {
        "gates": lambda: forms.gate_shape(chunk),
        "sloping": lambda: forms.slope_shape(size, chunk),
        "writing": lambda: forms.state_shape(size, dtype, chunk) | forms.scale(size),
        "returning": lambda: forms.state_shape(size, dtype, chunk),
    }.get(kernel, lambda: forms.shape(size, dtype, chunk))()
    warps, stages = cut.pop("num_warps"), cut.pop("num_stages", 3)
    names = getattr(forms.programs, kernel).arg_names
    wide = {torch.bfloat16: "*bf16:16", torch.float16: "*fp16:16", torch.float32: "*fp32:16"}
    types = dict.fromkeys(("query", "key", "value", "grad", "read"), wide[dtype])
    types |= dict.fromkeys(("of_query", "of_key", "of_value"), wide[dtype])
    counts = ("heads", "ahead", "lanes", "chunks")
    steps = [name for name in names if name.startswith(("stride_", "found_"))]
    types |= dict.fromkeys((*steps, "n"), "i32:16") | dict.fromkeys(counts, "i32")
    signature = {name: types.get(name, "*fp32:16") for name in names if name not in cut}
    return Job("medseg_kernels.mlstm.programs", kernel, signature, cut, capability, warps, stages)


@pytest.mark.parametrize(
    ("dtype", "size", "targets"),
    [
        (torch.bfloat16, 128, (80, 90, 100)),
        (torch.bfloat16, 16, (90,)),
        (torch.float16, 128, (80,)),
        (torch.float32, 128, (90,)),
    ],
    ids=str,
)
def test_every_kernel_is_a_lean_binary(
    dtype: torch.dtype, size: int, targets: tuple[int, ...]
) -> None:
    """A chunk's 64 tokens are what Hopper's and Blackwell's matrix units ask for."""
    jobs = [_job(name, target, dtype, size) for target in targets for name in MATRICES + OTHERS]
    for job, binary in zip(jobs, compiled(jobs), strict=True):
        place = f"{job.kernel} {job.capability} {binary}"
        assert binary.registers <= 255, place
        # Ampere's products need more registers, so `down` parks some numbers there.
        is_tight = (job.kernel, job.capability) == ("down", 80)
        assert binary.stack <= (128 if is_tight else 16), place
        assert binary.shared <= 99 << 10, place
        # Blocks of a memory of 16 x 16 are too small for the newer units.
        is_small = size == 16 and job.kernel in ("writing", "returning")
        unit = TARGETS[80 if is_small else job.capability]
        is_multiplied = job.kernel in MATRICES and dtype != torch.float32
        assert (unit in binary.instructions) == is_multiplied, place


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(
    ("tokens", "size", "direction"),
    [
        *itertools.product((1000,), (8, 20, 32, 64, 96, 128), ("both",)),
        *itertools.product((2, 63, 65), (16,), DIRECTIONS),
    ],
)
def test_on_a_gpu_it_equals_the_parallel_form(
    tokens: int, size: int, direction: str, dtype: torch.dtype
) -> None:
    given = [one.detach().cuda().requires_grad_() for one in drawn(tokens, size=size, dtype=dtype)]
    found = apart(given, direction, backend="triton")
    assert max(found) < TOLERANCE[dtype], found


@pytest.mark.gpu
def test_on_a_gpu_it_is_chosen_and_the_same_every_time_and_when_compiled() -> None:
    given = [
        one.detach().cuda().requires_grad_() for one in drawn(3000, size=64, dtype=torch.bfloat16)
    ]

    def layer(*args: Tensor) -> Tensor:
        return mlstm(*args, direction="halves")

    found = []
    for form in (layer, layer, torch.compile(layer, fullgraph=True)):
        output = form(*given)
        found.append((output, *gradients(output, given)))
    named = mlstm(*given, direction="halves", backend="triton")
    assert torch.equal(named, found[0][0])
    for other in found[1:]:
        assert all(torch.equal(one, two) for one, two in zip(found[0], other, strict=True))


@pytest.mark.gpu
def test_on_a_gpu_a_quarter_of_a_million_tokens_train() -> None:
    """64^3 voxels of 4 heads of 128 channels; what is kept is what README says."""
    n, heads, size = 64**3, 4, 128
    wide = [torch.randn(1, heads, n, size, device="cuda", dtype=torch.bfloat16) for _ in range(3)]
    gate_values = [torch.randn(1, heads, n, device="cuda"), torch.rand(1, heads, n, device="cuda")]
    given = [one.requires_grad_() for one in (*wide, *gate_values)]
    before = torch.cuda.memory_allocated()
    output = mlstm(*given)
    assert torch.cuda.memory_allocated() - before < 1.05 * n * heads * (2 * size + 4)
    assert all(one.isfinite().all() for one in gradients(output, given))
