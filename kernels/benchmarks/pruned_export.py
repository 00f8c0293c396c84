"""Logits to labels on another grid: pruned_argmax against nnU-Net's own export functions, in turn.

python kernels/benchmarks/pruned_export.py [--classes 3 25 60 117] [--source 128 128 128]
    [--target 192 256 256] [--kind organs noise regions] [--no-peers] [--device cpu]

organs: logits fall with the distance from the middle of each organ, with a common wobble; noise: no
two neighbors agree, the worst case. nnU-Net's default resamples with scikit-image, its torch option
with torch's interpolate. Prints a row of kernels/README.md each: processor seconds on one thread,
memory above the logits, what the form in torch takes (where there is no compiler), labels that
differ from nnU-Net's default, nanoseconds a class and target voxel, and how many times longer than
it takes to read the logits and write the labels once, at the speed of a large copy.

With --device cuda: the Triton form, the one in torch and the reference, by CUDA events, and bytes.
"""

import argparse
import ctypes
import math
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace

import numpy as np
import torch
from expected import Work, add_device, is_there
from machine import machine
from measured import in_turn, peak
from nnunetv2.inference.export_prediction import (
    convert_predicted_logits_to_segmentation_with_correct_shape as nnunets_export,
)
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape
from nnunetv2.preprocessing.resampling.resample_torch import resample_torch_fornnunet
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from torch import Tensor

from medseg_kernels.pruned_export import linear_places, pruned_argmax, pruned_regions

Shape = Sequence[int]
TITLES = (
    "logits", "nnU-Net default", "nnU-Net torch", "here", "in torch", "ratio to default",
    "to torch", "other labels", "ns a class and voxel", "x reading once",
)  # fmt: skip
TITLES_CUDA = ("logits", "triton", "pruned", "reference", "bytes, once", "x reading once")
DEFAULT = partial(
    resample_data_or_seg_to_shape, is_seg=False, order=1, order_z=0, force_separate_z=None
)
TORCH = partial(
    resample_torch_fornnunet,
    is_seg=False,
    num_threads=1,
    device=torch.device("cpu"),
    memefficient_seg_resampling=False,
    force_separate_z=False,
    mode="linear",
)


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    if not is_there(options.device, partial(_works, options)):
        return
    bandwidth = _bandwidth(options.device)
    small = tuple(linear_places(4, 8) for _ in range(3))
    # The libraries are loaded, and ours compiled, before anything is measured.
    pruned_argmax(torch.randn(3, 4, 4, 4), small)
    if options.peers and options.device == "cpu":
        _nnunets(torch.randn(3, 4, 4, 4), [8, 8, 8], DEFAULT, regions=False)
        _nnunets(torch.randn(3, 4, 4, 4), [8, 8, 8], TORCH, regions=False)
    print(f"{machine()}, copies {bandwidth / 1e9:.1f} GB/s")
    print(f"{'x'.join(map(str, options.source))} -> {'x'.join(map(str, options.target))}\n")
    titles = TITLES if options.device == "cpu" else TITLES_CUDA
    print(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
    for kind in options.kind:
        for classes in [3] if kind == "regions" else options.classes:
            logits = _logits(kind, classes, options.source)
            row = _row if options.device == "cpu" else _row_cuda
            print(f"| {' | '.join(row(kind, logits, options, bandwidth))} |", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--classes", type=int, nargs="+", default=[3, 25])
    parser.add_argument("--source", type=int, nargs=3, default=[96, 96, 96])
    parser.add_argument("--target", type=int, nargs=3, default=[144, 192, 192])
    kinds = ["organs", "noise", "regions"]
    parser.add_argument("--kind", nargs="+", choices=kinds, default=["organs", "regions"])
    parser.add_argument("--no-peers", dest="peers", action="store_false")
    add_device(parser)
    return parser.parse_args()


def _works(options: argparse.Namespace) -> dict[str, Work]:
    """Logits read and labels written, once each."""
    source, target = math.prod(options.source), math.prod(options.target)
    return {f"{n} classes": Work(4 * n * source + target) for n in options.classes}


def _logits(kind: str, classes: int, shape: Shape) -> Tensor:
    drawn = torch.Generator().manual_seed(0)
    if kind == "noise":
        return torch.randn(classes, *shape, generator=drawn)
    grid = torch.stack(torch.meshgrid(*[torch.arange(float(n)) for n in shape], indexing="ij"))
    middles = torch.rand(classes, 3, generator=drawn) * torch.tensor(shape)
    radii = torch.rand(classes, generator=drawn) * min(shape) / 12 + min(shape) / 24
    coarse = torch.randn(1, 1, *[max(n // 8, 2) for n in shape], generator=drawn)
    wobble = torch.nn.functional.interpolate(coarse, size=tuple(shape), mode="trilinear")[0, 0]
    logits = torch.empty(classes, *shape)
    for n, (middle, radius) in enumerate(zip(middles, radii, strict=True)):
        away = (grid - middle[:, None, None, None]).square().sum(dim=0).sqrt()
        torch.sub(radius * (3 if kind == "regions" else 1), away + wobble, out=logits[n])
    if kind == "organs":
        logits[0] = 0
    return logits


def _form(kind: str, logits: Tensor, target: Shape) -> Callable:
    """The call, but for its backend."""
    where = tuple(linear_places(a, b) for a, b in zip(logits.shape[1:], target, strict=True))
    if kind == "regions":
        return partial(pruned_regions, logits, where, (1, 2, 3))
    return partial(pruned_argmax, logits, where)


def _row(kind: str, logits: Tensor, options: argparse.Namespace, bandwidth: float) -> list[str]:
    target, regions = options.target, kind == "regions"
    run = _form(kind, logits, target)
    # Ours goes first, and without what was left behind before it.
    ctypes.CDLL(None).malloc_trim(0)
    above = peak(run)
    ours, plain = (
        statistics.median(times) / 1e3
        for times in in_turn([run, partial(run, backend="pruned")], repeats=3)
    )
    found = run()
    once = (logits.numel() * 4 + found.numel()) / bandwidth
    told = f"{ours:.2f} s, +{above / 1e6:.0f} MB", f"{plain:.2f} s"
    speed = f"{1e9 * ours / len(logits) / found.numel():.2f}", f"{ours / once:.1f}"
    name = f"{len(logits)} {kind}"
    if not options.peers:
        return [name, "", "", *told, "", "", "", *speed]
    wanted, default_s, default_b = _measured(
        partial(_nnunets, logits, target, DEFAULT, regions=regions)
    )
    _, torch_s, torch_b = _measured(partial(_nnunets, logits, target, TORCH, regions=regions))
    other = float((found.numpy() != wanted).mean())
    return [
        name,
        f"{default_s:.1f} s, +{default_b / 1e9:.2f} GB",
        f"{torch_s:.1f} s, +{torch_b / 1e9:.2f} GB",
        *told,
        f"{default_s / ours:.0f}",
        f"{torch_s / ours:.0f}",
        f"{other:.0e}" if other else "none",
        *speed,
    ]


def _row_cuda(
    kind: str, logits: Tensor, options: argparse.Namespace, bandwidth: float
) -> list[str]:
    run = _form(kind, logits.cuda(), options.target)
    names = ("triton", "pruned", "reference")
    times = in_turn([partial(run, backend=name) for name in names], repeats=5, device="cuda")
    middle = list(map(statistics.median, times))
    moved = logits.numel() * 4 + run().numel()
    told = [f"{milliseconds:.2f} ms" for milliseconds in middle]
    over = middle[0] / 1e3 / (moved / bandwidth)
    return [f"{len(logits)} {kind}", *told, f"{moved / 1e6:.0f} MB", f"{over:.1f}"]


def _nnunets(logits: Tensor, target: Shape, resample: Callable, *, regions: bool) -> np.ndarray:
    spacing = [b / a for a, b in zip(logits.shape[1:], target, strict=True)]
    plans = SimpleNamespace(transpose_forward=[0, 1, 2], transpose_backward=[0, 1, 2])
    configuration = SimpleNamespace(spacing=spacing, resampling_fn_probabilities=resample)
    names = {"background": 0} | {
        f"organ {n}": [n, 99] if regions else n
        for n in range(1, len(logits) + (1 if regions else 0))
    }
    labels = LabelManager(names, [1, 2, 3] if regions else None)
    properties = {
        "spacing": [1.0, 1.0, 1.0],
        "shape_after_cropping_and_before_resampling": list(target),
        "shape_before_cropping": list(target),
        "bbox_used_for_cropping": [[0, n] for n in target],
    }
    return nnunets_export(logits, plans, configuration, labels, properties, num_threads_torch=1)


def _measured(run: Callable) -> tuple[np.ndarray, float, int]:
    """The result, processor seconds, and the largest amount of memory above that of before."""
    results: list[np.ndarray] = []
    began = time.process_time()
    above = peak(lambda: results.append(run()))
    return results[0], time.process_time() - began, above


def _bandwidth(device: str) -> float:
    """Bytes a second that are read and written by a copy of what no cache holds."""
    source = torch.ones(1 << 27, device=device)
    target = torch.empty_like(source)
    (times,) = in_turn([lambda: target.copy_(source)], repeats=4, device=device)
    return 2 * source.numel() * 4 / (min(times) / 1e3)


if __name__ == "__main__":
    main()
