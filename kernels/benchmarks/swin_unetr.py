"""Swin UNETR here against MONAI's, same weights, same process, in turn.

python kernels/benchmarks/swin_unetr.py [--feature-size 48] [--size 64] [--repeats 1] [--threads 1]
prints rows of kernels/README.md: processor seconds of each and their ratio. Ours runs as it does in
training, where freed memory stays with the process; with --reuse MONAI's does too. int8: ours with
its larger convolutions in eight bits, as `medseg predict --precision int8` has them.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from machine import machine
from measured import kept
from monai.networks.nets.swin_unetr import SwinUNETR as Reference
from torch import Tensor, nn

from medseg.models.checkpoints.monai_swin_unetr import load_monai
from medseg.models.swin_unetr import SwinUNETR
from medseg.nn.int8 import in_int8, refuses
from medseg.nn.memory import reused_memory


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    print(machine())
    print("| what | MONAI | here | ratio | MONAI kept | here kept | largest difference |")
    print("|---|---|---|---|---|---|---|")
    for feature_size in options.feature_size:
        theirs, ours = _pair(feature_size)
        forms = {"forward": ours}
        if refuses(torch.device("cpu")) is None:
            forms["forward, int8"] = in_int8(ours)
        for size in options.size:
            image = torch.randn(1, 1, size, size, size)
            peer = {theirs: reused_memory if options.reuse else nullcontext}
            for name, form in forms.items():
                models = {**peer, form: reused_memory}
                forward = _in_turn(options.repeats, lambda m, x=image: _forward(m, x), models)
                difference = _apart(theirs, form, image)
                print(_row(f"f{feature_size} {size}^3 {name}", forward, None, difference))
            held = [kept(lambda m=m, x=image: m(x), m) / 2**30 for m in (theirs, ours)]
            models = {**peer, ours: reused_memory}
            training = _in_turn(options.repeats, lambda m, x=image: _train(m, x), models, warm=2)
            difference = _apart(theirs, ours, image)
            name = f"f{feature_size} {size}^3 forward + backward"
            print(_row(name, training, held, difference), flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--feature-size", type=int, nargs="+", default=[48])
    parser.add_argument("--size", type=int, nargs="+", default=[64])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--reuse", action="store_true", help="MONAI's with freed memory kept too")
    return parser.parse_args()


def _pair(feature_size: int) -> tuple[nn.Module, nn.Module]:
    options = {"in_channels": 1, "out_channels": 14, "feature_size": feature_size}
    theirs, ours = Reference(**options), SwinUNETR(**options, faithful=True)
    load_monai(ours, theirs.state_dict())
    return theirs, ours


def _apart(theirs: nn.Module, ours: nn.Module, image: Tensor) -> float:
    with torch.no_grad():
        return (theirs(image) - ours(image)).abs().max().item()


def _forward(model: nn.Module, image: Tensor) -> None:
    with torch.no_grad():
        model(image)


def _train(model: nn.Module, image: Tensor) -> None:
    model.zero_grad(set_to_none=True)
    model(image).square().mean().backward()


def _in_turn(
    repeats: int,
    run: Callable,
    around: dict[nn.Module, Callable[[], AbstractContextManager]],
    *,
    warm: int = 1,
) -> list[float]:
    """Median processor seconds of each model, run in its context after `warm` other runs there.

    Memory that a training keeps has found its size after two steps.
    """
    rounds = []
    for _ in range(repeats):
        seconds = []
        for model, context in around.items():
            with context():
                for _ in range(warm):
                    run(model)
                start = time.process_time()
                run(model)
                seconds.append(time.process_time() - start)
        rounds.append(seconds)
    return [statistics.median(column) for column in zip(*rounds, strict=True)]


def _row(name: str, seconds: list[float], held: list[float] | None, difference: float) -> str:
    theirs, ours = seconds
    memory = ["", ""] if held is None else [f"{gib:.2f} GiB" for gib in held]
    times = [f"{theirs:.2f} s", f"{ours:.2f} s", f"x{theirs / ours:.2f}"]
    return "| " + " | ".join([name, *times, *memory, f"{difference:.0e}"]) + " |"


if __name__ == "__main__":
    main()
