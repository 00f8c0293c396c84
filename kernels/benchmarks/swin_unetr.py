"""Swin UNETR here against MONAI's, same weights, same process, in turn.

python kernels/benchmarks/swin_unetr.py [--feature-size 48] [--size 64] [--repeats 1] [--threads 1]
[--device cpu] prints rows of kernels/README.md: processor seconds of each and their ratio. Ours
runs as it does in training, where freed memory stays with the process; with --reuse MONAI's does
too. int8: ours with its larger convolutions in eight bits, as `medseg predict --precision int8` has
them. With --device cuda, under autocast to bfloat16, milliseconds of the device, torch.compile of
MONAI's as a further peer, and the largest memory of a call beside what was held before it.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from expected import Work, add_device, is_there
from machine import machine
from measured import in_turn, kept, peak, ratio
from monai.networks.nets.swin_unetr import SwinUNETR as Reference
from torch import Tensor, nn

from medseg.models.checkpoints.monai_swin_unetr import load_monai
from medseg.models.cost import cost
from medseg.models.swin_unetr import SwinUNETR
from medseg.nn.int8 import in_int8, refuses
from medseg.nn.memory import reused_memory


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    print(machine())
    if not is_there(options.device, partial(_works, options)):
        return
    if options.device == "cuda":
        _cuda(options)
        return
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
    add_device(parser)
    return parser.parse_args()


def _works(options: argparse.Namespace) -> dict[str, Work]:
    """Each layer's map read and written once, its products; on the way back twice as much."""
    works = {}
    for feature_size in options.feature_size:
        with torch.device("meta"):
            model = SwinUNETR(**_settings(feature_size))
        for size in options.size:
            whole = cost(model, in_channels=1, patch_size=(size,) * 3)
            moved = _moved(model, torch.empty(1, 1, size, size, size, device="meta"))
            one, name = Work(moved, 2e9 * whole.gmacs), f"f{feature_size} {size}^3"
            works[f"{name} forward"] = one
            works[f"{name} forward + backward"] = one.times(3, flops=3, exponentials=0)
    return works


def _moved(model: nn.Module, image: Tensor) -> int:
    """Bytes that the layers of `model` read and write in bfloat16, their weights apart."""
    numbers = []

    def count(_layer: nn.Module, given: tuple[Tensor, ...], result: Tensor) -> None:
        numbers.extend(one.numel() for one in (*given, result) if isinstance(one, Tensor))

    layers = [layer for layer in model.modules() if not list(layer.children())]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    model(image)
    for hook in hooks:
        hook.remove()
    return 2 * sum(numbers)


def _cuda(options: argparse.Namespace) -> None:
    print("| what | form | ms | MONAI / it | peak | kept | largest difference |")
    print("|---|---|---|---|---|---|---|")
    for feature_size in options.feature_size:
        theirs, ours = (model.cuda() for model in _pair(feature_size))
        forms = {"MONAI": theirs, "MONAI, compiled": torch.compile(theirs), "here": ours}
        for size in options.size:
            image = torch.randn(1, 1, size, size, size, device="cuda")
            with torch.autocast("cuda", torch.bfloat16):
                for row in _device_rows(forms, image, max(options.repeats, 5)):
                    print(f"| f{feature_size} {size}^3 {' | '.join(row)} |", flush=True)


def _device_rows(forms: dict[str, nn.Module], image: Tensor, repeats: int) -> Iterator[list[str]]:
    """Of each pass and form; the first is what the others are compared with."""
    first = next(iter(forms.values()))
    held = {name: kept(partial(form, image), form) / 2**30 for name, form in forms.items()}
    for passes, run in (("forward", _forward), ("forward + backward", _train)):
        calls = [partial(run, form, image) for form in forms.values()]
        times = in_turn(calls, repeats=repeats, device="cuda")
        for (name, form), call, column in zip(forms.items(), calls, times, strict=True):
            yield [
                passes,
                name,
                f"{statistics.median(column):.1f}",
                f"x{ratio(times[0], column):.2f}",
                f"{peak(call, 'cuda') / 2**30:.2f} GiB",
                f"{held[name]:.2f} GiB" if run is _train else "",
                f"{_apart(first, form, image):.0e}",
            ]


def _settings(feature_size: int) -> dict[str, int]:
    return {"in_channels": 1, "out_channels": 14, "feature_size": feature_size}


def _pair(feature_size: int) -> tuple[nn.Module, nn.Module]:
    theirs = Reference(**_settings(feature_size))
    ours = SwinUNETR(**_settings(feature_size), faithful=True)
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
