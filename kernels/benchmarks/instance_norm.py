"""Instance norm of a channels-last map: time and error of ours and of torch's three ways.

python kernels/benchmarks/instance_norm.py [--channels 24] [--size 96] [--threads 1]
prints rows of kernels/README.md. Errors are against double precision.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from machine import machine
from torch import Tensor
from torch.nn import functional

from medseg_kernels.instance_norm import instance_norm

FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "channels_last": instance_norm,
    "torch instance_norm": functional.instance_norm,
    "torch batch_norm, one item": lambda x: functional.batch_norm(x, None, None, training=True),
    "torch group_norm": lambda x: functional.group_norm(x, x.shape[1]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--channels", type=int, default=24)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    x = torch.randn(1, options.channels, *[options.size] * 3)
    x = x.contiguous(memory_format=torch.channels_last_3d)
    print(machine())
    print("| form | forward | forward + backward | error, mean 0 | error, mean 100 |")
    print("|---|---|---|---|---|")
    for name, form in FORMS.items():
        times = [f"{_milliseconds(run, form, x):.0f} ms" for run in (_forward, _train)]
        errors = [f"{_error(form, x + mean):.0e}" for mean in (0, 100)]
        print("| " + " | ".join([name, *times, *errors]) + " |", flush=True)


def _forward(form: Callable[[Tensor], Tensor], x: Tensor) -> None:
    with torch.no_grad():
        form(x)


def _train(form: Callable[[Tensor], Tensor], x: Tensor) -> None:
    form(x.detach().requires_grad_()).backward(x)


def _milliseconds(run: Callable, form: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """Median processor time of three runs after one to warm up."""
    times = []
    for _ in range(4):
        start = time.process_time()
        run(form, x)
        times.append(1e3 * (time.process_time() - start))
    return statistics.median(times[1:])


def _error(form: Callable[[Tensor], Tensor], x: Tensor) -> float:
    return (form(x) - functional.instance_norm(x.double())).abs().max().item()


if __name__ == "__main__":
    main()
