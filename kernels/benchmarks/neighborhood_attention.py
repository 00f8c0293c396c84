"""Neighborhood attention: time and memory of each form, and of a mask over all pairs of tokens.

python kernels/benchmarks/neighborhood_attention.py [--size 24] [--windows 7] [--heads 4]
[--channels 16] [--threads 1] [--device cpu] prints rows of kernels/README.md. Forms take turns, and
a ratio is the median over rounds. On the CPU processor time; with --device cuda, in bfloat16, CUDA
events, and torch.compile of FlexAttention as a further peer. The last column is the time over what
the products and exponentials of the neighborhoods alone would take at this machine's speed. Forms
that would need more than --gigabytes are left out. NATTEN is no peer here: since 0.20 it has no CPU
kernels, and it has no relative-position table.
"""

import argparse
import statistics
from collections.abc import Callable, Iterator
from functools import partial

import torch
from expected import Work, add_device, is_there
from machine import machine
from measured import in_turn, kept, ratio
from torch import Tensor
from torch.nn import functional

from medseg_kernels.neighborhood_attention import neighborhood_attention
from medseg_kernels.neighborhood_attention.reference import neighbors

Form = Callable[[Tensor], Tensor]


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    dtype = torch.float32 if options.device == "cpu" else torch.bfloat16
    if not is_there(options.device, partial(_works, options)):
        return
    shape = (1, *[options.size] * 3, 3 * options.heads * options.channels)
    torch.manual_seed(0)
    qkv = torch.randn(shape, dtype=dtype, device=options.device)
    print(machine())
    print(
        "| window, form | forward | times the first | forward + backward | times the first | kept "
        "| difference | x the bound |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for window in options.windows:
        for row in _rows(qkv, window, options):
            print(f"| {' | '.join(row)} |", flush=True)


def _rows(qkv: Tensor, window: int, options: argparse.Namespace) -> Iterator[list[str]]:
    forms, bound = _forms(qkv, window, options), _bound(qkv, window, options)
    with torch.no_grad():
        outputs = [form(qkv) for form in forms.values()]
    given = {"repeats": options.repeats, "device": options.device}
    forward = in_turn([partial(_forward, form, qkv) for form in forms.values()], **given)
    train = in_turn([partial(_train, form, qkv) for form in forms.values()], **given)
    for number, (name, form) in enumerate(forms.items()):
        row = [f"{window}^3 {name}"]
        for times in (forward, train):
            own = times[number]
            row += [f"{statistics.median(own):.0f} ms", f"x{ratio(own, times[0]):.1f}"]
        held = kept(lambda form=form: form(qkv.detach().requires_grad_())) / 2**20
        difference = (outputs[number] - outputs[0]).abs().max().item()
        over = statistics.median(forward[number]) / bound
        yield [*row, f"{held:.0f} MiB", f"{difference:.0e}", f"{over:.1f}"]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=24)
    parser.add_argument("--windows", type=int, nargs="+", default=[7])
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--gigabytes", type=float, default=4)
    parser.add_argument("--repeats", type=int, default=2)
    add_device(parser)
    return parser.parse_args()


def _works(options: argparse.Namespace) -> dict[str, Work]:
    """Bytes once, two products and an exponential a pair; on the way back as windows need them."""
    works, width = {}, options.heads * options.channels
    for window in options.windows:
        pairs = options.size**3 * window**3
        one = Work(8 * options.size**3 * width, 4 * pairs * width, pairs * options.heads)
        name = f"{window}^3, {options.size}^3 tokens,"
        works[f"{name} forward"] = one
        works[f"{name} forward + backward"] = one.times(3, flops=7 / 2, exponentials=2)
    return works


def _forms(qkv: Tensor, window: int, options: argparse.Namespace) -> dict[str, Form]:
    """The fast form first; those that need too much memory are left out."""
    heads, tokens = options.heads, options.size**3
    given = {"heads": heads, "window": (window,) * 3}
    fast = "tiled" if qkv.device.type == "cpu" else "triton"
    forms: dict[str, Form] = {fast: partial(neighborhood_attention, backend=fast, **given)}
    if fast == "triton":
        forms["tiled"] = partial(neighborhood_attention, backend="tiled", **given)
        forms["FlexAttention, compiled"] = _flex(qkv, window, heads)
    gathered = 4 * tokens * window**3 * heads * options.channels * qkv.itemsize
    if gathered <= options.gigabytes * 2**30:
        forms["reference"] = partial(neighborhood_attention, backend="reference", **given)
    if 2 * tokens**2 * qkv.itemsize <= options.gigabytes * 2**30:
        forms["SDPA with a mask"] = _masked(qkv, window, heads)
    return forms


def _masked(qkv: Tensor, window: int, heads: int) -> Form:
    """All pairs of tokens, with a bias of minus infinity where they are no neighbors."""
    _, i, j, k, _ = qkv.shape
    one = torch.zeros(i, i, dtype=torch.bool).scatter_(1, neighbors(i, window, 1), value=True)
    near = torch.einsum("ad,be,cf->abcdef", *[one.float()] * 3).reshape(i * j * k, -1) > 0
    bias = torch.zeros(near.shape, dtype=qkv.dtype).masked_fill_(~near, -torch.inf)
    bias = bias.to(qkv.device)

    def form(qkv: Tensor) -> Tensor:
        query, key, value = _split(qkv, heads)
        out = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return _joined(out, qkv)

    return form


def _flex(qkv: Tensor, window: int, heads: int) -> Form:
    from torch.nn.attention import flex_attention as flex  # noqa: PLC0415

    size = qkv.shape[1]
    tokens = size**3

    def near(_b: Tensor, _h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        found = torch.ones_like(q, dtype=torch.bool)
        for step in (size * size, size, 1):
            place, other = q // step % size, k // step % size
            start = (place - window // 2).clamp(0, size - window)
            found = found & (other >= start) & (other < start + window)
        return found

    mask = flex.create_block_mask(near, None, None, tokens, tokens, device=str(qkv.device))
    attend = torch.compile(flex.flex_attention, fullgraph=True)

    def form(qkv: Tensor) -> Tensor:
        return _joined(attend(*_split(qkv, heads), block_mask=mask), qkv)

    return form


def _split(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value = qkv.flatten(1, 3).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    return query, key, value


def _joined(out: Tensor, qkv: Tensor) -> Tensor:
    return out.transpose(1, 2).reshape(*qkv.shape[:4], -1)


def _forward(form: Form, qkv: Tensor) -> None:
    with torch.no_grad():
        form(qkv)


def _train(form: Form, qkv: Tensor) -> None:
    form(qkv.detach().requires_grad_()).sum().backward()


def _bound(qkv: Tensor, window: int, options: argparse.Namespace) -> float:
    """Milliseconds of the forward pass at the speed of large products, exponentials and copies."""
    a = torch.randn(4096 if qkv.is_cuda else 1024, 1024, dtype=qkv.dtype, device=qkv.device)
    b = torch.randn(1024, 1024, dtype=qkv.dtype, device=qkv.device)
    numbers = torch.randn(2**18, dtype=torch.float32, device=qkv.device).neg_()
    pairs = qkv.shape[1:4].numel() * window**3
    calls = [lambda: a @ b, numbers.exp, qkv.clone]
    products, powers, copy = map(
        statistics.median, in_turn(calls, repeats=5, device=options.device)
    )
    flops = 4 * pairs * qkv.shape[-1] // 3
    multiplied = products * flops / (2 * a.numel() * 1024)
    raised = powers * pairs * options.heads / numbers.numel()
    moved = copy * (4 / 3) / 2  # qkv is read and the output written
    return multiplied + raised + moved if not qkv.is_cuda else max(multiplied, raised, moved)


if __name__ == "__main__":
    main()
