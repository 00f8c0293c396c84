"""Multi-head self-attention inside given groups of a 3D token grid."""

from jaxtyping import Float
from torch import Tensor, nn

from medseg.nn.drop_in import Linear
from medseg.nn.kernels import Kernels
from medseg.nn.token_groups import Scope
from medseg_kernels.window_attention import window_attention


class GroupAttention(nn.Module):
    """Attention without position bias; `scope` says which tokens see each other.

    Where the groups leave padding in, it takes part as zero tokens do: with the projection's bias.
    """

    def __init__(
        self,
        *,
        channels: int,
        heads: int,
        scope: Scope,
        drop_rate: float = 0.0,
        attention_drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.heads, self.scope, self.attention_drop_rate = heads, scope, attention_drop_rate
        self.kernels: Kernels = "fast"
        self.qkv = Linear(channels, 3 * channels)
        self.proj = Linear(channels, channels)
        self.drop = nn.Dropout(drop_rate)

    def forward(
        self, x: Float[Tensor, "b i j k c"], norm: nn.LayerNorm | None = None
    ) -> Float[Tensor, "b i j k c"]:
        """The attended tokens, normed before where a norm is given."""
        groups = self.scope.groups((x.shape[1], x.shape[2], x.shape[3]))
        tokens = window_attention(
            self.qkv(x, norm),
            heads=self.heads,
            window=groups.window,
            dilation=groups.dilation,
            padding=None if groups.masked else self.qkv.bias,
            dropout=self.attention_drop_rate if self.training else 0.0,
            backend="reference" if self.kernels == "reference" else None,
        )
        return self.drop(self.proj(tokens))
