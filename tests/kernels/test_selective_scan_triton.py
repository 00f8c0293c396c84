"""The Triton form of the selective scan: in the interpreter, as binaries, and on a GPU."""

import importlib

import pytest
import torch
from torch import Tensor

from medseg_kernels.selective_scan import refuses, selective_scan
from tests.kernels.binaries import TARGETS, Job, compiled
from tests.kernels.test_selective_scan import NAMES, differences, drawn, gradients

interpreted = pytest.mark.skipif(
    torch.cuda.is_available(), reason="the interpreter is for machines without a GPU"
)
MODULE = "medseg_kernels.selective_scan.triton"
KERNELS = ("gather", "join", "scan", "down")
TOLERANCE = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 6e-3}


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
    ("tokens", "channels", "states"), [(2, 3, 2), (16, 1, 3), (37, 5, 2), (50, 3, 1)]
)
def test_in_the_interpreter_it_equals_the_recurrence(
    tokens: int, channels: int, states: int, dtype: torch.dtype
) -> None:
    given = drawn(tokens, channels=channels, states=states, dtype=dtype)
    given["step"] = given["step"].detach().mT.contiguous().mT.requires_grad_()
    found = differences(given, backend="triton", block=16)
    assert len(found) == 7
    # A single channel's skip is one number, whose sum may cancel.
    assert max(found.values()) < 3 * TOLERANCE[dtype], found


@interpreted
def test_channels_that_do_not_fit_a_program_have_shares_that_are_added(monkeypatch) -> None:
    forms = importlib.import_module(MODULE)
    monkeypatch.setattr(forms, "_NUMBERS", 32)
    found = differences(
        drawn(20, channels=5, states=2, dtype=torch.float32), backend="triton", block=16
    )
    assert max(found.values()) < TOLERANCE[torch.float32], found


@interpreted
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_the_operators_keep_the_promises_of_torch_library() -> None:
    given = drawn(9, items=1, channels=2, states=1, dtype=torch.float32)
    checks = ("test_schema", "test_faketensor", "test_autograd_registration")
    operator = torch.ops.medseg.selective_scan.default
    torch.library.opcheck(operator, (*given.values(), 16, "triton"), test_utils=checks)


def test_what_it_cannot_do_it_says() -> None:
    x = torch.empty(1, 2, 3, device="meta")
    assert "CUDA devices alone" in str(refuses(x, backend="triton"))
    assert "no float64" in str(refuses(x.double(), backend="triton"))
    assert "not 2048" in str(refuses(x, backend="triton", block=2048))


def _job(kernel: str, capability: int) -> Job:
    """The kernel as a call of Mamba compiles it: bfloat16, but for steps and decay; 16 states."""
    forms = importlib.import_module(MODULE)
    cut = forms.join_shape(16) if kernel == "join" else forms.shape(256, 16, block=256)
    cut |= {"BACKWARD": True} if kernel in ("gather", "join") else {}
    warps = cut.pop("num_warps")
    names = getattr(forms, kernel).arg_names
    # Tokens lie side by side, but for the steps and for what writes and reads.
    side_by_side = ("x_n", "result_n", "grad_n", "of_x_n", "value_n", "step_d", "of_step_d")
    cut |= dict.fromkeys((*side_by_side, "write_s", "read_s", "rows_s", "decay_s"), 1)
    half = ("x", "write", "read", "result", "grad", "of_x", "value", "rows")
    types = dict.fromkeys(half, "*bf16:16") | {"blocks": "i32"}
    steps = [name for name in names if name[-2:] in ("_b", "_d", "_n", "_s")]
    types |= dict.fromkeys((*steps, "d", "n", "size"), "i32:16")
    signature = {name: types.get(name, "*fp32:16") for name in names if name not in cut}
    constants = {name: value for name, value in cut.items() if name in names}
    return Job(MODULE, kernel, signature, constants, capability, warps)


def test_every_kernel_is_a_lean_binary_on_three_generations() -> None:
    """What no matrix unit can do is done in registers: nothing goes to the stack."""
    jobs = [_job(kernel, target) for kernel in KERNELS for target in TARGETS]
    for job, binary in zip(jobs, compiled(jobs), strict=True):
        place = f"{job.kernel} {job.capability} {binary}"
        assert binary.registers <= (255 if job.kernel == "down" else 168), place
        assert binary.stack <= 16, place
        assert binary.shared <= 16 << 10, place
        assert "MUFU" in binary.instructions, place  # the exponential
        assert not {*TARGETS.values()} & set(binary.instructions), place


def _on_gpu(given: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: one.detach().cuda().requires_grad_() for name, one in given.items()}


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(
    ("tokens", "channels", "states"),
    [(2, 3, 2), (63, 5, 4), (256, 16, 16), (257, 33, 16), (1000, 40, 7)],
)
def test_on_a_gpu_it_equals_the_recurrence(
    tokens: int, channels: int, states: int, dtype: torch.dtype
) -> None:
    given = _on_gpu(drawn(tokens, channels=channels, states=states, dtype=dtype))
    found = differences(given, backend="triton")
    assert max(found.values()) < 3 * TOLERANCE[dtype], found


@pytest.mark.gpu
def test_on_a_gpu_it_is_chosen_and_the_same_every_time_and_when_compiled() -> None:
    given = _on_gpu(drawn(3000, channels=100, states=16, dtype=torch.bfloat16))

    def layer(*args: Tensor) -> Tensor:
        return selective_scan(**dict(zip(NAMES, args, strict=True)))

    found = []
    for form in (layer, layer, torch.compile(layer, fullgraph=True)):
        output = form(*given.values())
        found.append((output, *gradients(output, given)))
    assert torch.equal(selective_scan(**given, backend="triton"), found[0][0])
    for other in found[1:]:
        assert all(torch.equal(one, two) for one, two in zip(found[0], other, strict=True))
