"""Attention of linear cost, in space and across channels, and the block of both.

Shapes: a grid of tokens is (b, i, j, c) or (b, i, j, k, c). Efficient attention is Shen et al.'s
(arXiv 1812.01243), the transposed one that of XCiT (arXiv 2106.09681), the reduced one SegFormer's
(arXiv 2105.15203); their block is DAE-Former's (arXiv 2212.13504).
"""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from medseg.nn.depthwise import Depthwise
from medseg.nn.drop_in import Linear

_CELLS = {
    2: "b (i p) (j q) c -> b i j (p q c)",
    3: "b (i p) (j q) (k r) c -> b i j k (p q r c)",
}


class EfficientAttention(nn.Module):
    """Keys, softmaxed over tokens, gather values once; queries, over channels, read them."""

    def __init__(self, *, channels: int, heads: int = 1) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.proj = (Linear(channels, channels) for _ in range(4))

    def forward(self, x: Float[Tensor, "b ... c"]) -> Float[Tensor, "b ... c"]:
        """The attended tokens."""
        tokens = x.flatten(1, -2)
        query, key, value = (
            rearrange(one(tokens), "b n (h d) -> b h n d", h=self.heads)
            for one in (self.query, self.key, self.value)
        )
        query, key = _softmax(query, -1), _softmax(key, -2).transpose(-1, -2)
        # A matrix of channels, or of tokens where they are fewer.
        many = query.shape[-2] > query.shape[-1]
        read = query @ (key @ value) if many else (query @ key) @ value
        return self.proj(rearrange(read, "b h n d -> b n (h d)")).reshape(x.shape)


class TransposedAttention(nn.Module):
    """Attention between channels: which of them, over all tokens, look alike."""

    def __init__(self, *, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = Linear(channels, 3 * channels, bias=False)
        self.proj = Linear(channels, channels)

    def forward(self, x: Float[Tensor, "b ... c"]) -> Float[Tensor, "b ... c"]:
        """The attended tokens."""
        qkv = self.qkv(x.flatten(1, -2))
        query, key, value = rearrange(qkv, "b n (s h d) -> s b h d n", s=3, h=self.heads)
        query, key = (functional.normalize(one, dim=-1) for one in (query, key))
        weights = _softmax(query @ key.transpose(-1, -2) * self.temperature, -1)
        attended = weights.to(value.dtype) @ value
        return self.proj(rearrange(attended, "b h d n -> b n (h d)")).reshape(x.shape)


class ReducedAttention(nn.Module):
    """Every token attends to a grid `ratio` times as coarse along each axis."""

    def __init__(self, *, channels: int, heads: int, ratio: int, dimensions: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.proj = Linear(channels, channels), Linear(channels, channels)
        self.key_value = Linear(channels, 2 * channels)
        self.ratio, self.pattern = ratio, _CELLS[dimensions]
        # Not a convolution of that step: torch 2.15's is wrong in bfloat16 for an even step of four
        # or more on a CPU with AMX.
        self.reduce = Linear(ratio**dimensions * channels, channels) if ratio > 1 else None
        self.norm = nn.LayerNorm(channels) if ratio > 1 else nn.Identity()

    def forward(self, x: Float[Tensor, "b ... c"]) -> Float[Tensor, "b ... c"]:
        """The attended tokens."""
        coarse = x
        if self.reduce is not None:
            sides = dict.fromkeys("pqr"[: x.ndim - 2], self.ratio)
            coarse = self.norm(self.reduce(rearrange(x, self.pattern, **sides)))
        query = rearrange(self.query(x.flatten(1, -2)), "b n (h d) -> b h n d", h=self.heads)
        key, value = rearrange(
            self.key_value(coarse.flatten(1, -2)), "b n (s h d) -> s b h n d", s=2, h=self.heads
        )
        attended = functional.scaled_dot_product_attention(query, key, value)
        return self.proj(rearrange(attended, "b h n d -> b n (h d)")).reshape(x.shape)


class ConvolvedMlp(nn.Module):
    """Two linear layers with a depthwise convolution, added to its input, between them."""

    def __init__(self, *, channels: int, hidden: int, dimensions: int) -> None:
        super().__init__()
        self.expand = Linear(channels, hidden)
        self.conv = Depthwise(channels=hidden, side=3, dimensions=dimensions)
        self.norm = nn.LayerNorm(hidden)
        self.contract = Linear(hidden, channels)

    def forward(self, x: Float[Tensor, "b ... c"], norm: nn.LayerNorm) -> Float[Tensor, "b ... c"]:
        """The tokens normed and mixed."""
        hidden = self.expand(x, norm)
        near = self.conv(hidden.movedim(-1, 1)).movedim(1, -1)
        return self.contract(near + hidden, self.norm, gelu=True)


class DualBlock(nn.Module):
    """Attention in space and an MLP, then attention across channels and another, each added."""

    def __init__(
        self, *, channels: int, spatial: nn.Module, across: nn.Module, dimensions: int
    ) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(4))
        self.branches = nn.ModuleList(
            [
                spatial,
                ConvolvedMlp(channels=channels, hidden=4 * channels, dimensions=dimensions),
                across,
                ConvolvedMlp(channels=channels, hidden=4 * channels, dimensions=dimensions),
            ]
        )

    def forward(self, x: Float[Tensor, "b ... c"]) -> Float[Tensor, "b ... c"]:
        """The tokens after all four branches."""
        for norm, branch in zip(self.norms, self.branches, strict=True):
            x = x + (branch(x, norm) if isinstance(branch, ConvolvedMlp) else branch(norm(x)))
        return x


def _softmax(x: Tensor, axis: int) -> Tensor:
    """The softmax, summed in float32 at least, in the type of `x`."""
    wide = torch.float32 if x.dtype.itemsize < 4 else x.dtype
    return x.softmax(axis, dtype=wide).to(x.dtype)
