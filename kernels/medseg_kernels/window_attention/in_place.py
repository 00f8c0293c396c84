"""Groups attended to where their tokens lie, by `attend` in C; float32 on a CPU alone.

Padding is read from one row, and what it would give is written beyond the tokens of an item: into
the first tokens of the next one, which are written in their turn.
"""

from torch import Tensor

from medseg_kernels import attend
from medseg_kernels.window_attention.biases import biased_kinds
from medseg_kernels.window_attention.groups import Kind
from medseg_kernels.window_attention.request import Request
from medseg_kernels.window_attention.table import gradient


def forward(
    qkv: Tensor, table: Tensor | None, padding: Tensor | None, *, request: Request
) -> Tensor:
    """The attended tokens (b, i, j, k, c)."""
    found = biased_kinds(qkv, table, request, masked=padding is None)
    tokens, hollow = _tokens(qkv, request), _padding(qkv, padding, request)
    items, within = tokens.shape[:2]
    space = qkv.new_empty((items * within + _paddings(found), *tokens.shape[3:]))
    for item in range(items):
        into = space[item * within :]
        for kind, bias in found:
            rows = attend.Rows(kind.rows, within)
            attend.forward_rows(tokens[item], hollow, rows, _shared(bias), into=into)
    return space[: items * within].reshape(*qkv.shape[:-1], -1)


def backward(
    grad: Tensor,
    qkv: Tensor,
    table: Tensor | None,
    padding: Tensor | None,
    *,
    request: Request,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of qkv, table and padding; empty where there is no such tensor."""
    found, n = biased_kinds(qkv, table, request, masked=padding is None), request.tokens
    tokens, hollow = _tokens(qkv, request), _padding(qkv, padding, request)
    slope = grad.detach().contiguous().flatten(1, 3).unflatten(-1, (request.heads, -1))
    items, within = tokens.shape[:2]
    space = qkv.new_empty((items * within + _paddings(found), *tokens.shape[2:]))
    of_bias = None if table is None else qkv.new_zeros((1, request.heads, n, n))
    of_padding = qkv.new_zeros(0 if padding is None else len(padding))
    for item in range(items):
        into = space[item * within :]
        for kind, bias in found:
            rows = attend.Rows(kind.rows, within)
            attend.backward_rows(
                tokens[item], hollow, rows, _shared(bias), slope[item], into=into, of_bias=of_bias
            )
            if padding is not None:
                of_padding += into[within : within + kind.paddings].sum(0).flatten()
    if of_bias is None:
        of_table = qkv.new_empty(0)
    else:
        of_table = gradient(of_bias[0], request.extents(table), request)
    return space[: items * within].reshape(qkv.shape), of_table, of_padding


def _tokens(qkv: Tensor, request: Request) -> Tensor:
    """Of each item: (b, t, 3, heads, e)."""
    return qkv.detach().contiguous().flatten(1, 3).unflatten(-1, (3, request.heads, -1))


def _padding(qkv: Tensor, padding: Tensor | None, request: Request) -> Tensor:
    """Query, key and value of padding (3, heads, e); zeros, which nothing sees, for none."""
    row = qkv.new_zeros(qkv.shape[-1]) if padding is None else padding.detach().contiguous()
    return row.unflatten(0, (3, request.heads, -1))


def _paddings(found: list[tuple[Kind, Tensor | None]]) -> int:
    """Rows to be written beyond the tokens of an item."""
    return max(kind.paddings for kind, _ in found)


def _shared(bias: Tensor | None) -> Tensor | None:
    """The bias of all groups, (1, heads, n, n)."""
    return None if bias is None else bias[None]
