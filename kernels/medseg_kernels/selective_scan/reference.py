"""The selective scan as it is written: one token after the other."""

import torch
from torch import Tensor


def forward(
    x: Tensor,  # (b, d, n)
    step: Tensor,  # (b, d, n)
    decay: Tensor,  # (d, s)
    write: Tensor,  # (b, s, n)
    read: Tensor,  # (b, s, n)
    skip: Tensor,  # (d,)
) -> Tensor:  # (b, d, n)
    """h_t = exp(step_t decay) h_(t-1) + step_t write_t x_t;  y_t = read_t . h_t + skip x_t."""
    given = (x, step, decay, write, read, skip)
    exact = torch.promote_types(x.dtype, torch.float32)
    return _scanned(*(one.to(exact) for one in given)).to(x.dtype)


def _scanned(
    x: Tensor, step: Tensor, decay: Tensor, write: Tensor, read: Tensor, skip: Tensor
) -> Tensor:
    state = x.new_zeros(*x.shape[:2], decay.shape[1])
    outputs = []
    for n in range(x.shape[2]):
        kept = (step[:, :, n, None] * decay).exp()
        state = kept * state + (step[:, :, n] * x[:, :, n])[..., None] * write[:, None, :, n]
        outputs.append((state * read[:, None, :, n]).sum(-1, keepdim=True))
    return torch.cat(outputs, dim=2) + skip[:, None] * x
