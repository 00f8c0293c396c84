"""3x3x3 convolutions of float32 maps: torch's, and those of the engines here, in turn.

python kernels/benchmarks/convolution.py [--engines winograd ...] [--layers 48,48,96 ...]
prints rows of kernels/README.md: processor milliseconds of one thread; the operations of a direct
convolution divided by that time, in billions a second; how many times as long torch takes with its
maps channels last, forward and for either gradient; and the largest errors against double
precision as parts of the largest value (of a corner of the map, and of a few channels of the
weight's gradient). Two more tables have milliseconds forward and of all gradients: layers of step
2, which torch does, in both layouts; and transposed ones of side and step 2, torch's and medseg's.
"""

import argparse
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from machine import machine
from measured import in_turn, ratio
from torch import Tensor, nn

from medseg.nn.drop_in import ConvTranspose3d
from medseg.nn.memory import reused_memory
from medseg_kernels.convolution import convolution, refuses

# Channels in and out, voxels along an axis: of Swin UNETR with 48 features at 96^3, and of nnU-Net.
LAYERS = (
    "1,48,96", "48,48,96", "96,48,96", "48,48,48", "96,96,24", "192,192,12", "384,384,6",
    "32,32,128", "64,64,64", "128,128,32", "256,256,16", "320,320,8",
)  # fmt: skip
# As above, of step 2, and transposed.
STEPS = ("32,64,64", "64,128,32", "128,256,16", "256,320,8")
TRANSPOSED = ("48,48,48", "64,32,32", "128,64,16", "256,128,8")
ENGINES = ("split", "winograd")
COLUMNS = (
    "layer", "engine", "torch, channels first", "channels last", "here", "GFLOP/s", "ratio",
    "gradient of map", "of weight", "errors: torch", "here", "torch, gradient", "here",
)  # fmt: skip
REPEATS = 2
CORNER, CHANNELS = 12, 4

Run = Callable[[Tensor, Tensor], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engines", nargs="+", default=ENGINES, choices=ENGINES)
    parser.add_argument("--layers", nargs="+", default=LAYERS)
    parser.add_argument("--steps", nargs="+", default=STEPS)
    parser.add_argument("--transposed", nargs="+", default=TRANSPOSED)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    print(f"| {' | '.join(COLUMNS)} |")
    print("|---" * len(COLUMNS) + "|")
    with reused_memory():
        for layer in options.layers:
            for engine in options.engines:
                cells = _cells(*map(int, layer.split(",")), engine)
                print(f"| {' | '.join(cells)} |", flush=True)
        tables = (
            ("step 2 | channels first | last | gradients: first | last", _steps, options.steps),
            (
                "transposed | torch | here | gradients: torch | here",
                _transposed,
                options.transposed,
            ),
        )
        for columns, forms, layers in tables:
            print(f"\n| {columns} |\n|---|---|---|---|---|")
            for layer in layers:
                into, out, size = map(int, layer.split(","))
                cells = [f"{into} to {out}, {size}^3", *_pair(forms(into, out, size))]
                print(f"| {' | '.join(cells)} |", flush=True)


def _steps(into: int, out: int, size: int) -> list[tuple[nn.Module, Tensor]]:
    """One layer, and its map in both layouts."""
    layer, x = nn.Conv3d(into, out, 3, 2, 1, bias=False), torch.randn(1, into, size, size, size)
    return [(layer, x), (layer, x.contiguous(memory_format=torch.channels_last_3d))]


def _transposed(into: int, out: int, size: int) -> list[tuple[nn.Module, Tensor]]:
    """Both layers, and their map."""
    x = torch.randn(1, into, size, size, size).contiguous(memory_format=torch.channels_last_3d)
    return [(kind(into, out, 2, 2), x) for kind in (nn.ConvTranspose3d, ConvTranspose3d)]


def _pair(forms: list[tuple[nn.Module, Tensor]]) -> list[str]:
    """Milliseconds of each layer on its map, then of all its gradients."""
    forward, back = [], []
    for layer, x in forms:
        leaves = [x.clone().requires_grad_(), *layer.parameters()]
        y = layer(leaves[0])
        gradient = torch.randn_like(y)
        forward.append(partial(layer, x))
        back.append(partial(torch.autograd.grad, y, leaves, gradient, retain_graph=True))
    with torch.no_grad():
        times = in_turn(forward, repeats=REPEATS)
    times += in_turn(back, repeats=REPEATS)
    return [f"{median(one):.1f} ms" for one in times]


def _cells(into: int, out: int, size: int, engine: str) -> list[str]:
    x, gradient = (
        torch.randn(1, channels, size, size, size).contiguous(memory_format=torch.channels_last_3d)
        for channels in (into, out)
    )
    weight = torch.randn(out, into, 3, 3, 3) / (27 * into) ** 0.5
    name = [f"{into} to {out}, {size}^3", engine]
    told = refuses(engine, x, weight)
    if told is not None:
        return [*name, told]
    runs = [partial(convolution, backend=backend) for backend in ("torch", engine)]
    calls = [partial(run, x, weight) for run in runs]
    calls.append(partial(runs[0], x.contiguous(), weight))
    with torch.no_grad():
        last, ours, first = in_turn(calls, repeats=REPEATS)
    leaves = ((x.clone().requires_grad_(), weight), (x, weight.clone().requires_grad_()))
    backs = [
        in_turn([_back(r, *given, gradient) for r in runs], repeats=REPEATS) for given in leaves
    ]
    ratios = [ratio(last, ours), *(ratio(theirs, here) for theirs, here in backs)]
    speed = 2 * 27 * into * out * size**3 / median(ours) / 1e6
    times = [f"{median(one):.1f} ms" for one in (first, last, ours)]
    errors = [
        error(r) for error in (_error(x, weight), _back_error(x, weight, gradient)) for r in runs
    ]
    return [
        *name, *times, f"{speed:.0f}", *(f"x{one:.1f}" for one in ratios),
        *(f"{one:.0e}" for one in errors),
    ]  # fmt: skip


def _back(run: Run, x: Tensor, weight: Tensor, gradient: Tensor) -> Callable[[], object]:
    """The gradient of the one that has it, alone."""
    y, leaf = run(x, weight), x if x.requires_grad else weight
    return lambda: torch.autograd.grad(y, leaf, gradient, retain_graph=True)


def _error(x: Tensor, weight: Tensor) -> Callable[[Run], float]:
    corner = x[..., :CORNER, :CORNER, :CORNER]
    truth = convolution(corner.double(), weight.double())
    return lambda run: _apart(run(corner, weight), truth)


def _back_error(x: Tensor, weight: Tensor, gradient: Tensor) -> Callable[[Run], float]:
    exact = weight[:CHANNELS, :CHANNELS].double().requires_grad_()
    y = convolution(x[:, :CHANNELS].double(), exact)
    (truth,) = torch.autograd.grad(y, exact, gradient[:, :CHANNELS].double())
    leaf = weight.clone().requires_grad_()

    def error(run: Run) -> float:
        (found,) = torch.autograd.grad(run(x, leaf), leaf, gradient)
        return _apart(found[:CHANNELS, :CHANNELS], truth)

    return error


def _apart(found: Tensor, truth: Tensor) -> float:
    return ((found - truth).abs().max() / truth.abs().max()).item()


if __name__ == "__main__":
    main()
