"""The selective scan: time and memory of the fast forms against the plain recurrence.

python kernels/benchmarks/selective_scan.py [--tokens 4096] [--channels 256] [--repeats 5]
[--threads 1] [--device cpu] prints rows of kernels/README.md. On the CPU processor time; with
--device cuda time of the device, x, write and read in bfloat16, and as further peers torch.compile
of the form in torch's operations, and mamba_ssm where it is installed. The recurrence is left out
beyond 10000 tokens. Differences are against the recurrence in double precision, or chunks of it.
The last column is the time over what the bytes of inputs and result take at the speed of a copy.
"""

import argparse
import statistics
from collections.abc import Callable
from functools import partial

import torch
from bandwidth import copied
from expected import Work, add_device, is_there
from machine import machine
from measured import in_turn, kept, ratio
from torch import Tensor

from medseg_kernels.selective_scan import Backend, refuses, selective_scan

STATES = 16
RECURRENT = 10000
Form = Callable[..., Tensor]


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    if not is_there(options.device, partial(_works, options)):
        return
    given = _given(options, options.device)
    forms = _forms(given, options)
    exact = _exact(given)
    forward, train = (
        in_turn(
            [partial(run, form, given) for form in forms.values()],
            repeats=options.repeats,
            device=options.device,
        )
        for run in (_forward, _train)
    )
    moved = _moved(given)
    speed = copied(options.device)
    print(machine())
    print(f"{options.tokens} tokens: at least {moved / 1e6:.1f} MB; a copy {speed / 1e6:.1f} GB/s")
    print("| form | forward | forward + backward | ratio | kept | difference | x bytes |")
    print("|---|---|---|---|---|---|---|")
    for number, (name, form) in enumerate(forms.items()):
        times = [statistics.median(one[number]) for one in (forward, train)]
        with torch.no_grad():
            difference = (form(**given).cpu() - exact).abs().max().item()
        row = [
            name,
            *(f"{time:.1f} ms" for time in times),
            f"x{ratio(train[0], train[number]):.1f}",
            f"{kept(partial(_output, form, given)) / 2**20:.0f} MiB",
            f"{difference:.0e}",
            f"{times[0] / (moved / speed):.1f}",
        ]
        print("| " + " | ".join(row) + " |", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    add_device(parser)
    return parser.parse_args()


def _given(options: argparse.Namespace, device: str) -> dict[str, Tensor]:
    """Unit noise, with decays and steps as a fresh Mamba has them, and as it lays them out."""
    torch.manual_seed(0)
    tokens, channels = options.tokens, options.channels
    half = torch.float32 if options.device == "cpu" else torch.bfloat16
    given = {
        "x": torch.randn(1, channels, tokens, dtype=half),
        "step": (0.1 * torch.rand(1, tokens, channels) + 1e-3).mT,
        "decay": -torch.arange(1, STATES + 1.0).repeat(channels, 1),
        "write": torch.randn(1, tokens, STATES, dtype=half).mT,
        "read": torch.randn(1, tokens, STATES, dtype=half).mT,
        "skip": torch.ones(channels),
    }
    return {name: one.to(device) for name, one in given.items()}


def _works(options: argparse.Namespace) -> dict[str, Work]:
    """An exponential for each state of a token, and again on the way back."""
    powers = options.tokens * options.channels * STATES
    one = Work(_moved(_given(options, "meta")), exponentials=powers)
    name = f"{options.tokens} tokens, {options.channels} channels,"
    return {
        f"{name} forward": one,
        f"{name} forward + backward": one.times(3, flops=0, exponentials=2),
    }


def _moved(given: dict[str, Tensor]) -> int:
    """Bytes of what is given and of the result."""
    return sum(one.nbytes for one in given.values()) + given["x"].nbytes


def _forms(given: dict[str, Tensor], options: argparse.Namespace) -> dict[str, Form]:
    """By name; the first is what the others are compared with."""
    names: tuple[Backend, ...] = ("chunked", "compiled", "triton", "mamba_ssm")
    forms: dict[str, Form] = {
        name: partial(selective_scan, backend=name)
        for name in names
        if refuses(given["x"], backend=name) is None
    }
    if options.device != "cpu":
        plain = partial(selective_scan, backend="torch")
        forms["torch, compiled"] = torch.compile(plain, fullgraph=True)
    if options.tokens <= RECURRENT:
        forms = {"recurrence": partial(selective_scan, backend="reference"), **forms}
    return forms


def _exact(given: dict[str, Tensor]) -> Tensor:
    wide = {name: one.cpu().double() for name, one in given.items()}
    backend: Backend = "reference" if wide["x"].shape[2] <= RECURRENT else "chunked"
    with torch.no_grad():
        return selective_scan(**wide, backend=backend)


def _forward(form: Form, given: dict[str, Tensor]) -> None:
    with torch.no_grad():
        form(**given)


def _train(form: Form, given: dict[str, Tensor]) -> None:
    _output(form, given).sum().backward()


def _output(form: Form, given: dict[str, Tensor]) -> Tensor:
    return form(**{name: one.detach().requires_grad_() for name, one in given.items()})


if __name__ == "__main__":
    main()
