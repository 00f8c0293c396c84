"""Attention with decomposed relative positions: each form, and what Segment Anything does.

python kernels/benchmarks/axial_bias_attention.py [--tables layers block encoder] [--crop 64]
[--repeats 1] [--threads 1] [--device cpu] [--reuse] prints rows of kernels/README.md; without a
choice, those of layers.

layers: attention alone, at the sizes of SAM ViT-B on 1024^2 pixels and of 3DSAM-adapter on a crop
of 64^3 voxels, 16^3 tokens. block: a whole block of 3DSAM-adapter's encoder. encoder: SAM ViT-B's
image encoder, which needs medseg[sam]. "plain" holds a bias for every pair of tokens, as both do;
in a block or encoder the other forms take their other layers from medseg_kernels too. Forms take
turns, and a ratio is the median over rounds of plain's time to the form's. Processor time on a CPU;
with --device cuda, in bfloat16, CUDA events, and compiled FlexAttention as a further peer where the
attention is global. With --reuse freed memory stays with the process, as where medseg trains and
predicts. The last column counts what a form holds beside qkv and its output.
"""

import argparse
import copy
import math
import statistics
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from expected import Work, add_device, is_there
from machine import machine
from measured import in_turn, kept, peak, ratio
from torch import Tensor, nn

from medseg.nn.drop_in import drop_in
from medseg.nn.memory import reused_memory
from medseg_kernels.axial_bias_attention import axial_bias_attention
from medseg_kernels.axial_bias_attention.biases import widths
from medseg_kernels.axial_bias_attention.partition import cut, join
from medseg_kernels.axial_bias_attention.request import Request, offsets

Form = Callable[[Tensor], Tensor]
HEADS, CHANNELS = 12, 64
"""Of ViT-B: heads, and channels of a head."""


@dataclass(frozen=True)
class Case:
    """A grid of three axes (the first of one token for an image), its windows and their shift."""

    size: tuple[int, int, int]
    window: tuple[int, int, int]
    shift: tuple[int, int, int] = (0, 0, 0)


IMAGES = {
    "SAM, global, 64^2": Case((1, 64, 64), (1, 64, 64)),
    "SAM, windows of 14^2, 64^2": Case((1, 64, 64), (1, 14, 14)),
}


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(machine())
    if not is_there(options.device, partial(_works, options)):
        return
    for name in options.tables:
        print(
            "\n| what | forward | ratio | peak | forward + backward | ratio | kept | difference "
            "| beside qkv |\n|---|---|---|---|---|---|---|---|---|"
        )
        for row in TABLES[name](options):
            print(f"| {' | '.join(row)} |", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", nargs="+", choices=list(TABLES), default=["layers"])
    parser.add_argument("--crop", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    add_device(parser)
    parser.add_argument("--reuse", action="store_true", help="with freed memory kept, on a CPU")
    return parser.parse_args()


def _crop(options: argparse.Namespace) -> Case:
    """3DSAM-adapter's grid, four voxels a token, and its windows."""
    side = options.crop // 4
    return Case((side, side, side), (8, 8, 8), (4, 4, 4))


def _works(options: argparse.Namespace) -> dict[str, Work]:
    """Attention alone: bytes once, two products, biases an axis, and an exponential a pair."""
    works, side = {}, options.crop // 4
    for name, case in {
        **IMAGES,
        f"3DSAM, shifted windows of 8^3, {side}^3": _crop(options),
    }.items():
        padded = math.prod(Request(HEADS, case.window, case.shift).padded(case.size))
        keys, places = math.prod(case.window), sum(w for w in case.window if w > 1)
        pairs, width = HEADS * padded * keys, HEADS * CHANNELS
        flops = 4 * pairs * CHANNELS + 2 * padded * places * width
        one = Work(8 * math.prod(case.size) * width, flops, pairs)
        works[f"{name}, forward"] = one
        works[f"{name}, forward + backward"] = one.times(3, flops=7 / 2, exponentials=2)
    return works


def _layers(options: argparse.Namespace) -> Iterator[list[str]]:
    side, crop = options.crop // 4, _crop(options)
    for name, case in {**IMAGES, f"3DSAM, shifted windows of 8^3, {side}^3": crop}.items():
        qkv = _drawn(options, *case.size, 3 * HEADS * CHANNELS)
        yield from _rows(name, _forms(case, options), qkv, options, case)


def _block(options: argparse.Namespace) -> Iterator[list[str]]:
    case = _crop(options)
    block = Block().to(options.device, _dtype(options))
    ours = partial(_mixed, _ours(block))
    forms = {
        name: partial(block if name == "plain" else ours, attend=form)
        for name, form in _forms(case, options).items()
    }
    x = _drawn(options, *case.size, HEADS * CHANNELS)
    yield from _rows(f"3DSAM block, {options.crop // 4}^3", forms, x, options, case)


def _encoder(options: argparse.Namespace) -> Iterator[list[str]]:
    from segment_anything import sam_model_registry  # noqa: PLC0415

    encoder = sam_model_registry["vit_b"]().image_encoder.eval()
    for name, parameter in encoder.named_parameters():
        if "rel_pos" in name:  # zero without a checkpoint
            nn.init.normal_(parameter, std=0.05)
    encoder.to(options.device, _dtype(options))
    image = _drawn(options, 3, 1024, 1024)
    names = ["blocked", "folded"] if options.device == "cpu" else ["triton", "folded"]
    forms: dict[str, Form] = {"plain": encoder}
    ours = _ours(encoder)
    forms |= {name: partial(_encoded, ours, backend=name) for name in names}
    yield from _rows("SAM ViT-B encoder, 1024^2", forms, image, options, None)


def _rows(
    what: str,
    forms: dict[str, Form],
    x: Tensor,
    options: argparse.Namespace,
    case: Case | None,
) -> Iterator[list[str]]:
    """A form each; the whole encoder, which has no `case`, is not trained here."""
    given = {"repeats": options.repeats, "device": options.device}
    with reused_memory() if options.reuse else nullcontext():
        forward = in_turn([partial(_forward, form, x) for form in forms.values()], **given)
        train = case and in_turn([partial(_train, form, x) for form in forms.values()], **given)
    peaks = [peak(partial(_forward, form, x), options.device) for form in forms.values()]
    with torch.no_grad():
        outputs = [form(x) for form in forms.values()]
    for number, (name, form) in enumerate(forms.items()):
        row = [f"{what}, {name}", *_times(forward, number), f"{peaks[number] / 2**20:.0f} MiB"]
        if train:
            held = kept(lambda form=form: form(x.detach().requires_grad_())) / 2**20
            row += [*_times(train, number), f"{held:.0f} MiB"]
        else:
            row += ["", "", ""]
        row.append(f"{(outputs[number] - outputs[0]).abs().max().item():.0e}")
        yield [*row, "" if case is None else f"{_beside(name, case, x) / 2**20:.0f} MiB"]


def _times(times: list[list[float]], number: int) -> list[str]:
    return [f"{statistics.median(times[number]):.0f} ms", f"x{ratio(times[0], times[number]):.2f}"]


def _forms(case: Case, options: argparse.Namespace) -> dict[str, Form]:
    tables = [(0.1 * _drawn(options, 2 * w - 1, CHANNELS)[0]).requires_grad_() for w in case.window]
    row = _drawn(options, 3 * HEADS * CHANNELS)[0]
    given = {"heads": HEADS, "window": case.window, "shift": case.shift, "padding": row}
    names = ["blocked", "folded"] if options.device == "cpu" else ["triton", "folded"]
    forms: dict[str, Form] = {"plain": partial(_plain, case=case, tables=tables, padding=row)}
    for name in names:
        forms[name] = partial(axial_bias_attention, tables=tables, backend=name, **given)
    if options.device == "cuda" and case.size == case.window:
        forms["FlexAttention, compiled"] = partial(torch.compile(_flex), tables=tables)
    return forms


def _plain(qkv: Tensor, *, case: Case, tables: list[Tensor], padding: Tensor) -> Tensor:
    """Windows, scores, the bias of each axis broadcast to all pairs, a mask of -100, softmax."""
    request = Request(HEADS, case.window, case.shift)
    query, key, value = cut(qkv, padding, request)
    scores = (query * CHANNELS**-0.5) @ key.mT
    pairs = scores.view(*query.shape[:3], *case.window, *case.window)
    for axis, bias in enumerate(_axis_biases(query.unflatten(3, case.window), tables)):
        shape = [1] * 3
        shape[axis] = -1
        pairs = pairs + bias.view(*bias.shape[:-1], *shape)
    scores = pairs.view_as(scores)
    if any(case.shift):
        scores = scores - 100 * _apart(case, request, scores)
    return join(scores.softmax(-1) @ value, case.size, request)


def _axis_biases(grid: Tensor, tables: list[Tensor]) -> list[Tensor]:
    rows = [table[offsets((len(table) + 1) // 2, grid.device)] for table in tables]
    letters = zip("ijk", rows, strict=True)
    return [torch.einsum(f"...ijke,{letter}we->...ijkw", grid, row) for letter, row in letters]


def _apart(case: Case, request: Request, like: Tensor) -> Tensor:
    """One for pairs (windows, 1, n, n) that only the roll brought together."""
    together = like.new_ones(1, 1, 1)
    for axis in range(3):
        apart = request.apart(case.size, axis, masked=False, device=like.device)
        along = torch.ones((1, 1, 1), device=like.device) if apart is None else ~apart
        joined = together[:, None, :, None, :, None] * along[None, :, None, :, None, :]
        together = joined.flatten(4, 5).flatten(2, 3).flatten(0, 1)
    return 1 - together[:, None]


def _flex(qkv: Tensor, *, tables: list[Tensor]) -> Tensor:
    from torch.nn.attention.flex_attention import flex_attention  # noqa: PLC0415

    extent, grid = qkv.shape[3], qkv.unflatten(-1, (3, HEADS, -1)).permute(4, 0, 5, 1, 2, 3, 6)
    query, key, value = grid.flatten(3, 5)
    _, by_line, by_lane = (bias.flatten(2, 4) for bias in _axis_biases(grid[0], tables))

    def biased(score: Tensor, b: Tensor, h: Tensor, q: Tensor, other: Tensor) -> Tensor:
        return score + by_line[b, h, q, other // extent] + by_lane[b, h, q, other % extent]

    mixed = flex_attention(query, key, value, score_mod=biased)
    return mixed.transpose(1, 2).reshape(*qkv.shape[:4], -1)


class Block(nn.Module):
    """3DSAM-adapter's block: adapter, attention in windows, and a perceptron."""

    def __init__(self) -> None:
        super().__init__()
        width = HEADS * CHANNELS
        self.down, self.up = nn.Linear(width, width // 2), nn.Linear(width // 2, width)
        self.mix = nn.Conv3d(width // 2, width // 2, 3, padding=1, groups=width // 2)
        self.norms = nn.ModuleList([nn.LayerNorm(width, eps=1e-6) for _ in range(2)])
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor, *, attend: Form) -> Tensor:
        x = self.adapt(x)
        x = x + self.proj(attend(self.qkv(self.norms[0](x))))
        return x + self.mlp(self.norms[1](x))

    def adapt(self, x: Tensor) -> Tensor:
        """What 3DSAM-adapter puts in front of the block."""
        adapted = self.down(x).relu().movedim(-1, 1)
        return x + self.up(self.mix(adapted).relu().movedim(1, -1)).relu()


def _mixed(block: Block, x: Tensor, *, attend: Form) -> Tensor:
    """The block where its layers are medseg's, which norm and activate what they multiply."""
    x = block.adapt(x)
    x = x + block.proj(attend(block.qkv(x, block.norms[0])))
    return x + block.mlp[2](block.mlp[0](x, block.norms[1]), gelu=True)


def _ours(network: nn.Module) -> nn.Module:
    """A copy with medseg's layers, which differ from torch's in their kernels."""
    made = copy.deepcopy(network)
    drop_in(made)
    return made


def _encoded(encoder: nn.Module, image: Tensor, *, backend: str) -> Tensor:
    """The image encoder with its attention replaced."""
    x = (encoder.patch_embed(image) + encoder.pos_embed).contiguous()  # or all tokens lie apart
    for block in encoder.blocks:
        attention, window = block.attn, (block.window_size,) * 2
        mixed = axial_bias_attention(
            attention.qkv(x, block.norm1),
            heads=HEADS,
            tables=(attention.rel_pos_h, attention.rel_pos_w),
            window=window if block.window_size else None,
            padding=attention.qkv.bias,
            backend=backend,
        )
        x = x + attention.proj(mixed)
        x = x + block.mlp.lin2(block.mlp.lin1(x, block.norm2), gelu=True)
    return encoder.neck(x.permute(0, 3, 1, 2))


def _beside(form: str, case: Case, x: Tensor) -> float:
    """Bytes that a form must hold beside qkv and output: scores, or wider heads, or biases."""
    padded = Request(HEADS, case.window, case.shift).padded(case.size)
    tokens, keys = math.prod(padded), math.prod(case.window)
    numbers = {
        "plain": keys,
        "folded": 3 * (CHANNELS + sum(w for w in case.window if w > 1)),
        "triton": sum(widths(case.window)),
    }
    return HEADS * tokens * numbers.get(form, sum(case.window)) * x.itemsize


def _drawn(options: argparse.Namespace, *size: int) -> Tensor:
    return torch.randn(1, *size, dtype=_dtype(options), device=options.device)


def _dtype(options: argparse.Namespace) -> torch.dtype:
    return torch.float32 if options.device == "cpu" else torch.bfloat16


def _forward(form: Form, x: Tensor) -> None:
    with torch.no_grad():
        form(x)


def _train(form: Form, x: Tensor) -> None:
    form(x.detach().requires_grad_()).sum().backward()


TABLES = {"layers": _layers, "block": _block, "encoder": _encoder}


if __name__ == "__main__":
    main()
