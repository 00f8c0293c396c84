"""3x3x3 convolutions of float32 maps: torch's and the split form, in turn.

python kernels/benchmarks/convolution.py
prints rows of kernels/README.md: processor seconds of one thread, and the largest error of each
against double precision as a part of the largest value (taken from a corner of the map).
"""

import torch
from machine import machine
from measured import seconds
from torch import Tensor

from medseg_kernels.convolution import convolution, refuses

# Channels in and out, voxels along an axis: those of Swin UNETR with 48 features at 96^3.
SIZES = ((48, 48, 96), (96, 48, 96), (96, 96, 48), (192, 192, 24), (384, 384, 12), (768, 768, 6))


def main() -> None:
    torch.set_num_threads(1)
    print(machine())
    told = refuses(torch.zeros(1, 8, 8, 8, 8), torch.zeros(8, 8, 3, 3, 3))
    if told is not None:
        print(f"not measured: {told}")
        return
    print(
        "| channels, size | torch | split | ratio | torch, with backward | split | ratio | errors |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for into, out, size in SIZES:
        print(_row(into, out, size), flush=True)


def _row(into: int, out: int, size: int) -> str:
    x = torch.randn(1, into, size, size, size).contiguous(memory_format=torch.channels_last_3d)
    weight = torch.randn(out, into, 3, 3, 3) / (27 * into) ** 0.5
    corner = x[..., :6, :6, :6]
    truth = convolution(corner.double(), weight.double())
    forward, backward, errors = [], [], []
    for backend in ("torch", "split"):
        forward.append(seconds(lambda name=backend: convolution(x, weight, backend=name)))
        leaves = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
        backward.append(seconds(lambda name=backend, leaves=leaves: _train(leaves, name)))
        away = (convolution(corner, weight, backend=backend) - truth).abs().max()
        errors.append((away / truth.abs().max()).item())
    cells = [f"{into} to {out}, {size}^3"]
    for theirs, ours in (forward, backward):
        cells += [f"{theirs:.3f} s", f"{ours:.3f} s", f"x{theirs / ours:.1f}"]
    return "| " + " | ".join([*cells, ", ".join(f"{error:.0e}" for error in errors)]) + " |"


def _train(leaves: list[Tensor], backend: str) -> None:
    convolution(*leaves, backend=backend).sum().backward()


if __name__ == "__main__":
    main()
