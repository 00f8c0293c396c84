"""Swin's transformer block and patch merging on a 3D token grid."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from medseg.nn.drop_in import Linear
from medseg.nn.drop_path import DropPath

Offsets = Sequence[tuple[int, int, int]]


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, *, channels: int, hidden: int, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.expand = Linear(channels, hidden)
        self.contract = Linear(hidden, channels)
        self.drop = nn.Dropout(drop_rate)

    def forward(
        self, x: Float[Tensor, "... c"], norm: nn.LayerNorm | None = None
    ) -> Float[Tensor, "... c"]:
        """Each token on its own, normed before where a norm is given."""
        hidden = self.expand(x, norm)
        if self.drop.p and self.training:
            return self.drop(self.contract(self.drop(nn.functional.gelu(hidden))))
        return self.contract(hidden, gelu=True)


class SwinBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); the attention is given.

    It is called with the tokens and their norm, or is an nn.Identity. With `gradient_checkpointing`
    both branches are computed again in the backward pass.
    """

    def __init__(
        self,
        *,
        channels: int,
        attention: nn.Module,
        mlp: nn.Module,
        drop_path_rate: float = 0.0,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(channels), attention
        self.norm2, self.mlp = nn.LayerNorm(channels), mlp
        self.drop_path = DropPath(rate=drop_path_rate)
        self.gradient_checkpointing = gradient_checkpointing

    def forward(self, x: Float[Tensor, "b i j k c"]) -> Float[Tensor, "b i j k c"]:
        """The tokens after both branches."""
        x = x + self.drop_path(self._run(self._attend, x))
        return x + self.drop_path(self._run(self._transform, x))

    def _attend(self, x: Tensor) -> Tensor:
        if isinstance(self.attention, nn.Identity):
            return self.norm1(x)
        return self.attention(x, self.norm1)

    def _transform(self, x: Tensor) -> Tensor:
        return self.mlp(x, self.norm2)

    def _run(self, branch: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return checkpoint(branch, x, use_reentrant=False)
        return branch(x)


class PatchMerging(nn.Module):
    """Halves the grid: eight neighbors side by side in the channels, normed and mixed to 2 c.

    `offsets` says which neighbor stands where. An odd side is padded by zeros at its far end.
    """

    def __init__(self, *, channels: int, offsets: Offsets) -> None:
        super().__init__()
        self.offsets = tuple(offsets)
        self.norm = nn.LayerNorm(8 * channels)
        self.reduction = Linear(8 * channels, 2 * channels, bias=False)

    def forward(self, x: Float[Tensor, "b i j k c"]) -> Float[Tensor, "b i2 j2 k2 d"]:
        """The coarser grid."""
        odd = [side % 2 for side in x.shape[1:4]]
        if any(odd):
            x = nn.functional.pad(x, (0, 0, 0, odd[2], 0, odd[1], 0, odd[0]))
        neighbors = [x[:, i::2, j::2, k::2] for i, j, k in self.offsets]
        return self.reduction(torch.cat(neighbors, dim=-1), self.norm)
