"""The pruned form as Triton kernels: one finds the winners of the source, one decides the target.

A program holds a row of voxels. Of the target's it looks at the winners of the eight corners, at
the logits where those differ, and at all classes where a class may rise between them. Numbers are
float32 and mixed as the reference does, so multiplications and additions must not be fused.
"""

# Capitals mark what a kernel is compiled for; Triton gives its arguments their types.
# ruff: noqa: ANN001, ANN201, ANN202, N803

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from medseg_kernels import gpu
from medseg_kernels.pruned_export import reference
from medseg_kernels.pruned_export.blocks import Block, blocks
from medseg_kernels.pruned_export.places import Places
from medseg_kernels.pruned_export.source import Source

TYPES = (torch.float32, *gpu.HALF)
# How kernels are compiled, and voxels of a program: of the source, and of the target.
OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}
SOURCE, TARGET = {"VOXELS": 512, **OPTIONS}, {"VOXELS": 128, **OPTIONS}


def argmax(source: Source, places: tuple[Places, Places, Places]) -> Tensor:  # (a, b, c)
    """The first class of the largest interpolated logit."""
    labels = reference.empty_labels(source.values, places, source.classes)
    for block in blocks(source, places, types=TYPES):
        classes, voxels = len(block.logits), block.logits[0].numel()
        winner = labels.new_empty(voxels, dtype=torch.int32)
        second = winner.new_empty(voxels, dtype=torch.float32)
        of_class = {"classes": classes, "stride": block.stride}
        with torch.cuda.device_of(labels):
            flat = block.flat[block.origin :]
            grid = _grid(voxels, SOURCE)
            two_largest[grid](flat, winner, second, voxels, **of_class, **SOURCE)
            part = labels[block.rows]
            given, grid = _cells(block, part), _grid(part.numel(), TARGET)
            decide[grid](flat, winner, second, part, **of_class, **given, **TARGET)
    return labels


def regions(
    source: Source, places: tuple[Places, Places, Places], values: Sequence[int]
) -> Tensor:  # (a, b, c)
    """The value of the last region whose interpolated logit is above 0; 0 where none is."""
    labels = reference.empty_labels(source.values, places, max(values) + 1)
    marks = torch.tensor(values, dtype=torch.int32, device=labels.device)
    for block in blocks(source, places, types=TYPES):
        part = labels[block.rows]
        of_class = {"classes": len(values), "stride": block.stride}
        with torch.cuda.device_of(labels):
            flat, given = block.flat[block.origin :], _cells(block, part)
            grid = _grid(part.numel(), TARGET)
            mark[grid](flat, marks, part, **of_class, **given, **TARGET)
    return labels


def _grid(voxels: int, cut: dict[str, Any]) -> tuple[int]:
    return (triton.cdiv(voxels, cut["VOXELS"]),)


def _cells(block: Block, labels: Tensor) -> dict[str, Any]:
    """Where the target voxels lie between those of the source, in the names of the kernels."""
    given: dict[str, Any] = {"targets": labels.numel()}
    for name, place, side, count in zip(
        "ijk", block.places, block.logits.shape[1:], labels.shape, strict=True
    ):
        given |= {f"left_{name}": place.left.int(), f"beyond_{name}": place.beyond.contiguous()}
        given |= {f"side_{name}": side} | ({} if name == "i" else {f"count_{name}": count})
    return given


@triton.jit
def two_largest(
    logits,  # (classes, n), `stride` apart
    winner,  # (n,)
    second,  # (n,)
    voxels,
    classes,
    stride,
    VOXELS: tl.constexpr,
):
    """The first of the largest class of each source voxel, and the second largest logit."""
    place = tl.program_id(0) * VOXELS + tl.arange(0, VOXELS)
    inside = place < voxels
    logits += place
    best = tl.load(logits, inside, other=0.0).to(tl.float32)
    lesser = tl.full([VOXELS], -float("inf"), tl.float32)
    first = tl.zeros([VOXELS], tl.int32)
    for index in range(1, classes):
        logits += stride
        value = tl.load(logits, inside, other=0.0).to(tl.float32)
        wins = value > best
        lesser = tl.maximum(lesser, tl.where(wins, best, value))
        first = tl.where(wins, index, first)
        best = tl.where(wins, value, best)
    tl.store(winner + place, first, inside)
    tl.store(second + place, lesser, inside)


@triton.jit
def decide(
    logits,  # (classes, i, j, k), `stride` apart
    winner,  # (i, j, k)
    second,  # (i, j, k)
    labels,  # (targets,)
    classes,
    stride,
    targets,
    left_i,
    beyond_i,
    side_i,
    left_j,
    beyond_j,
    side_j,
    count_j,
    left_k,
    beyond_k,
    side_k,
    count_k,
    VOXELS: tl.constexpr,
):
    """The largest class of each target voxel."""
    place, inside, a, b, c = _targets(targets, count_j, count_k, VOXELS)
    i, next_i, along_i = _ends(left_i, beyond_i, side_i, a, inside)
    j, next_j, along_j = _ends(left_j, beyond_j, side_j, b, inside)
    k, next_k, along_k = _ends(left_k, beyond_k, side_k, c, inside)
    corners = _corners(i, next_i, j, next_j, k, next_k, side_j, side_k)
    best = tl.load(winner + corners[0], inside, other=0)
    other = tl.zeros([VOXELS], tl.int1)
    for corner in tl.static_range(1, 8):  # pyright: ignore[reportGeneralTypeIssues]
        other |= tl.load(winner + corners[corner], inside, other=0) != best
    if tl.sum(other.to(tl.int32)) != 0:
        value = _mix(logits + best.to(tl.int64) * stride, corners, along_i, along_j, along_k, other)
        for corner in tl.static_range(1, 8):  # pyright: ignore[reportGeneralTypeIssues]
            found = tl.load(winner + corners[corner], other, other=0)
            mixed = _mix(
                logits + found.to(tl.int64) * stride, corners, along_i, along_j, along_k, other
            )
            wins = (mixed > value) | ((mixed == value) & (found < best))
            best, value = tl.where(other & wins, found, best), tl.where(wins, mixed, value)
        bound = _mix(second, corners, along_i, along_j, along_k, other)
        other &= value <= bound
    if tl.sum(other.to(tl.int32)) != 0:
        best = tl.where(other, 0, best)
        value = tl.full([VOXELS], -float("inf"), tl.float32)
        for index in range(classes):
            mixed = _mix(logits, corners, along_i, along_j, along_k, other)
            wins = mixed > value
            best, value = tl.where(other & wins, index, best), tl.where(wins, mixed, value)
            logits += stride
    tl.store(labels + place, best.to(labels.dtype.element_ty), inside)


@triton.jit
def mark(
    logits,  # (classes, i, j, k), `stride` apart
    marks,  # (classes,)
    labels,  # (targets,)
    classes,
    stride,
    targets,
    left_i,
    beyond_i,
    side_i,
    left_j,
    beyond_j,
    side_j,
    count_j,
    left_k,
    beyond_k,
    side_k,
    count_k,
    VOXELS: tl.constexpr,
):
    """The mark of the last class above 0 at each target voxel."""
    place, inside, a, b, c = _targets(targets, count_j, count_k, VOXELS)
    i, next_i, along_i = _ends(left_i, beyond_i, side_i, a, inside)
    j, next_j, along_j = _ends(left_j, beyond_j, side_j, b, inside)
    k, next_k, along_k = _ends(left_k, beyond_k, side_k, c, inside)
    corners = _corners(i, next_i, j, next_j, k, next_k, side_j, side_k)
    label = tl.zeros([VOXELS], tl.int32)
    for index in range(classes):
        mixed = _mix(logits, corners, along_i, along_j, along_k, inside)
        label = tl.where(mixed > 0, tl.load(marks + index), label)
        logits += stride
    tl.store(labels + place, label.to(labels.dtype.element_ty), inside)


@triton.jit
def _targets(targets, count_j, count_k, VOXELS: tl.constexpr):
    """The program's target voxels: numbers, which there are, and places along i, j and k."""
    place = tl.program_id(0) * VOXELS + tl.arange(0, VOXELS)
    row = place // count_k
    return place, place < targets, row // count_j, row % count_j, place % count_k


@triton.jit
def _ends(left, beyond, side, place, inside):
    """The source voxels around target voxels of an axis, and how far beyond the first they lie."""
    first = tl.load(left + place, inside, other=0)
    share = tl.load(beyond + place, inside, other=0.0)
    return first, tl.where((share > 0) & (first < side - 1), first + 1, first), share


@triton.jit
def _corners(i, next_i, j, next_j, k, next_k, side_j, side_k):
    """The source voxels at the corners of each cell: the two along k of a row stand together."""
    row, row_j = (i * side_j + j) * side_k, (i * side_j + next_j) * side_k
    row_i, row_ij = (next_i * side_j + j) * side_k, (next_i * side_j + next_j) * side_k
    near, far = (row + k, row + next_k), (row_j + k, row_j + next_k)
    beyond, last = (row_i + k, row_i + next_k), (row_ij + k, row_ij + next_k)
    return near[0], near[1], far[0], far[1], beyond[0], beyond[1], last[0], last[1]


@triton.jit
def _mix(values, corners, along_i, along_j, along_k, wanted):
    """What lies at the corners, mixed along k, then j, then i."""
    near = _between(
        _row(values, corners[0], corners[1], along_k, wanted),
        _row(values, corners[2], corners[3], along_k, wanted),
        along_j,
    )
    far = _between(
        _row(values, corners[4], corners[5], along_k, wanted),
        _row(values, corners[6], corners[7], along_k, wanted),
        along_j,
    )
    return _between(near, far, along_i)


@triton.jit
def _row(values, near, far, along, wanted):
    first = tl.load(values + near, wanted, other=0.0).to(tl.float32)
    return _between(first, tl.load(values + far, wanted, other=0.0).to(tl.float32), along)


@triton.jit
def _between(near, far, share):
    return near * (1.0 - share) + far * share
