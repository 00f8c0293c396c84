"""Linear layers in float32: torch's, and the product here, in turn.

python kernels/benchmarks/linear.py [--shapes 110592,48,144 ...]
prints rows of kernels/README.md: billions of operations a second of one thread, torch's and here,
for the rows, their gradient and the weight's; and the largest error of each in any of the three
against double precision, as a part of the largest value. A second table has the layers behind a
norm or a GELU: all of torch's, torch's step and the product here, and both in one.
"""

import argparse
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from machine import machine
from measured import in_turn, ratio
from torch import Tensor

from medseg.nn.memory import reused_memory
from medseg_kernels.linear import Norm, linear, refuses
from medseg_kernels.linear.step import Step

# Rows, numbers of a row before and after: of Swin UNETR with 48 features at 96^3, and of SAM.
SHAPES = (
    "110592,48,144", "110592,48,48", "110592,48,192", "110592,192,48", "13824,96,384",
    "13824,384,96", "1728,192,768", "216,384,1536", "884736,96,48", "884736,48,14",
    "4096,768,3072", "4096,3072,768",
)  # fmt: skip
# As above, and what stands before.
STEPS = (
    "110592,48,144,norm", "110592,192,48,gelu", "13824,96,384,norm", "13824,384,96,gelu",
    "1728,192,768,norm", "1728,768,192,gelu", "884736,48,14,norm",
)  # fmt: skip
REPEATS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="+", default=SHAPES)
    parser.add_argument("--steps", nargs="+", default=STEPS)
    options = parser.parse_args()
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
        for shape in options.shapes:
            print(_row(*map(int, shape.split(","))), flush=True)
        columns = "rows | torch | product | one | ratios | with gradients: torch | product | one"
        print(f"\n| {columns} | ratios |")
        print("|---" * (len(columns.split("|")) + 1) + "|")
        for shape in options.steps:
            *sizes, step = shape.split(",")
            print(_step_row(*map(int, sizes), step), flush=True)


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


def _step_row(rows: int, into: int, out: int, step: str) -> str:
    x, gradient = torch.randn(rows, into, requires_grad=True), torch.randn(rows, out)
    weight, bias = (torch.randn(*shape, requires_grad=True) for shape in ((out, into), (out,)))
    norm = Norm(torch.ones(into, requires_grad=True), torch.zeros(into, requires_grad=True))
    before = Step(norm if step == "norm" else None, gelu=step == "gelu")
    forms: list[Callable[[], Tensor]] = [
        lambda: linear(before.taken(x), weight, bias, backend="torch"),
        lambda: linear(before.taken(x), weight, bias, backend="product"),
        lambda: linear(x, weight, bias, **before._asdict(), backend="product"),
    ]
    with torch.no_grad():
        forward = in_turn(forms, repeats=REPEATS)
    leaves = [x, weight, bias, *(norm[:2] if step == "norm" else ())]
    trained = in_turn([partial(_train, form, leaves, gradient) for form in forms], repeats=REPEATS)
    told = []
    for theirs, product, one in (forward, trained):
        told += [f"{median(times):.1f} ms" for times in (theirs, product, one)]
        told.append(f"x{ratio(theirs, one):.2f}, x{ratio(product, one):.2f}")
    return f"| {rows} x {into} to {out}, {step} | {' | '.join(told)} |"


def _train(form: Callable[[], Tensor], leaves: list[Tensor], gradient: Tensor) -> None:
    torch.autograd.grad(form(), leaves, gradient)


def _back(
    run: Callable[[Tensor, Tensor], Tensor], x: Tensor, weight: Tensor, gradient: Tensor
) -> Callable[[], tuple[Tensor, ...]]:
    """The gradient of the one that has it, alone."""
    y, leaf = run(x, weight), x if x.requires_grad else weight
    return lambda: torch.autograd.grad(y, leaf, gradient, retain_graph=True)


if __name__ == "__main__":
    main()
