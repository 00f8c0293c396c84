"""The mLSTM cell: time and memory of the chunkwise form against the parallel one.

python kernels/benchmarks/mlstm.py [--tokens 4096] [--size 128] [--chunks 64 128 256] [--threads 1]
prints rows of kernels/README.md. Differences are against the parallel form in double precision.
"""

import argparse
from collections.abc import Callable
from functools import partial

import torch
from machine import machine
from measured import kept, seconds
from torch import Tensor

from medseg_kernels.mlstm import mlstm

HEADS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--chunks", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    given = _given(options.tokens, options.size)
    with torch.no_grad():
        exact = mlstm(*(one.double() for one in given), form="parallel")
    print(machine())
    print("| form | forward | forward + backward | kept | largest difference |")
    print("|---|---|---|---|---|")
    forms = {f"chunks of {chunk}": partial(mlstm, chunk=chunk) for chunk in options.chunks}
    for name, form in {"parallel": partial(mlstm, form="parallel"), **forms}.items():
        times = [f"{seconds(partial(run, form, given)):.2f} s" for run in (_forward, _train)]
        with torch.no_grad():
            difference = (form(*given) - exact).abs().max().item()
        row = [
            name,
            *times,
            f"{kept(partial(_output, form, given)) / 2**20:.0f} MiB",
            f"{difference:.0e}",
        ]
        print("| " + " | ".join(row) + " |", flush=True)


def _given(tokens: int, size: int) -> list[Tensor]:
    """Unit noise, and gates as a fresh Vision-LSTM layer has them."""
    torch.manual_seed(0)
    wide = [torch.randn(1, HEADS, tokens, size) for _ in range(3)]
    forget = torch.linspace(3, 6, HEADS)[:, None] + 0.1 * torch.randn(1, HEADS, tokens)
    return [*wide, 0.1 * torch.randn(1, HEADS, tokens), forget]


def _forward(form: Callable[..., Tensor], given: list[Tensor]) -> None:
    with torch.no_grad():
        form(*given)


def _train(form: Callable[..., Tensor], given: list[Tensor]) -> None:
    _output(form, given).sum().backward()


def _output(form: Callable[..., Tensor], given: list[Tensor]) -> Tensor:
    return form(*(one.detach().requires_grad_() for one in given))


if __name__ == "__main__":
    main()
