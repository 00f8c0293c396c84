"""The Triton form against the plain one: in the interpreter, as binaries, and on a GPU."""

import itertools

import pytest
import torch

from medseg_kernels import gpu
from medseg_kernels.pruned_export import (
    export_sums,
    nearest_places,
    pruned_argmax,
    pruned_regions,
    refuses,
)
from medseg_kernels.pruned_export.source import Source
from tests.kernels.binaries import TARGETS, Job, compiled
from tests.kernels.test_pruned_export import blobs, noise, places
from tests.kernels.test_pruned_export_sums import drawn_head, drawn_sums

pytest.importorskip("triton")

MODULE = "medseg_kernels.pruned_export.triton"
KERNELS = ("two_largest", "decide", "mark")
VALUES = (2, 300, 7)
WITHOUT = pytest.mark.skipif(
    torch.cuda.is_available(), reason="the interpreter is for machines without"
)


@WITHOUT
@pytest.mark.parametrize("make", [noise, blobs])
@pytest.mark.parametrize("kind", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    ("source", "target"),
    [
        ((5, 4, 7), (7, 6, 10)),
        ((6, 5, 7), (3, 5, 3)),
        ((5, 4, 3), (5, 4, 3)),
        ((1, 2, 1), (3, 5, 1)),
    ],
)
def test_in_the_interpreter_it_is_the_reference(make, kind, source, target) -> None:
    where = places(source, target)
    for classes in (1, 3, 15):
        logits = make(classes, source).to(kind)
        wanted = pruned_argmax(logits, where, backend="reference")
        assert torch.equal(pruned_argmax(logits, where, backend="triton"), wanted)
    logits = make(3, source).to(kind)
    wanted = pruned_regions(logits, where, VALUES, backend="reference")
    assert torch.equal(pruned_regions(logits, where, VALUES, backend="triton"), wanted)


@WITHOUT
def test_more_classes_than_a_byte_holds_in_the_interpreter() -> None:
    logits, where = noise(260, (2, 3, 4)), places((2, 3, 4), (3, 5, 6))
    wanted = pruned_argmax(logits, where, backend="reference")
    assert wanted.max() > 255
    assert torch.equal(pruned_argmax(logits, where, backend="triton"), wanted)


@WITHOUT
def test_ties_thick_slices_and_strides_in_the_interpreter() -> None:
    logits = blobs(6, (5, 4, 7)).mul(2).round().half().permute(0, 3, 1, 2)
    where = (nearest_places(7, 17), *places((1, 5, 4), (1, 9, 7))[1:])
    wanted = pruned_argmax(logits, where, backend="reference")
    assert torch.equal(pruned_argmax(logits, where, backend="triton"), wanted)


@WITHOUT
def test_the_operator_keeps_the_promises_of_torch_library() -> None:
    where = places((2, 3, 2), (3, 4, 2))
    left, beyond = [place.left for place in where], [place.beyond for place in where]
    given = (noise(3, (2, 3, 2)), None, None, None, left, beyond, [], "triton")
    torch.library.opcheck(torch.ops.medseg.pruned_export.default, given)


@pytest.mark.parametrize(
    ("dtype", "words"),
    [(torch.float64, "no float64"), (torch.float16, "CUDA devices alone")],
)
def test_what_it_cannot_do_it_says(dtype, words) -> None:
    logits = torch.empty((2, 4, 4, 4), dtype=dtype, device="meta")
    assert words in str(refuses("triton", Source(logits)))


def _job(kernel: str, dtype: str, capability: int) -> Job:
    axes = [f"{name}_{axis}" for axis in "ijk" for name in ("left", "beyond", "side")]
    pointers = {name: "*fp32:16" if "beyond" in name else "*i32:16" for name in axes}
    types = pointers | dict.fromkeys((f"side_{axis}" for axis in "ijk"), "i32")
    types |= dict.fromkeys(("classes", "stride", "targets", "count_j", "count_k", "voxels"), "i32")
    types |= {"logits": dtype, "second": "*fp32:16", "winner": "*i32:16", "marks": "*i32:16"}
    types |= {"labels": "*u8:16"}
    wanted = {
        "two_largest": ("logits", "winner", "second", "voxels", "classes", "stride"),
        "decide": [name for name in types if name not in ("marks", "voxels")],
        "mark": [name for name in types if name not in ("winner", "second", "voxels")],
    }
    signature = {name: types[name] for name in wanted[kernel]}
    cut = {"VOXELS": 512 if kernel == "two_largest" else 128}
    return Job(MODULE, kernel, signature, cut, capability, fuses=False)


def test_every_kernel_is_a_lean_binary_on_three_generations_and_fuses_nothing() -> None:
    """A fused product and sum would be another number than the reference's."""
    types = ("*fp32:16", "*bf16:16")
    jobs = [_job(*each) for each in itertools.product(KERNELS, types, TARGETS)]
    for job, binary in zip(jobs, compiled(jobs), strict=True):
        place = f"{job.kernel} {job.signature['logits']} {job.capability} {binary}"
        assert binary.registers <= 96, place
        assert binary.stack == 0, place
        assert any(name.startswith("FMUL") for name in binary.instructions) == (
            job.kernel != "two_largest"
        ), place
        assert not any(name.startswith("FFMA") for name in binary.instructions), place


@pytest.mark.gpu
@pytest.mark.parametrize("make", [noise, blobs])
@pytest.mark.parametrize("kind", [torch.float32, *gpu.HALF])
@pytest.mark.parametrize(
    ("source", "target"),
    [
        ((40, 41, 42), (61, 70, 83)),
        ((40, 41, 42), (21, 30, 13)),
        ((40, 41, 42), (40, 41, 42)),
        ((150, 140, 130), (160, 170, 180)),
    ],
)
def test_on_a_gpu_it_is_the_reference(make, kind, source, target) -> None:
    where = places(source, target)
    logits = make(30, source).to("cuda", kind)
    wanted = pruned_argmax(logits, where, backend="reference")
    assert torch.equal(pruned_argmax(logits, where, backend="triton"), wanted)
    assert torch.equal(pruned_argmax(logits, where), wanted)
    # Not a bit differs from what a CPU gives.
    assert torch.equal(pruned_argmax(logits.cpu(), where), wanted.cpu())
    wanted = pruned_regions(logits[:3], where, VALUES, backend="reference")
    assert torch.equal(pruned_regions(logits[:3], where, VALUES), wanted)


@pytest.mark.gpu
def test_on_a_gpu_sums_give_the_labels_that_a_cpu_gives() -> None:
    sums, counts = drawn_sums(7, (31, 30, 29))
    weight, bias = drawn_head(20, 7)
    where = places((30, 30, 27), (41, 50, 60))
    wanted, largest = export_sums(sums, counts, where, head=(weight, bias))
    found, size = export_sums(sums.cuda(), counts.cuda(), where, head=(weight.cuda(), bias.cuda()))
    assert (found.cpu() != wanted).float().mean() < 1e-4
    torch.testing.assert_close(size.cpu(), largest)


@pytest.mark.gpu
def test_on_a_gpu_it_is_a_node_of_a_compiled_graph() -> None:
    where = places((14, 14, 15), (25, 26, 27))
    logits = blobs(5, (14, 14, 15)).cuda()
    compiled_form = torch.compile(lambda x: pruned_argmax(x.tanh(), where) + 1, fullgraph=True)
    assert torch.equal(compiled_form(logits), pruned_argmax(logits.tanh(), where) + 1)
