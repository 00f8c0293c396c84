"""Linear layers in float32: torch's, and the product here, in turn.

python kernels/benchmarks/linear.py [--shapes 110592,48,144 ...]
prints rows of kernels/README.md: billions of operations a second of one thread, torch's and here,
for the rows, their gradient and the weight's; and the largest error of each in any of the three
against double precision, as a part of the largest value.
"""

import argparse
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from machine import machine
from measured import in_turn
from torch import Tensor

from medseg.nn.memory import reused_memory
from medseg_kernels.linear import linear, refuses

# Rows, numbers of a row before and after: of Swin UNETR with 48 features at 96^3.
SHAPES = (
    "110592,48,144", "110592,48,48", "110592,48,192", "110592,192,48", "13824,96,384",
    "13824,384,96", "1728,192,768", "216,384,1536", "884736,96,48", "884736,48,14",
)  # fmt: skip
REPEATS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="+", default=SHAPES)
    shapes = parser.parse_args().shapes
    torch.set_num_threads(1)
    print(machine())
    told = refuses(torch.zeros(1 << 10, 1 << 7), torch.zeros(1 << 7, 1 << 7))
    if told is not None:
        print(f"not measured: {told}")
        return
    columns = "rows | torch | here | gradient: torch | here | of weight: torch | here | errors"
    print(f"| {columns} |")
    print("|---" * len(columns.split("|")) + "|")
    with reused_memory():
        for shape in shapes:
            print(_row(*map(int, shape.split(","))), flush=True)


def _row(rows: int, into: int, out: int) -> str:
    x, weight, gradient = torch.randn(rows, into), torch.randn(out, into), torch.randn(rows, out)
    runs = [partial(linear, backend=backend) for backend in ("torch", "product")]
    leaves = ((x.clone().requires_grad_(), weight), (x, weight.clone().requires_grad_()))
    with torch.no_grad():
        times = in_turn([partial(run, x, weight) for run in runs], repeats=REPEATS)
    for given in leaves:
        times += in_turn([_back(run, *given, gradient) for run in runs], repeats=REPEATS)
    speeds = [f"{2 * rows * into * out / median(one) / 1e6:.0f}" for one in times]
    truths = (x.double() @ weight.double().t(), gradient.double() @ weight.double(),
              gradient.double().t() @ x.double())  # fmt: skip
    errors = []
    for run in runs:
        found = (run(x, weight), *(_back(run, *given, gradient)()[0] for given in leaves))
        apart = (
            (one - truth).abs().max() / truth.abs().max()
            for one, truth in zip(found, truths, strict=True)
        )
        errors.append(f"{max(apart).item():.0e}")
    return f"| {rows} x {into} to {out} | {' | '.join(speeds)} | {', '.join(errors)} |"


def _back(
    run: Callable[[Tensor, Tensor], Tensor], x: Tensor, weight: Tensor, gradient: Tensor
) -> Callable[[], tuple[Tensor, ...]]:
    """The gradient of the one that has it, alone."""
    y, leaf = run(x, weight), x if x.requires_grad else weight
    return lambda: torch.autograd.grad(y, leaf, gradient, retain_graph=True)


if __name__ == "__main__":
    main()
