"""Multi-head self-attention inside 3D windows, with a learned relative position bias."""

import math

import torch
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor, nn

from medseg.nn.drop_in import Linear
from medseg.nn.kernels import Kernels
from medseg_kernels.window_attention import window_attention

Triple = tuple[int, int, int]


class WindowAttention(nn.Module):
    """Swin's attention on a token grid of any size (arXiv 2103.14030).

    `window` is the largest window and `shift` how far it is moved; on an axis with no more tokens
    than the window, the window is the axis and nothing is moved. Sizes that the window does not
    divide are padded at the far end by zero tokens, which take part as in Swin.

    With `faithful` the position bias of such a smaller window is read as MONAI reads it: pair
    (p, q) takes the entry that tokens number p and q have in the full window, which is not their
    offset. Weights trained that way need it; new training does not (97 % of the entries of a
    4x4x4 window in a table for 7x7x7 would mean another offset).
    """

    def __init__(
        self,
        *,
        channels: int,
        heads: int,
        window: Triple,
        shift: Triple = (0, 0, 0),
        drop_rate: float = 0.0,
        attention_drop_rate: float = 0.0,
        faithful: bool = False,
    ) -> None:
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.attention_drop_rate, self.faithful = attention_drop_rate, faithful
        self.kernels: Kernels = "fast"
        self.qkv = Linear(channels, 3 * channels)
        self.proj = Linear(channels, channels)
        self.table = nn.Parameter(torch.empty(math.prod(2 * w - 1 for w in window), heads))
        self.drop = nn.Dropout(drop_rate)
        nn.init.trunc_normal_(self.table, std=0.02)

    def forward(
        self, x: Float[Tensor, "b i j k c"], norm: nn.LayerNorm | None = None
    ) -> Float[Tensor, "b i j k c"]:
        """The attended tokens, normed before where a norm is given."""
        window, shift = self.effective((x.shape[1], x.shape[2], x.shape[3]))
        i, j, k = (2 * w - 1 for w in self.window)
        tokens = window_attention(
            self.qkv(x, norm),
            heads=self.heads,
            window=window,
            shift=shift,
            table=rearrange(self.table, "(i j k) h -> i j k h", i=i, j=j, k=k),
            position="prefix" if self.faithful else "geometric",
            padding=self.qkv.bias,
            dropout=self.attention_drop_rate if self.training else 0.0,
            backend="reference" if self.kernels == "reference" else None,
        )
        return self.drop(self.proj(tokens))

    def effective(self, size: Triple) -> tuple[Triple, Triple]:
        """The window and the shift on a grid of this size."""
        window = [min(w, s) for w, s in zip(self.window, size, strict=True)]
        shift = [0 if s <= w else m for w, s, m in zip(self.window, size, self.shift, strict=True)]
        return (window[0], window[1], window[2]), (shift[0], shift[1], shift[2])

    def pair_entries(self) -> Int64[Tensor, "n n"]:
        """The row of `table` that each pair of tokens of a full window reads."""
        place = torch.cartesian_prod(*(torch.arange(w) for w in self.window))
        offset = place[:, None] - place[None] + torch.tensor(self.window) - 1
        _, j, k = (2 * w - 1 for w in self.window)
        return offset @ torch.tensor((j * k, k, 1))
