"""The Triton form against the plain one: in the interpreter, as binaries, and on a GPU."""

import itertools

import pytest
import torch

from medseg_kernels import gpu
from medseg_kernels.window_sum import add_window, refuses
from tests.kernels.binaries import TARGETS, Job, compiled
from tests.kernels.test_window_sum import added, drawn

pytest.importorskip("triton")

MODULE = "medseg_kernels.window_sum.triton"
# Voxels and channels of a program, and the strides of 1: channels first, and last.
LAYOUTS = [
    (256, 4, ["sums_k", "features_k", "counts_k", "weight_k"]),
    (32, 32, ["sums_f", "features_f", "counts_k", "weight_k"]),
]
INTERPRETED = [torch.float32, torch.float16]
WITHOUT = pytest.mark.skipif(
    torch.cuda.is_available(), reason="the interpreter is for machines without"
)


@WITHOUT
@pytest.mark.parametrize("of_sums", INTERPRETED)
@pytest.mark.parametrize("of_features", INTERPRETED)
@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
def test_in_the_interpreter_it_is_the_reference_to_the_bit(of_sums, of_features, last) -> None:
    sums = drawn((37, 4, 5, 9), last=last, dtype=of_sums)
    features = drawn((37, 2, 3, 6), last=last, dtype=of_features)
    given = sums, torch.rand(4, 5, 9).to(of_sums), features, torch.rand(2, 3, 6)
    for found, wanted in zip(added("triton", *given), added("reference", *given), strict=True):
        assert torch.equal(found, wanted)


@WITHOUT
def test_the_operator_keeps_the_promises_of_torch_library() -> None:
    given = drawn((3, 2, 3, 4)), torch.rand(2, 3, 4), drawn((3, 2, 3, 4)), torch.rand(2, 3, 4)
    torch.library.opcheck(torch.ops.medseg.add_window.default, (*given, "triton"))


@pytest.mark.parametrize(
    ("shape", "dtype", "words"),
    [
        ((1, 2048, 2048, 512), torch.float32, "in 32 bits"),
        ((2, 4, 4, 4), torch.float64, "no float64"),
        ((2, 4, 4, 4), torch.float16, "CUDA devices alone"),
    ],
)
def test_what_it_cannot_do_it_says(shape, dtype, words) -> None:
    sums = torch.empty(shape, dtype=dtype, device="meta")
    assert words in str(refuses("triton", sums, sums))


def test_it_is_a_lean_binary_on_three_generations_and_fuses_nothing() -> None:
    strides = [f"{name}_{axis}" for name in ("sums", "features") for axis in "fijk"]
    strides += [f"{name}_{axis}" for name in ("counts", "weight") for axis in "ijk"]
    sizes = ["channels", "voxels", "side_j", "side_k"]
    types = {"sums": "*fp32:16", "counts": "*fp32:16", "features": "*bf16:16", "weight": "*fp32:16"}
    types |= dict.fromkeys([*strides, *sizes], "i32")
    jobs = []
    for target, (voxels, channels, follow) in itertools.product(TARGETS, LAYOUTS):
        # Of what follows in memory a call knows that it does.
        constants = {"VOXELS": voxels, "CHANNELS": channels} | dict.fromkeys(follow, 1)
        given = {name: kind for name, kind in types.items() if name not in constants}
        jobs.append(Job(MODULE, "add", given, constants, target, fuses=False))
    for job, binary in zip(jobs, compiled(jobs), strict=True):
        assert binary.registers <= 80, (job.capability, binary)
        assert binary.stack == 0, (job.capability, binary)
        assert "FMUL" in " ".join(binary.instructions), binary
        assert not any(name.startswith("FFMA") for name in binary.instructions), binary


@pytest.mark.gpu
@pytest.mark.parametrize("of_sums", [torch.float32, *gpu.HALF])
@pytest.mark.parametrize("of_features", [torch.float32, *gpu.HALF])
@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
def test_on_a_gpu_it_is_the_reference_to_the_bit(of_sums, of_features, last) -> None:
    sums = drawn((40, 65, 66, 70), last=last, dtype=of_sums).cuda()
    features = drawn((40, 63, 64, 67), last=last, dtype=of_features).cuda()
    given = sums, torch.rand(65, 66, 70).to(of_sums).cuda(), features, torch.rand(63, 64, 67).cuda()
    wanted = added("reference", *given)
    for backend in ("triton", None):
        for found, right in zip(added(backend, *given), wanted, strict=True):
            assert torch.equal(found, right)


@pytest.mark.gpu
def test_on_a_gpu_it_is_a_node_of_a_compiled_graph() -> None:
    given = drawn((3, 4, 5, 6)), torch.rand(4, 5, 6), drawn((3, 4, 5, 6)), torch.rand(4, 5, 6)
    given = tuple(x.cuda() for x in given)

    def mean(sums, counts, features, weight):
        add_window(sums, counts, features, weight)
        return sums / counts

    wanted = mean(*(x.clone() for x in given))
    torch.testing.assert_close(torch.compile(mean, fullgraph=True)(*given), wanted)
