"""The sums as a Triton kernel: a program adds a block of voxels and channels.

Each sum is written by one program, so the result is the same every time; products and sums must not
be fused, so that it is the reference's.
"""

# Capitals mark what a kernel is compiled for; Triton gives its arguments their types.
# ruff: noqa: ANN001, ANN201, N803

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

# Numbers of a program; its channels, and those where channels follow each other in memory.
NUMBERS, CHANNELS, CHANNELS_LAST = 1024, 4, 32
OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}


def add_window(
    sums: Tensor,  # (f, i, j, k)
    counts: Tensor,  # (i, j, k)
    features: Tensor,  # (f, i, j, k)
    weight: Tensor,  # (i, j, k) float32
) -> None:
    """Not a bit differs from the reference."""
    channels, i, j, k = sums.shape
    arrays: list[Any] = [
        argument for x in (sums, counts, features, weight) for argument in (x, *x.stride())
    ]
    size: dict[str, Any] = {"channels": channels, "voxels": i * j * k, "side_j": j, "side_k": k}
    most = CHANNELS_LAST if sums.stride(0) == 1 else CHANNELS
    together = min(most, triton.next_power_of_2(channels))
    cut: dict[str, Any] = {"VOXELS": NUMBERS // together, "CHANNELS": together, **OPTIONS}
    grid = (triton.cdiv(i * j * k, cut["VOXELS"]), triton.cdiv(channels, together))
    with torch.cuda.device_of(sums):
        add[grid](*arrays, **size, **cut)


@triton.jit
def add(
    sums,
    sums_f,
    sums_i,
    sums_j,
    sums_k,
    counts,
    counts_i,
    counts_j,
    counts_k,
    features,
    features_f,
    features_i,
    features_j,
    features_k,
    weight,
    weight_i,
    weight_j,
    weight_k,
    channels,
    voxels,
    side_j,
    side_k,
    VOXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Arrays are (f, i, j, k) or (i, j, k), each with its strides."""
    voxel = tl.program_id(0) * VOXELS + tl.arange(0, VOXELS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = voxel < voxels
    row, k = voxel // side_k, voxel % side_k
    i, j = row // side_j, row % side_j
    share = tl.load(weight + i * weight_i + j * weight_j + k * weight_k, inside, other=0.0)
    if tl.program_id(1) == 0:
        at = counts + i * counts_i + j * counts_j + k * counts_k
        count = tl.load(at, inside, other=0.0).to(tl.float32) + share
        tl.store(at, count.to(counts.dtype.element_ty), inside)
    here = inside[:, None] & (channel < channels)[None, :]
    of_channel = channel.to(tl.int64)[None, :]
    source = features + (i * features_i + j * features_j + k * features_k)[:, None]
    value = tl.load(source + of_channel * features_f, here, other=0.0).to(tl.float32)
    target = sums + (i * sums_i + j * sums_j + k * sums_k)[:, None] + of_channel * sums_f
    total = tl.load(target, here, other=0.0).to(tl.float32) + value * share[:, None]
    tl.store(target, total.to(sums.dtype.element_ty), here)
