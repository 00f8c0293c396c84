"""Depthwise convolutions: torch's, and here, in turn.

python kernels/benchmarks/depthwise.py [--repeats 3]
prints rows of kernels/README.md: processor time of one thread for the map, and for both gradients,
torch's and here; and the largest error of each in any of the three against double precision, as a
part of the largest value.
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
from medseg_kernels.depthwise import depthwise, refuses

# Channels and size of the map, side of the kernel, and steps: layers of MedNeXt, D-Former and
# TransDAE.
CASES = {
    "MedNeXt, 3^3": (32, (64, 64, 64), 3, {}),
    "MedNeXt, 5^3": (64, (32, 32, 32), 5, {}),
    "MedNeXt, 3^3, step 2": (32, (64, 64, 64), 3, {"stride": 2}),
    "MedNeXt, 3^3, transposed": (64, (32, 32, 32), 3, {"stride": 2, "transposed": True}),
    "D-Former, 3^3": (96, (16, 32, 32), 3, {}),
    "TransDAE, 7^3 with gaps": (64, (16, 16, 16), 7, {"dilation": 3}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    print(machine())
    told = refuses("compiled", torch.zeros(1, 1, 1, 1, 1), torch.zeros(1, 1, 1, 1, 1))
    if told is not None:
        print(f"not measured: {told}")
        return
    columns = "layer | torch | here | ratio | gradients: torch | here | ratio | errors"
    print(f"| {columns} |")
    print("|---" * len(columns.split("|")) + "|")
    with reused_memory():
        for name in CASES:
            print(_row(name, repeats), flush=True)


def _row(name: str, repeats: int) -> str:
    channels, size, side, steps = CASES[name]
    x = torch.randn(1, channels, *size).contiguous(memory_format=torch.channels_last_3d)
    given = [x, torch.randn(channels, 1, side, side, side)]
    forms = [partial(depthwise, **steps, backend=backend) for backend in ("reference", "compiled")]
    with torch.no_grad():
        forward = in_turn([partial(form, *given) for form in forms], repeats=repeats)
    back = [_back(form, given) for form in forms]
    backward = in_turn(back, repeats=repeats)
    truth = [one.double() for one in given]
    exact = (forms[0](*truth), *_back(forms[0], truth)())
    errors = []
    for form, again in zip(forms, back, strict=True):
        found = (form(*given), *again())
        apart = (
            (one - true).abs().max() / true.abs().max()
            for one, true in zip(found, exact, strict=True)
        )
        errors.append(f"{max(apart).item():.0e}")
    what = f"{name}, {channels} channels, {'x'.join(map(str, size))}"
    return f"| {' | '.join([what, *_times(forward), *_times(backward), ', '.join(errors)])} |"


def _back(form: Callable[..., Tensor], given: list[Tensor]) -> Callable[[], tuple[Tensor, ...]]:
    """Both gradients."""
    leaves = [one.detach().clone().requires_grad_() for one in given]
    y = form(*leaves)
    drawn = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    slope = drawn.to(y.dtype).contiguous(memory_format=torch.channels_last_3d)
    return lambda: torch.autograd.grad(y, leaves, slope, retain_graph=True)


def _times(times: list[list[float]]) -> list[str]:
    return [*(f"{median(one):.1f} ms" for one in times), f"x{ratio(*times):.1f}"]


if __name__ == "__main__":
    main()
