"""The mLSTM cell: attention whose memory fades, in time and memory linear in the tokens."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from medseg_kernels.mlstm import chunkwise, reference

__all__ = ["Form", "mlstm"]

Form = Literal["chunkwise", "parallel", "recurrent"]


def mlstm(
    query: Tensor,  # (b, h, n, d)
    key: Tensor,  # (b, h, n, d)
    value: Tensor,  # (b, h, n, d)
    input_gate: Tensor,  # (b, h, n)
    forget_gate: Tensor,  # (b, h, n)
    *,
    form: Form = "chunkwise",
    chunk: int = 64,
) -> Tensor:  # (b, h, n, d)
    """What each token reads from the memory that the tokens up to it have written.

    With i = input_gate and f = forget_gate, both before their activation:

        C_t = sigmoid(f_t) C_(t-1) + exp(i_t) k_t v_t' / sqrt(d),   n_t likewise without v
        h_t = C_t' q_t / (max(|n_t . q_t|, 1) + 1e-6)

    computed with the largest exponent taken out (xLSTM, arXiv 2405.04517, appendix A.3), in
    float32 at least, whatever the type of the tensors. The three forms give the same numbers up to
    rounding. "chunkwise" works on `chunk` tokens at a time and needs memory linear in n, in the
    backward pass too; "parallel" holds n x n matrices; "recurrent" takes one token after another.

    Raises:
        ValueError: shapes that do not fit each other.
    """
    _check(query, key, value, input_gate, forget_gate, chunk)
    given = (query, key, value, input_gate, forget_gate)
    wide = [one.float() if one.dtype.itemsize < 4 else one for one in given]
    compute = FORMS.get(form)
    if compute is None:
        raise ValueError(f"mlstm: there is no form {form!r}; it is {', '.join(FORMS)}")
    with torch.autocast(_autocast_device(query), enabled=False):
        return compute(*wide, chunk).to(query.dtype)


FORMS: dict[str, Callable[..., Tensor]] = {
    "chunkwise": lambda q, k, v, i, f, chunk: chunkwise.forward(q, k, v, i, f, chunk=chunk),
    "parallel": lambda q, k, v, i, f, _: reference.parallel(q, k, v, i, f),
    "recurrent": lambda q, k, v, i, f, _: reference.recurrent(q, k, v, i, f),
}


def _autocast_device(query: Tensor) -> str:
    """Tensors on the meta device are of no device that autocast knows."""
    return "cpu" if query.device.type == "meta" else query.device.type


def _check(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, chunk: int) -> None:
    if q.ndim != 4 or k.shape != q.shape or v.shape != q.shape:
        raise ValueError(
            f"query {tuple(q.shape)}, key {tuple(k.shape)}, value {tuple(v.shape)}: all three are "
            "(b, h, n, d)"
        )
    if i.shape != q.shape[:3] or f.shape != q.shape[:3]:
        raise ValueError(
            f"input_gate {tuple(i.shape)}, forget_gate {tuple(f.shape)}: both are (b, h, n), "
            f"{tuple(q.shape[:3])}"
        )
    if chunk < 1:
        raise ValueError(f"chunk {chunk}: it is at least 1")
