"""The layers that window_attention.py compares: one set of weights, several ways to attend."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from monai.networks.nets.swin_unetr import (
    SwinTransformerBlock,
    compute_mask,
    window_partition,
    window_reverse,
)
from torch import Tensor, nn
from torch.nn import functional

from medseg.nn.window_attention import WindowAttention
from medseg_kernels.window_attention import Backend, window_attention

WINDOW, SHIFT = (7, 7, 7), (3, 3, 3)

Layer = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Stage:
    """A stage of Swin UNETR: tokens along an axis, channels, heads."""

    name: str
    size: int
    channels: int
    heads: int


class Weights:
    """Those of MONAI's layer, which all layers share; it has no norm and no MLP."""

    def __init__(self, stage: Stage, device: str, dtype: torch.dtype) -> None:
        block = SwinTransformerBlock(
            stage.channels, stage.heads, WINDOW, SHIFT, use_checkpoint=False
        )
        block.norm1 = nn.Identity()
        self.block = block.to(device, dtype)
        self.qkv, self.proj = block.attn.qkv, block.attn.proj
        self.table = block.attn.relative_position_bias_table
        self.stage = stage
        ours = WindowAttention(
            channels=stage.channels, heads=stage.heads, window=WINDOW, shift=SHIFT
        )
        self.window, self.shift = ours.effective((stage.size, stage.size, stage.size))
        n = self.window[0] * self.window[1] * self.window[2]
        self.entries = block.attn.relative_position_index[:n, :n].to(device)
        padded = [-(-stage.size // w) * w for w in self.window]
        self.mask = None
        if any(self.shift):
            self.mask = compute_mask(padded, self.window, self.shift, device).to(dtype)


def monai(weights: Weights) -> Layer:
    return lambda x: weights.block.forward_part1(x, weights.mask)


def ours(weights: Weights, backend: Backend) -> Layer:
    return lambda x: weights.proj(attended(weights, weights.qkv(x), backend))


def attended(weights: Weights, qkv: Tensor, backend: Backend) -> Tensor:
    """Attention alone."""
    return window_attention(
        qkv,
        heads=weights.stage.heads,
        window=weights.window,
        shift=weights.shift,
        table=weights.table.view(13, 13, 13, -1),
        position="prefix",  # as MONAI reads it where the window is smaller
        padding=weights.qkv.bias,
        backend=backend,
    )


def linear(weights: Weights) -> Layer:
    """The two linear layers, which are part of every layer."""
    return lambda x: weights.proj(weights.qkv(x)[..., : weights.stage.channels])


def fused(weights: Weights) -> Layer:
    """torch's fused attention on copied windows, with bias and mask as one tensor."""

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        bias = weights.table[weights.entries].permute(2, 0, 1)[None]
        if weights.mask is not None:
            bias = bias + weights.mask[:, None]
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)

    return lambda x: _partitioned(weights, x, attend)


def flex(weights: Weights) -> Layer:
    """FlexAttention on copied windows: bias and mask are looked up for each score."""
    from torch.nn.attention.flex_attention import flex_attention  # noqa: PLC0415

    compiled = torch.compile(flex_attention, fullgraph=True)
    number = torch.arange(len(weights.entries), device=weights.table.device)
    i, j, k = torch.unravel_index(number, WINDOW)
    place = (i * 13 + j) * 13 + k
    center = (6 * 13 + 6) * 13 + 6
    side = None if weights.mask is None else _sides(weights.mask)

    def biased(score: Tensor, window: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        score = score + weights.table[place[q] - place[k] + center, head]
        if side is not None:
            score = torch.where(side[window, q] == side[window, k], score, -float("inf"))
        return score

    return lambda x: _partitioned(weights, x, lambda q, k, v: compiled(q, k, v, score_mod=biased))


def _sides(mask: Tensor) -> Tensor:
    """A number that tokens of a window share that see each other: the first one they see."""
    return (mask == 0).int().argmax(-1)


def _partitioned(
    weights: Weights, x: Tensor, attend: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> Tensor:
    """Pad, roll, cut, attend, and back, as MONAI does it."""
    (*_, i, j, k, c), window = x.shape, list(weights.window)
    growth = [side for n, w in zip((k, j, i), window[::-1], strict=True) for side in (0, -n % w)]
    grid = functional.pad(x, (0, 0, *growth))
    rolled = torch.roll(grid, [-s for s in weights.shift], (1, 2, 3))
    qkv = weights.qkv(window_partition(rolled, window))
    query, key, value = qkv.unflatten(-1, (3, weights.stage.heads, -1)).permute(2, 0, 3, 1, 4)
    mixed = weights.proj(attend(query, key, value).transpose(1, 2).flatten(2))
    grid = window_reverse(mixed.reshape(-1, *window, c), window, list(grid.shape[:4]))
    return torch.roll(grid, weights.shift, (1, 2, 3))[:, :i, :j, :k].contiguous()
