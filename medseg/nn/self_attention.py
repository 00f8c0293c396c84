"""Attention of every token to every other, without n x n weights in memory."""

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from medseg.nn.drop_in import Linear


class SelfAttention(nn.Module):
    """Multi-head self-attention over all tokens, without positions."""

    def __init__(
        self,
        *,
        channels: int,
        heads: int,
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        attention_drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.heads, self.attention_drop_rate = heads, attention_drop_rate
        self.qkv = Linear(channels, 3 * channels, bias=qkv_bias)
        self.proj = Linear(channels, channels)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """The attended tokens."""
        query, key, value = rearrange(self.qkv(x), "b n (s h d) -> s b h n d", s=3, h=self.heads)
        attended = functional.scaled_dot_product_attention(
            query, key, value, dropout_p=self.attention_drop_rate if self.training else 0.0
        )
        return self.drop(self.proj(rearrange(attended, "b h n d -> b n (h d)")))
