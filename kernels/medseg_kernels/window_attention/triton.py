"""Attention inside groups on a CUDA device: how the programs of `programs.py` are started.

A head of 16 channels costs more in exponentials and position biases than in products of matrices,
so a program takes the same rows of two groups and reads their common tile of biases once. Sums
over groups are made in a fixed order: each program adds up its share, then the shares are added.
"""

import math
from typing import Any

import torch
import triton
from torch import Tensor
from torch.nn import functional

from medseg_kernels.window_attention import programs
from medseg_kernels.window_attention.plan import center, plan
from medseg_kernels.window_attention.request import Request
from medseg_kernels.window_attention.table import within

# Programs that keep a large GPU busy: 132 multiprocessors with three at a time, and some rounds.
_PROGRAMS = 1024


def forward(
    qkv: Tensor, table: Tensor | None, padding: Tensor | None, *, request: Request
) -> tuple[Tensor, Tensor]:
    """The attended tokens (b, i, j, k, c) and log2 of the sums of 2^score (b, groups, heads, n)."""
    call = _Call(qkv, table, padding, request)
    out = qkv.new_empty((*qkv.shape[:-1], qkv.shape[-1] // 3))
    sums = qkv.new_empty((len(qkv), call.groups, request.heads, call.n), dtype=torch.float32)
    call.run(programs.attend, out, sums)
    return out, sums


def backward(
    grad: Tensor,
    out: Tensor,
    sums: Tensor,
    qkv: Tensor,
    table: Tensor | None,
    padding: Tensor | None,
    *,
    request: Request,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of qkv, table and padding; empty where there is no such tensor."""
    call = _Call(qkv, table, padding, request)
    down, dots = qkv.new_empty(qkv.shape), torch.empty_like(sums)
    known = (grad.contiguous(), sums, dots)
    call.run(programs.down_queries, *known, out.contiguous(), down)
    hollow = sums.new_empty((0 if call.filling is None else call.grid()[0], 2, call.size))
    call.run(programs.down_keys, *known, down, hollow)
    of_table = sums.new_empty(0) if table is None else _down_table(call, *known)
    return down, of_table, _down_padding(call, hollow, padding)


def _down_table(call: "_Call", grad: Tensor, sums: Tensor, dots: Tensor) -> Tensor:
    """Programs add up their share of the groups; then the shares, then pairs of one offset."""
    cut, heads, n = call.cut("down_table"), call.request.heads, call.n
    tiles = heads * triton.cdiv(n, cut["ROWS"]) * triton.cdiv(n, cut["COLUMNS"])
    shares = min(call.items, triton.cdiv(_PROGRAMS, tiles))
    partial = sums.new_empty((shares, heads, n, n))
    i, j, k = window = call.request.numbering(call.extents)
    entries = sums.new_empty((heads, *(2 * side - 1 for side in window)))
    with torch.cuda.device_of(sums):
        programs.down_table[(tiles * shares,)](
            *call.given, grad, sums, dots, partial, *call.numbers, shares, **cut
        )
        programs.sum_offsets[(heads * (2 * i - 1) * (2 * j - 1),)](
            partial.sum(0), entries, n, *window, **offset_shape(k)
        )
    return within(entries, call.extents)


def _down_padding(call: "_Call", hollow: Tensor, padding: Tensor | None) -> Tensor:
    """What the keys and values of padding gain; nobody reads what its queries attend to."""
    if padding is None or call.filling is None:
        return hollow.new_zeros(0 if padding is None else padding.shape)
    by_head = hollow.unflatten(0, (-1, call.request.heads, call.blocks)).sum((0, 2))
    return functional.pad(by_head, (0, 0, 1, 0)).transpose(0, 1).flatten()


class _Call:
    """What all kernels of a call are given, and how their work is cut."""

    def __init__(
        self, qkv: Tensor, table: Tensor | None, padding: Tensor | None, request: Request
    ) -> None:
        size = (qkv.shape[1], qkv.shape[2], qkv.shape[3])
        self.request, self.n, self.dtype = request, request.tokens, qkv.dtype
        self.channels = qkv.shape[-1] // 3
        self.size, self.extents = self.channels // request.heads, request.extents(table)
        where = plan(size, request, self.extents, masked=padding is None, device=qkv.device)
        self.groups = len(where.groups)
        self.items = len(qkv) * self.groups
        self.filling = None
        if padding is not None and request.padded(size) != size:
            self.filling = padding.detach().to(qkv.dtype).contiguous()
        columns = None if table is None else _columns(table)
        self.given = (qkv.contiguous(), columns, self.filling, where.tokens, where.groups)
        entries = 0 if columns is None else columns.shape[1]
        self.numbers = (
            *(self.items, self.groups, self.n, where.tokens.shape[1], math.prod(size)),
            *(where.wrap, entries, center(self.extents), self.size**-0.5),
        )

    def run(self, kernel: Any, *tensors: Tensor) -> None:
        """Start a kernel whose programs share the rows of the groups."""
        cut = self.cut(kernel.__name__)
        with torch.cuda.device_of(tensors[0]):
            kernel[self.grid()](*self.given, *tensors, *self.numbers, GROUPS=self.together, **cut)

    def grid(self) -> tuple[int]:
        """One program for every block of rows of every head of every few groups."""
        sets = triton.cdiv(self.items, self.together)
        return (sets * self.request.heads * self.blocks,)

    @property
    def blocks(self) -> int:
        """Blocks of rows of a group."""
        return triton.cdiv(self.n, self.cut("attend")["ROWS"])

    @property
    def together(self) -> int:
        """How many groups a program takes: two, as long as a GPU is kept busy."""
        most = 2 if _weight(self.size, self.dtype) <= 32 else 1
        alone = self.items * self.request.heads * self.blocks
        return most if alone >= most * _PROGRAMS else 1

    def cut(self, kernel: str) -> dict[str, Any]:
        """How a kernel's work is cut into programs."""
        return {"C": self.channels, **shape(kernel, self.size, self.n, self.dtype)}


def _columns(table: Tensor) -> Tensor:
    """A head's biases times log2(e), side by side, and then what a key beyond the group finds."""
    columns = table.detach().flatten(0, 2).t().float() * programs.LOG2_E.value
    middle = len(table.flatten(0, 2)) // 2
    return functional.pad(columns, (0, middle + 1), value=programs.NEVER.value)


def shape(kernel: str, size: int, n: int, dtype: torch.dtype) -> dict[str, Any]:
    """Tiles for groups of n tokens with heads of `size` channels, so large as registers allow.

    64 rows are what a Hopper's matrix unit multiplies at once. More columns spread the work of
    finding rows over more pairs, but the tiles of scores and of biases and the sums of a program
    have to fit the 255 registers of a thread (168, so that three programs share a
    multiprocessor, where the heads are small); `tests/kernels` compiles all of these.
    """
    weight, most = _weight(size, dtype), max(16, triton.next_power_of_2(n))
    if kernel == "down_table":
        columns = 64 if weight == 16 else 32 if weight <= 128 else 16
    else:
        columns = 32 if weight <= (64 if kernel == "down_keys" else 128) else 16
    rows = min(64, most)
    return {
        "E": size,
        "PADDED": max(16, triton.next_power_of_2(size)),
        "ROWS": rows,
        "COLUMNS": min(columns, most),
        "num_warps": rows // 16,
        "num_stages": 2 if weight <= 128 else 1,
        "maxnreg": 168 if weight == 16 and kernel != "down_table" else None,
    }


def offset_shape(window_k: int) -> dict[str, Any]:
    """The tile of `sum_offsets`: a thousand numbers, eight for each of 128 threads."""
    entries = triton.next_power_of_2(2 * window_k - 1)
    return {"PAIRS": max(1, 1024 // entries), "ENTRIES": entries, "num_warps": 4}


def _weight(size: int, dtype: torch.dtype) -> int:
    """Registers of a row of channels: a float32 is multiplied as two halves, kept beside it."""
    return max(16, triton.next_power_of_2(size)) * (4 if dtype == torch.float32 else 1)
