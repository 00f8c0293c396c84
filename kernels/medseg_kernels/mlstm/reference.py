"""The mLSTM cell in plain torch, twice: all tokens at once, and one token after the other.

Beck et al., xLSTM (arXiv 2405.04517), equations 19 to 27 and appendix A.3, with the constant 1e-6
that the vision networks add to the normalizer. Each is the truth for the other.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from medseg_kernels.mlstm.given import Given, Lanes

EPSILON = 1e-6
# Beyond it the exponential leaves float32; what is divided by e^80 is nothing either way.
MOST = 80.0


def in_lanes(cell: Callable[..., Tensor], given: Given, lanes: Lanes) -> Tensor:
    """What the lanes read (b, lane, n, d); backward by turning tokens round, and what is read."""
    exact = torch.promote_types(given.query.dtype, torch.float32)
    wide = Given(*(one.to(exact) for one in given))
    ahead = cell(*wide.heads(lanes, backward=False))
    turned = (one.flip(2) for one in wide.heads(lanes, backward=True))
    return torch.cat([ahead, cell(*turned).flip(2)], dim=1).to(given.query.dtype)


def parallel(
    query: Tensor,  # (b, h, n, d)
    key: Tensor,  # (b, h, n, d)
    value: Tensor,  # (b, h, n, d)
    input_gate: Tensor,  # (b, h, n), before the exponential
    forget_gate: Tensor,  # (b, h, n), before the sigmoid
) -> Tensor:  # (b, h, n, d)
    """All tokens at once; holds some n x n matrices a head."""
    forgotten = functional.logsigmoid(forget_gate).cumsum(-1)
    weight = forgotten[..., :, None] - forgotten[..., None, :] + input_gate[..., None, :]
    later = torch.ones(weight.shape[-2:], dtype=torch.bool, device=weight.device).triu(1)
    weight = weight.masked_fill(later, -math.inf)
    largest = weight.amax(-1, keepdim=True)
    similar = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    mixed = similar * (weight - largest).exp()
    normal = torch.maximum(mixed.sum(-1, keepdim=True).abs(), (-largest).clamp(max=MOST).exp())
    return mixed @ value / (normal + EPSILON)


def recurrent(
    query: Tensor, key: Tensor, value: Tensor, input_gate: Tensor, forget_gate: Tensor
) -> Tensor:
    """One token after the other; shapes as in `parallel`."""
    size = query.shape[-1]
    memory = query.new_zeros(*query.shape[:2], size, size)
    normal = query.new_zeros(*query.shape[:2], size)
    largest = query.new_full(query.shape[:2], -math.inf)
    kept = functional.logsigmoid(forget_gate)
    key = key / math.sqrt(size)
    outputs = []
    for n in range(query.shape[2]):
        before, largest = largest, torch.maximum(kept[..., n] + largest, input_gate[..., n])
        fade = (kept[..., n] + before - largest).exp()[..., None]
        gain = (input_gate[..., n] - largest).exp()[..., None]
        k, v, q = key[:, :, n], value[:, :, n], query[:, :, n]
        memory = fade[..., None] * memory + (gain * k)[..., None] * v[..., None, :]
        normal = fade * normal + gain * k
        read = (q[..., None, :] @ memory)[..., 0, :]
        weight = (q * normal).sum(-1, keepdim=True).abs()
        bound = (-largest).clamp(max=MOST).exp()[..., None]
        outputs.append(read / (torch.maximum(weight, bound) + EPSILON))
    return torch.stack(outputs, dim=2)
