"""Sums over windows, and labels of the sums: each form in turn.

python kernels/benchmarks/window_sum.py [--features 32] [--patch 128] [--classes 105]
    [--repeats 5] [--device cpu]

The first table: a window of --patch^3 voxels is added to a part of a larger sum. The peer is
addcmul, channel by channel, as far as torch goes. The second: the labels of --classes logits that a
last layer makes of the mean of --features, on its own grid and on one that is half as fine again.
The peer divides, multiplies by the head and takes torch's argmax, or pruned_argmax where there is
something to interpolate. On the CPU processor milliseconds of one thread and memory; with --device
cuda CUDA events. "x moving once": over the time it takes to read and write what must be, at the
speed of a large copy; for the labels the products of the head come on top, at 2 channels x classes
operations a voxel.
"""

import argparse
import statistics
from collections.abc import Callable
from functools import partial

import torch
from expected import Work, add_device, is_there
from machine import machine
from measured import in_turn, peak, ratio
from torch import Tensor

from medseg_kernels.pruned_export import export_sums, linear_places, pruned_argmax
from medseg_kernels.window_sum import add_window

LAYOUTS = {"channels first": False, "channels last": True}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--features", type=int, default=32)
    parser.add_argument("--patch", type=int, default=128)
    parser.add_argument("--classes", type=int, default=105)
    parser.add_argument("--repeats", type=int, default=5)
    add_device(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not is_there(options.device, partial(_works, options)):
        return
    torch.manual_seed(0)
    speed = _bandwidth(options)
    print(f"{machine()}, copies {speed / 1e6:.1f} GB/s\n")
    print("| a window added | here | addcmul | ratio | x moving once |\n|---|---|---|---|---|")
    for layout, last in LAYOUTS.items():
        for kind in (torch.float32, torch.float16):
            name = f"{layout}, {str(kind).removeprefix('torch.')} sums"
            print(f"| {name} | {' | '.join(_added(options, kind, speed, last=last))} |")
    print("\n| labels of sums | here | divide, multiply, argmax | ratio | x moving once |")
    print("|---|---|---|---|---|")
    for layout, last in LAYOUTS.items():
        for name, factor in (("own grid", 1), ("finer grid", 1.5)):
            cells = _labeled(options, factor, speed, last=last)
            print(f"| {layout}, {name} | {' | '.join(cells)} |")


def _works(options: argparse.Namespace) -> dict[str, Work]:
    """A window read, sums read and written; sums read and multiplied, and labels written."""
    window, sums = options.features * options.patch**3, options.features * (options.patch // 2) ** 3
    added = {f"a window added, {8 * n}-bit sums": Work(window * (4 + 2 * n)) for n in (4, 2)}
    head = Work(sums * 4 + sums // options.features, 2 * sums * options.classes)
    return {**added, "labels of sums, own grid": head}


def _added(
    options: argparse.Namespace, kind: torch.dtype, speed: float, *, last: bool
) -> list[str]:
    features = _numbers(options.features, options.patch, options.device, last=last)
    sums = _numbers(options.features, options.patch + 8, options.device, last=last).to(kind)
    counts = torch.rand(sums.shape[1:], device=options.device).to(kind)
    weight = torch.rand(features.shape[1:], device=options.device)
    part = (slice(4, -4), slice(4, -4), slice(8, None))
    into = sums[(slice(None), *part)], counts[part]
    ours, theirs = in_turn(
        [
            partial(add_window, *into, features, weight),
            partial(_addcmul, *into, features, weight),
        ],
        repeats=options.repeats,
        device=options.device,
    )
    moved = features.numel() * (4 + 2 * sums.itemsize)
    over = statistics.median(ours) / (moved / speed)
    return [*_told(ours, theirs), f"{over:.1f}"]


def _addcmul(sums: Tensor, counts: Tensor, features: Tensor, weight: Tensor) -> None:
    counts += weight
    for total, values in zip(sums, features, strict=True):
        total.addcmul_(values, weight)


def _labeled(options: argparse.Namespace, factor: float, speed: float, *, last: bool) -> list[str]:
    side = options.patch // 2
    sums = _numbers(options.features, side, options.device, last=last)
    counts = torch.rand(sums.shape[1:], device=options.device) + 0.5
    head = (
        torch.randn(options.classes, options.features, device=options.device) / 6,
        torch.randn(options.classes, device=options.device),
    )
    where = (linear_places(side, int(side * factor)),) * 3
    calls: list[Callable] = [
        partial(export_sums, sums, counts, where, head=head),
        partial(_multiplied, sums, counts, where, head),
    ]
    found, wanted = calls[0]()[0], calls[1]()
    assert (found != wanted).float().mean() < 1e-4
    ours, theirs = in_turn(calls, repeats=options.repeats, device=options.device)
    above = [f", +{peak(call, options.device) / 1e6:.0f} MB" for call in calls]
    cells = _told(ours, theirs)
    over = statistics.median(ours) / ((sums.numel() * 4 + found.numel()) / speed)
    return [cells[0] + above[0], cells[1] + above[1], cells[2], f"{over:.1f}"]


def _multiplied(sums: Tensor, counts: Tensor, where: tuple, head: tuple[Tensor, Tensor]) -> Tensor:
    means = (sums / counts).reshape(len(sums), -1)
    logits = torch.addmm(head[1][:, None], head[0], means).view(-1, *counts.shape)
    if where[0].moves:
        return pruned_argmax(logits, where)
    return logits.argmax(0).to(torch.uint8)


def _told(ours: list[float], theirs: list[float]) -> list[str]:
    middle = [f"{statistics.median(times):.1f} ms" for times in (ours, theirs)]
    return [*middle, f"x{ratio(theirs, ours):.1f}"]


def _numbers(channels: int, side: int, device: str, *, last: bool) -> Tensor:
    """Smooth numbers, so that labels are organs and not noise."""
    coarse = torch.randn(1, channels, 6, 6, 6, device=device)
    fine = torch.nn.functional.interpolate(coarse, size=(side,) * 3, mode="trilinear")[0]
    return fine.movedim(0, -1).contiguous().movedim(-1, 0) if last else fine.contiguous()


def _bandwidth(options: argparse.Namespace) -> float:
    """Bytes a millisecond that are read and written by a copy of what no cache holds."""
    source = torch.ones(1 << 27, device=options.device)
    target = torch.empty_like(source)
    (times,) = in_turn([lambda: target.copy_(source)], repeats=4, device=options.device)
    return 2 * source.numel() * 4 / min(times)


if __name__ == "__main__":
    main()
