"""Vision-LSTM blocks: the mLSTM cell over the tokens of an image, row by row.

Alkin et al., Vision-LSTM (arXiv 2406.04303), first version; Beck et al., xLSTM (arXiv 2405.04517).
The two causes of NaN that its users met are kept out: gates and cell are computed in float32
whatever the precision of the network, and `depth` scales the last projection of a block as its
authors meant (their vision code starts every block as if it were the only one).
"""

import math

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from medseg.nn.drop_in import Linear
from medseg.nn.kernels import Kernels
from medseg_kernels.mlstm import mlstm

EXPANSION = 2
PROJECTION_BLOCK = 4
KERNEL = 4


class VisionLSTMBlock(nn.Module):
    """x + layer(norm(x)); with `backward` the tokens are read from the last to the first.

    Shapes: tokens (b, n, c) in and out.
    """

    def __init__(self, *, channels: int, backward: bool = False, depth: int = 1) -> None:
        super().__init__()
        self.norm = ShiftedNorm(channels)
        self.layer = VisionLSTMLayer(channels=channels, backward=backward, depth=depth)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """The tokens after the block."""
        return x + self.layer(self.norm(x))


class VisionLSTMLayer(nn.Module):
    """Twice as wide: a causal convolution, the mLSTM cell, and a gate beside them.

    It has four heads, and query, key and value mix four channels at a time; two of both where four
    do not divide the channels. `depth` counts such layers in the network. With `backward` what
    comes later in the order of the tokens comes earlier here.
    """

    def __init__(self, *, channels: int, backward: bool = False, depth: int = 1) -> None:
        super().__init__()
        self.kernels: Kernels = "fast"
        self.backward = backward
        inner = EXPANSION * channels
        self.heads = heads_of(channels)
        self.proj_up = Linear(channels, 2 * inner, bias=False)
        self.conv = nn.Conv1d(inner, inner, KERNEL, groups=inner)
        self.query, self.key, self.value = (
            BlockDiagonal(channels=inner, blocks=inner // self.heads) for _ in range(3)
        )
        self.input_gate = Linear(3 * inner, self.heads)
        self.forget_gate = Linear(3 * inner, self.heads)
        self.norm = nn.Parameter(torch.zeros(inner))
        self.skip = nn.Parameter(torch.ones(inner))
        self.proj_down = Linear(inner, channels, bias=False)
        self._initialize(channels, depth)

    def _initialize(self, channels: int, depth: int) -> None:
        for weight in (
            self.proj_up.weight,
            *(p.weight for p in (self.query, self.key, self.value)),
        ):
            nn.init.normal_(weight, std=math.sqrt(2 / (5 * channels)))
        nn.init.normal_(self.proj_down.weight, std=2 / depth / math.sqrt(channels))
        for gate in (self.input_gate, self.forget_gate):
            nn.init.zeros_(gate.weight)
        nn.init.normal_(self.input_gate.bias, std=0.1)
        with torch.no_grad():
            self.forget_gate.bias.copy_(torch.linspace(3, 6, self.heads))

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """The mixed tokens, each of which has seen those before it."""
        mixed, gate = self.proj_up(x).chunk(2, dim=-1)
        activated = functional.silu(self._causal(mixed))
        query, key, value = self.query(activated), self.key(activated), self.value(mixed)
        read = self._cell(query, key, value)
        return self.proj_down((read + self.skip * activated) * functional.silu(gate))

    def _causal(self, tokens: Tensor) -> Tensor:
        """The convolution of each token with the three before it."""
        tokens = rearrange(tokens, "b n c -> b c n")
        weight, bias, groups = self.conv.weight, self.conv.bias, self.conv.groups
        if self.backward:
            weight, tokens = weight.flip(-1), functional.pad(tokens, (0, KERNEL - 1))
        else:
            tokens = functional.pad(tokens, (KERNEL - 1, 0))
        found = functional.conv1d(tokens, weight, bias, groups=groups)
        return rearrange(found, "b c n -> b n c")

    def _cell(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        inputs = torch.cat([query, key, value], dim=-1)
        query, key, value = (
            rearrange(one, "b n (h d) -> b h n d", h=self.heads) for one in (query, key, value)
        )
        read = mlstm(
            query,
            key,
            value,
            rearrange(_gate(self.input_gate, inputs), "b n h -> b h n"),
            rearrange(_gate(self.forget_gate, inputs), "b n h -> b h n"),
            direction="backward" if self.backward else "forward",
            backend=None if self.kernels == "fast" else "torch",
        )
        normed = functional.layer_norm(rearrange(read, "b h n d -> b n h d"), read.shape[-1:])
        whole = rearrange(normed, "b n h d -> b n (h d)") * (1 + self.norm)
        return whole.to(inputs.dtype)


class BlockDiagonal(nn.Module):
    """A linear map that mixes channels only inside blocks of `channels / blocks` each."""

    def __init__(self, *, channels: int, blocks: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(blocks, channels // blocks, channels // blocks))

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """The mapped tokens."""
        x = rearrange(x, "b n (g d) -> b n g d", g=len(self.weight))
        return rearrange(torch.einsum("bngd,god->bngo", x, self.weight), "b n g o -> b n (g o)")


class ShiftedNorm(nn.Module):
    """Layer norm without bias whose weight is stored as its difference from one."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Float[Tensor, "... c"]) -> Float[Tensor, "... c"]:
        """Each token normalized."""
        return functional.layer_norm(x, x.shape[-1:], 1 + self.weight)


def heads_of(channels: int) -> int:
    """Four heads, or two where four do not divide the channels."""
    return 4 if channels % 4 == 0 else 2


def _gate(linear: nn.Linear, inputs: Tensor) -> Tensor:
    """A gate before its activation, in float32 at least: its exponential is what overflows."""
    if inputs.dtype.itemsize >= 4:
        return linear(inputs)
    with torch.autocast(inputs.device.type, enabled=False):
        return functional.linear(inputs.float(), linear.weight.float(), linear.bias.float())
