"""The selective scan: time and memory of the chunked form against the plain recurrence.

python kernels/benchmarks/selective_scan.py [--tokens 4096] [--channels 256] [--threads 1] prints
rows of kernels/README.md. Differences are against the recurrence in double precision.
"""

import argparse
from collections.abc import Callable
from functools import partial

import torch
from machine import machine
from measured import kept, seconds
from torch import Tensor

from medseg_kernels.selective_scan import selective_scan

STATES = 16
Form = Callable[..., Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    given = _given(options.tokens, options.channels)
    with torch.no_grad():
        wide = {name: one.double() for name, one in given.items()}
        exact = selective_scan(**wide, backend="reference")
    forms: dict[str, Form] = {
        "recurrence": partial(selective_scan, backend="reference"),
        "chunked, one block": partial(selective_scan, block=options.tokens),
        "chunked": selective_scan,
    }
    print(machine())
    print("| form | forward | forward + backward | kept | largest difference |")
    print("|---|---|---|---|---|")
    for name, form in forms.items():
        times = [f"{seconds(partial(run, form, given)):.2f} s" for run in (_forward, _train)]
        with torch.no_grad():
            difference = (form(**given) - exact).abs().max().item()
        row = [
            name,
            *times,
            f"{kept(partial(_output, form, given)) / 2**20:.0f} MiB",
            f"{difference:.0e}",
        ]
        print("| " + " | ".join(row) + " |", flush=True)


def _given(tokens: int, channels: int) -> dict[str, Tensor]:
    """Unit noise, with decays and steps as a fresh Mamba has them."""
    torch.manual_seed(0)
    return {
        "x": torch.randn(1, channels, tokens),
        "step": 0.1 * torch.rand(1, channels, tokens) + 1e-3,
        "decay": -torch.arange(1, STATES + 1.0).repeat(channels, 1),
        "write": torch.randn(1, STATES, tokens),
        "read": torch.randn(1, STATES, tokens),
        "skip": torch.ones(channels),
    }


def _forward(form: Form, given: dict[str, Tensor]) -> None:
    with torch.no_grad():
        form(**given)


def _train(form: Form, given: dict[str, Tensor]) -> None:
    _output(form, given).sum().backward()


def _output(form: Form, given: dict[str, Tensor]) -> Tensor:
    return form(**{name: one.detach().requires_grad_() for name, one in given.items()})


if __name__ == "__main__":
    main()
