"""One layer of shifted window attention: MONAI's, and the forms here with the same weights.

python kernels/benchmarks/window_attention.py [--threads 1] [--repeats 1] [--device cpu]
prints rows of kernels/README.md: processor milliseconds on a CPU, and what the stages of Swin
UNETR would take at least on a GPU that is not there. With --device cuda, in bfloat16, milliseconds
of the device: further peers are torch.compile of MONAI's layer, torch's fused attention and
FlexAttention on copied windows; bounds are those of the bytes, products and exponentials that the
attention needs, at the speeds that this device reaches. Layers include their two linear layers.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
import window_attention_layers as layers
from expected import Work, add_device, expect, is_there
from machine import machine
from measured import in_turn, ratio
from torch import Tensor
from window_attention_layers import Layer, Stage, Weights

CPU_STAGES = (
    Stage("f24 96^3 stage 1", 48, 24, 3),
    Stage("f24 96^3 stage 2", 24, 48, 6),
    Stage("f48 96^3 stage 1", 48, 48, 3),
    Stage("f48 96^3 stage 3", 12, 192, 12),
)
GPU_STAGES = tuple(
    Stage(f"f48 {2 * first}^3 stage {n + 1}", first >> n, 48 << n, 3 << n)
    for first in (48, 64)
    for n in range(4)
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=1)
    add_device(parser)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(machine())
    if not is_there(options.device, _works):
        return
    if options.device == "cuda":
        _gpu(options.repeats)
    else:
        _cpu(options.repeats)
        expect(_works())


def _cpu(repeats: int) -> None:
    print("| shifted layer | MONAI | reference | grouped | ratio | bound | largest difference |")
    print("|---|---|---|---|---|---|---|")
    for stage in CPU_STAGES:
        weights, x = _drawn(stage, "cpu", torch.float32)
        forms = [
            layers.monai(weights),
            *(layers.ours(weights, b) for b in ("reference", "grouped")),
        ]
        with torch.no_grad():
            outputs = [form(x) for form in forms]
            difference = max((y - outputs[0]).abs().max().item() for y in outputs)
            times = in_turn([partial(form, x) for form in forms], repeats=repeats)
        bound = f"{_cpu_bound(stage):.0f} ms"
        print(_cpu_row(f"{stage.name} forward", times, bound, difference))
        times = in_turn([partial(_train, form, x) for form in forms], repeats=repeats)
        name = f"{stage.name} forward + backward"
        print(_cpu_row(name, times, "", difference), flush=True)


def _cpu_row(name: str, times: list[list[float]], bound: str, difference: float) -> str:
    shown = [f"{statistics.median(column):.0f} ms" for column in times]
    faster = f"x{ratio(times[0], times[-1]):.1f}"
    return "| " + " | ".join([name, *shown, faster, bound, f"{difference:.0e}"]) + " |"


def _cpu_bound(stage: Stage) -> float:
    """Milliseconds of the products alone, at the speed of a large product of matrices here."""
    n, groups = 343, (-(-stage.size // 7)) ** 3
    flops = groups * (4 * n * n * stage.channels + 8 * n * stage.channels**2)
    a = torch.randn(2048, 2048)
    start = time.process_time()
    for _ in range(3):
        a @ a
    flops_a_second = 3 * 2 * 2048**3 / (time.process_time() - start)
    exponentials = torch.randn(stage.heads, n, n)
    start = time.process_time()
    for _ in range(10):
        exponentials.exp_().clamp_(max=1)
    return 1e3 * (flops / flops_a_second + groups * (time.process_time() - start) / 10)


def _gpu(repeats: int) -> None:
    from probes import rates  # noqa: PLC0415

    reached = rates()
    told = (f"{1e-12 * rate:.2f}e12 {name}/s" for name, rate in vars(reached).items())
    print("reached here: " + ", ".join(told))
    print("| layer | form | ms | MONAI / it | MB | x bytes | x products or exponentials |")
    print("|---|---|---|---|---|---|---|")
    for stage in GPU_STAGES:
        weights, x = _drawn(stage, "cuda", torch.bfloat16)
        forms = _gpu_forms(weights)
        alone = partial(layers.attended, weights, backend="triton")
        with torch.no_grad():
            qkv = weights.qkv(x)
        for passes in ("forward", "forward + backward"):
            run = _forward if passes == "forward" else _train
            calls = {name: partial(run, form, x) for name, form in forms.items()}
            calls["triton, attention alone"] = partial(run, alone, qkv)
            captured = [_captured(calls[name]) for name in list(calls)[-2:]]
            calls["triton, in a CUDA graph"], calls["attention alone, in a graph"] = captured
            times = in_turn(list(calls.values()), repeats=max(repeats, 9), device="cuda")
            for name, column in zip(calls, times, strict=True):
                faster = f"x{ratio(times[0], column):.1f}"
                bounds = _bounds(stage, passes, reached) if "alone" in name else None
                print(_gpu_row(f"{stage.name} {passes}", name, column, faster, bounds), flush=True)


def _gpu_forms(weights: Weights) -> dict[str, Layer]:
    monai = layers.monai(weights)
    return {
        "MONAI": monai,
        "MONAI, compiled": torch.compile(monai),
        "fused attention, copied windows": layers.fused(weights),
        "FlexAttention, copied windows": layers.flex(weights),
        "linear layers alone": layers.linear(weights),
        "grouped": layers.ours(weights, "grouped"),
        "triton": layers.ours(weights, "triton"),
    }


def _gpu_row(
    layer: str, form: str, column: list[float], faster: str, bounds: tuple[float, ...] | None
) -> str:
    ms, cells = statistics.median(column), ["", "", ""]
    if bounds is not None:
        megabytes, moved, computed = bounds
        cells = [f"{megabytes:.0f}", f"{ms / moved:.1f}", f"{ms / computed:.1f}"]
    return "| " + " | ".join([layer, form, f"{ms:.3f}", faster, *cells]) + " |"


def _captured(call: Callable[[], None]) -> Callable[[], None]:
    """The call without what Python and its launches cost: a CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def _works() -> dict[str, Work]:
    """What attention alone needs, stage by stage."""
    return {
        f"{stage.name} {passes}": _work(stage, passes)
        for stage in GPU_STAGES
        for passes in ("forward", "forward + backward")
    }


def _work(stage: Stage, passes: str) -> Work:
    """What attention from qkv to tokens needs: bytes once, two products, an exponential a pair.

    The backward pass reads qkv, the output and its gradient and writes that of qkv; it takes the
    exponentials again, and five products.
    """
    window = min(7, stage.size)
    n, groups = window**3, (-(-stage.size // window)) ** 3
    tokens, pairs = stage.size**3, groups * stage.heads * n * n
    one = Work(2 * tokens * 4 * stage.channels, 4 * pairs * stage.channels // stage.heads, pairs)
    return one if passes == "forward" else one.times(3, flops=7 / 2, exponentials=2)


def _bounds(stage: Stage, passes: str, reached: Work) -> tuple[float, float, float]:
    """Megabytes, and the milliseconds of the bytes and of the rest."""
    work = _work(stage, passes)
    took = work.seconds(reached)
    return work.bytes / 1e6, 1e3 * took.bytes, 1e3 * max(took.flops, took.exponentials)


def _drawn(stage: Stage, device: str, dtype: torch.dtype) -> tuple[Weights, Tensor]:
    shape = (1, stage.size, stage.size, stage.size, stage.channels)
    return Weights(stage, device, dtype), torch.randn(shape, device=device, dtype=dtype)


def _forward(layer: Layer, x: Tensor) -> None:
    with torch.no_grad():
        layer(x)


def _train(layer: Layer, x: Tensor) -> None:
    layer(x.detach().requires_grad_()).square().mean().backward()


if __name__ == "__main__":
    main()
