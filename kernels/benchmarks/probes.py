"""What a CUDA device reaches at best: bytes copied, products of matrices, exponentials."""

from functools import partial
from statistics import median

import torch
import triton
import triton.language as tl
from expected import Work
from measured import in_turn
from torch import Tensor

_TIMES = 512


def rates() -> Work:
    """What the present CUDA device does in a second, in bfloat16, at large sizes."""
    source = torch.empty(2**29, dtype=torch.bfloat16, device="cuda").normal_()
    target, matrix = torch.empty_like(source), source[: 2**26].view(8192, 8192)
    numbers = torch.rand(2**20, device="cuda")
    calls = [
        partial(target.copy_, source),
        partial(torch.matmul, matrix, matrix),
        partial(_powers, numbers, torch.empty_like(numbers)),
    ]
    copy, product, powers = (median(t) / 1e3 for t in in_turn(calls, repeats=9, device="cuda"))
    return Work(
        bytes=2 * source.nbytes / copy,
        flops=2 * 8192**3 / product,
        exponentials=_TIMES * numbers.numel() / powers,
    )


def _powers(numbers: Tensor, out: Tensor) -> None:
    _repeated_powers[(numbers.numel() // 1024,)](numbers, out, TIMES=_TIMES)


@triton.jit
def _repeated_powers(numbers, out, TIMES: tl.constexpr):  # noqa: N803
    """2^-x of a number, of the result, and so on: nothing but exponentials."""
    lane = tl.program_id(0) * 1024 + tl.arange(0, 1024)
    power = tl.load(numbers + lane)
    for _ in range(TIMES):
        power = tl.exp2(-power)
    tl.store(out + lane, power)
