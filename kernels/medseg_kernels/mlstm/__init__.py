"""The mLSTM cell: attention whose memory fades, in time and memory linear in the tokens."""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from medseg_kernels import gpu
from medseg_kernels.choice import chosen
from medseg_kernels.mlstm import chunkwise, compiled, operator, reference
from medseg_kernels.mlstm.given import Direction, Given, Lanes, lanes_of, of_heads

__all__ = ["Backend", "Direction", "mlstm", "refuses"]

Backend = Literal["triton", "compiled", "chunkwise", "torch", "parallel", "recurrent"]


def mlstm(
    query: Tensor,  # (b, h, n, d)
    key: Tensor,  # (b, h, n, d)
    value: Tensor,  # (b, h, n, d)
    input_gate: Tensor,  # (b, h, n)
    forget_gate: Tensor,  # (b, h, n)
    *,
    direction: Direction = "forward",
    backend: Backend | None = None,
    chunk: int | None = None,
) -> Tensor:  # (b, h, n, d)
    """What each token reads from the memory that the tokens up to it have written.

    With i = input_gate and f = forget_gate, both before their activation:

        C_t = sigmoid(f_t) C_(t-1) + exp(i_t) k_t v_t' / sqrt(d),   n_t likewise without v
        h_t = C_t' q_t / (max(|n_t . q_t|, 1) + 1e-6)

    computed with the largest exponent taken out (xLSTM, arXiv 2405.04517, appendix A.3). Gates,
    memory and sums are in float32 at least; the result has the query's type. Tensors may lie in
    memory in any way.

    `direction` says which token comes first: "forward" the first one, "backward" the last one;
    with "halves" the first half of the heads reads forward and the rest backward, with "both" each
    head does both and the two results are added. Nothing is turned round in memory.

    "triton", "compiled" (C, on a CPU) and "chunkwise" (plain torch, any device) work on `chunk`
    tokens at a time (None: as many as the backend likes), and keep what they are given and the
    result for the backward pass. "torch" is chunkwise in torch's own operations, for tracing into
    other formats; "parallel" holds n x n matrices, "recurrent" takes one token after another.
    `backend` forces one; by default the first of the first three that does not refuse is taken, and
    refusals are logged at debug level.

    Raises:
        ValueError: shapes that do not fit each other, or a forced backend that refuses.
    """
    given = Given(query, key, value, input_gate, forget_gate)
    _check(given, chunk, direction)
    lanes = lanes_of(direction, query.shape[1])
    name = chosen(
        "mlstm",
        get_args(Backend),
        backend,
        lambda name: refuses(query, backend=name, chunk=chunk),
    )
    chunk = chunk or _likes(name, query)
    if name in _OPERATOR or query.numel() == 0:
        read = operator.forward(given, lanes, chunk=chunk, backend=name)
    else:
        # Tensors on the meta device are of no device that autocast knows.
        with torch.autocast("cpu" if query.is_meta else query.device.type, enabled=False):
            read = _PLAIN[name](given, lanes, chunk)
    return of_heads(read, query.shape[1])


def refuses(query: Tensor, *, backend: str, chunk: int | None = None) -> str | None:
    """Why a backend cannot serve a call, or None."""
    if backend == "compiled":
        return compiled.refuses(query)
    if backend != "triton":
        return None
    if query.shape[-1] > 128:
        return f"its tiles hold heads of up to 128 channels, not {query.shape[-1]}"
    if chunk not in (None, 16, 32, 64):
        return f"its chunks are of 16, 32 or 64 tokens, not {chunk}"
    return gpu.refuses(query)


_OPERATOR = ("triton", "compiled", "chunkwise")
_PLAIN: dict[str, Callable[[Given, Lanes, int], Tensor]] = {
    "torch": lambda given, lanes, chunk: chunkwise.traced(given, lanes, chunk=chunk),
    "parallel": lambda given, lanes, _: reference.in_lanes(reference.parallel, given, lanes),
    "recurrent": lambda given, lanes, _: reference.in_lanes(reference.recurrent, given, lanes),
}


def _likes(name: str, query: Tensor) -> int:
    """How many tokens at a time; other types than bfloat16 take more of a GPU's registers."""
    if name == "triton":
        return 64 if query.dtype == torch.bfloat16 else 32
    return compiled.CHUNK if name == "compiled" else 64


def _check(given: Given, chunk: int | None, direction: Direction) -> None:
    q, k, v, i, f = given
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
    if not q.dtype == k.dtype == v.dtype:
        raise ValueError(f"query {q.dtype}, key {k.dtype}, value {v.dtype}: they have one type")
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk {chunk}: it is at least 1")
    if direction not in get_args(Direction):
        raise ValueError(f"direction {direction!r}: it is {', '.join(get_args(Direction))}")
