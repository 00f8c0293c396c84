"""The mLSTM cell: time and memory of the chunked forms against the parallel one.

python kernels/benchmarks/mlstm.py [--tokens 4096] [--size 128] [--heads 4] [--direction forward]
[--chunks 64 128] [--repeats 3] [--threads 1] [--device cpu] prints rows of kernels/README.md. On
the CPU processor time in float32; with --device cuda time of the device in bfloat16, and
torch.compile of the parallel form as a further peer. Forms that hold n x n matrices are left out
where these would take more than --gigabytes. Differences are against chunks in double precision.
The last column is the time over what the bytes of inputs, results and states at the borders take
at the speed of a copy, or the products of matrices at that of a large one, whichever is more.
"""

import argparse
import statistics
from collections.abc import Callable
from functools import partial

import torch
from bandwidth import copied, multiplied
from expected import Work, add_device, is_there
from machine import machine
from measured import in_turn, kept, ratio
from torch import Tensor

from medseg_kernels.mlstm import mlstm, refuses

Form = Callable[..., Tensor]


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    if not is_there(options.device, partial(_works, options)):
        return
    given = _given(options, options.device)
    forms = _forms(given, options)
    with torch.no_grad():
        wide = [one.cpu().double() for one in given]
        exact = mlstm(*wide, direction=options.direction, backend="chunkwise")
    forward, train = (
        in_turn(
            [partial(run, form, given) for form in forms.values()],
            repeats=options.repeats,
            device=options.device,
        )
        for run in (_forward, _train)
    )
    moved, products = _moved(given, options), _products(options)
    fastest = copied(options.device), multiplied(options.device, given[0].dtype)
    print(machine())
    print(f"{options.tokens} tokens: at least {moved / 1e6:.1f} MB, {products / 1e9:.2f} GFLOP;")
    print(f"a copy {fastest[0] / 1e6:.1f} GB/s, a product {fastest[1] / 1e6:.0f} GFLOP/s")
    print("| form | forward | forward + backward | ratio | kept | difference | x bound |")
    print("|---|---|---|---|---|---|---|")
    bound = max(moved / fastest[0], products / fastest[1])
    for number, (name, form) in enumerate(forms.items()):
        times = [statistics.median(one[number]) for one in (forward, train)]
        with torch.no_grad():
            difference = (form(*given).cpu() - exact).abs().max().item()
        row = [
            name,
            *(f"{time:.1f} ms" for time in times),
            f"x{ratio(train[0], train[number]):.1f}",
            f"{kept(partial(_output, form, given)) / 2**20:.0f} MiB",
            f"{difference:.0e}",
            f"{times[0] / bound:.1f}",
        ]
        print("| " + " | ".join(row) + " |", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--direction", default="forward")
    parser.add_argument("--chunks", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--gigabytes", type=float, default=4)
    add_device(parser)
    return parser.parse_args()


def _given(options: argparse.Namespace, device: str) -> list[Tensor]:
    """Unit noise, and gates as a fresh Vision-LSTM layer has them."""
    torch.manual_seed(0)
    shape = (1, options.heads, options.tokens)
    dtype = torch.float32 if options.device == "cpu" else torch.bfloat16
    wide = [torch.randn(*shape, options.size, dtype=dtype) for _ in range(3)]
    forget = torch.linspace(3, 6, options.heads)[:, None] + 0.1 * torch.randn(shape)
    return [one.to(device) for one in (*wide, 0.1 * torch.randn(shape), forget)]


def _forms(given: list[Tensor], options: argparse.Namespace) -> dict[str, Form]:
    """By name; the first is what the others are compared with."""
    cell = partial(mlstm, direction=options.direction)
    forms: dict[str, Form] = {}
    # About six matrices of all pairs live at a time.
    if 24 * options.heads * options.tokens**2 <= options.gigabytes * 2**30:
        forms["parallel"] = partial(cell, backend="parallel")
        if options.device != "cpu":
            forms["parallel, compiled"] = torch.compile(forms["parallel"], fullgraph=True)
    for chunk in options.chunks:
        forms[f"chunks of {chunk}"] = partial(cell, backend="chunkwise", chunk=chunk)
    for fast in ("compiled", "triton"):
        if refuses(given[0], backend=fast) is None:
            forms[fast] = partial(cell, backend=fast)
    return forms


def _works(options: argparse.Namespace) -> dict[str, Work]:
    """An exponential for each pair of a chunk; the way back takes it again, and five products."""
    weights = 64 * options.heads * options.tokens
    one = Work(_moved(_given(options, "meta"), options), _products(options), weights)
    name = f"{options.tokens} tokens,"
    return {
        f"{name} forward": one,
        f"{name} forward + backward": one.times(3, flops=7 / 2, exponentials=2),
    }


def _moved(given: list[Tensor], options: argparse.Namespace) -> int:
    """Bytes of inputs and result, and of states that are written and read at the borders."""
    states = 4 * (options.size**2 + options.size) * options.heads * -(-options.tokens // 64)
    return sum(one.nbytes for one in given) + given[0].nbytes + 2 * states


def _products(options: argparse.Namespace) -> int:
    """Operations of the forward pass: pairs in chunks of 64, states written and read."""
    return 4 * options.size * (64 + options.size) * options.heads * options.tokens


def _forward(form: Form, given: list[Tensor]) -> None:
    with torch.no_grad():
        form(*given)


def _train(form: Form, given: list[Tensor]) -> None:
    _output(form, given).sum().backward()


def _output(form: Form, given: list[Tensor]) -> Tensor:
    return form(*(one.detach().requires_grad_() for one in given))


if __name__ == "__main__":
    main()
