"""One layer of shifted window attention: MONAI's, the plain form here, and the grouped one.

python kernels/benchmarks/window_attention.py [--threads 1] [--repeats 3]
prints rows of kernels/README.md. MONAI's layer is its block without LayerNorm and MLP; both sides
include the two linear layers. Sizes are those of Swin UNETR's stages.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from machine import machine
from monai.networks.nets.swin_unetr import SwinTransformerBlock, compute_mask
from torch import Tensor, nn

from medseg.nn.window_attention import WindowAttention
from medseg_kernels.window_attention import window_attention

# Name, tokens along an axis, channels, heads.
STAGES = (
    ("f24 96^3 stage 1", 48, 24, 3),
    ("f24 96^3 stage 2", 24, 48, 6),
    ("f48 96^3 stage 1", 48, 48, 3),
    ("f48 96^3 stage 3", 12, 192, 12),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(machine())
    print("| shifted layer | MONAI | reference | grouped | ratio | bound | largest difference |")
    print("|---|---|---|---|---|---|---|")
    for name, size, channels, heads in STAGES:
        layers, x = _layers(size, channels, heads)
        with torch.no_grad():
            outputs = [layer(x) for layer in layers]
            difference = max((y - outputs[0]).abs().max().item() for y in outputs)
            forward = _in_turn(options.repeats, [lambda f=f, x=x: f(x) for f in layers])
        bound = _bound(size, channels, heads)
        print(_row(f"{name} forward", forward, bound, difference))
        training = _in_turn(options.repeats, [lambda f=f, x=x: _train(f, x) for f in layers])
        print(_row(f"{name} forward + backward", training, None, difference), flush=True)


def _layers(
    size: int, channels: int, heads: int
) -> tuple[list[Callable[[Tensor], Tensor]], Tensor]:
    window, shift = (7, 7, 7), (3, 3, 3)
    block = SwinTransformerBlock(channels, heads, window, shift, use_checkpoint=False)
    block.norm1 = nn.Identity()
    ours = WindowAttention(channels=channels, heads=heads, window=window, shift=shift)
    ours.qkv.load_state_dict(block.attn.qkv.state_dict())
    ours.proj.load_state_dict(block.attn.proj.state_dict())
    ours.table.data.copy_(block.attn.relative_position_bias_table)

    def theirs(x: Tensor) -> Tensor:
        padded = [-(-size // 7) * 7] * 3
        return block.forward_part1(x, compute_mask(padded, window, shift, x.device))

    def here(x: Tensor, backend: str) -> Tensor:
        options = {"heads": heads, "window": window, "shift": shift, "backend": backend}
        table = ours.table.view(13, 13, 13, heads)
        mixed = window_attention(ours.qkv(x), table=table, padding=ours.qkv.bias, **options)
        return ours.proj(mixed)

    x = torch.randn(1, size, size, size, channels)
    return [theirs, lambda x: here(x, "reference"), lambda x: here(x, "grouped")], x


def _train(layer: Callable[[Tensor], Tensor], x: Tensor) -> None:
    layer(x.clone().requires_grad_()).square().mean().backward()


def _in_turn(repeats: int, runs: list[Callable[[], object]]) -> list[float]:
    """Median processor milliseconds of each; the first round only warms up."""
    rounds = []
    for _ in range(repeats + 1):
        row = []
        for run in runs:
            start = time.process_time()
            run()
            row.append(1e3 * (time.process_time() - start))
        rounds.append(row)
    return [statistics.median(column) for column in zip(*rounds[1:], strict=True)]


def _bound(size: int, channels: int, heads: int) -> float:
    """Milliseconds of the products alone, at the speed of a large product of matrices here."""
    n, groups = 343, (-(-size // 7)) ** 3
    flops = groups * (4 * n * n * channels + 8 * n * channels * channels)
    a = torch.randn(2048, 2048)
    start = time.process_time()
    for _ in range(3):
        a @ a
    flops_a_second = 3 * 2 * 2048**3 / (time.process_time() - start)
    exponentials = torch.randn(heads, n, n)
    start = time.process_time()
    for _ in range(10):
        exponentials.exp_().clamp_(max=1)
    return 1e3 * (flops / flops_a_second + groups * (time.process_time() - start) / 10)


def _row(name: str, times: list[float], bound: float | None, difference: float) -> str:
    shown = [f"{ms:.0f} ms" for ms in times]
    shown += [f"x{times[0] / times[-1]:.1f}", "" if bound is None else f"{bound:.0f} ms"]
    return "| " + " | ".join([name, *shown, f"{difference:.0e}"]) + " |"


if __name__ == "__main__":
    main()
