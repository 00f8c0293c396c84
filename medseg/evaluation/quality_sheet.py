"""A picture of each case to be glanced at: three planes through its labels, and how large they are.

Shown as radiologists look: the patient's right on the left of axial and coronal planes, anterior on
the left of the sagittal one. Pillow draws; what is read of the volumes are three planes, a sparse
sample of the intensities, and the labels once.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Integer, UInt8
from PIL import Image, ImageDraw, ImageFont

from medseg.evaluation.slices import PLANES, to_ras
from medseg.io.atomic import write_bytes
from medseg.volume import Grid, Label, LabelTable, LabelVolume, Volume

PANEL, GAP, TITLE, ROW = 380, 10, 34, 24
BACK, FRONT, FAINT, FAULT = (14, 17, 22), (235, 238, 242), (140, 148, 158), (255, 107, 96)
DIRECTIONS = ("RL", "AP", "SI")
OPPOSITE = {"R": "L", "A": "P", "S": "I"}
# The labels' box is shown with this margin around it, and at least so much of the body.
MARGIN_SHARE, LEAST_MM = 0.3, 90.0
OPACITY = 0.28
# How far beyond the quartiles of the labels' intensities is still gray: Tukey's fences, and at
# least this share of all intensities.
FENCE, LEAST_WINDOW = 1.5, 0.4
COLUMNS, MOST_NAMED = 4, 28
SAMPLES = 200_000
# A contact sheet: cases in a row, rows of a page, and the height of one case.
ACROSS, DOWN, STRIP = 3, 14, 132

Pixels = UInt8[np.ndarray, "y x 3"]


def draw_sheet(path: Path, volume: Volume, labels: LabelVolume, *, title: str) -> None:
    """Write the picture of one case, a PNG; `volume` and `labels` lie on one grid.

    Of several channels the first is shown. Labels are named with their volumes, the largest first.
    """
    write_bytes(path, sheet_of(volume, labels, title=title))


def sheet_of(volume: Volume, labels: LabelVolume, *, title: str) -> bytes:
    """The picture of one case as a PNG; see `draw_sheet`."""
    gray, values = to_ras(volume.array[0], volume.grid), to_ras(labels.array, labels.grid)
    areas, counts = _counted(values, max(labels.table.values) + 1)
    view = _view_of(areas, labels.grid)
    limits = _limits(gray, values, view)
    sizes = _sizes_ml(labels, counts)
    rows = min(-(-max(len(sizes), 1) // COLUMNS), MOST_NAMED // COLUMNS)
    width = 3 * PANEL + 4 * GAP
    sheet = Image.new("RGB", (width, TITLE + PANEL + rows * ROW + 2 * GAP), BACK)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, GAP), title, font=_font(17), fill=FRONT)
    for number, (name, axis, left, top) in enumerate(PLANES):
        x = GAP + number * (PANEL + GAP)
        panel = _panel(gray, values, view, axis, limits, labels.table)
        sheet.paste(Image.fromarray(panel), (x, TITLE))
        _annotate(draw, x, name, left, top, _place(view, axis, labels.grid))
    if not sizes:
        draw.text((width / 2, TITLE + PANEL / 2), "no label found", FAULT, _font(54), anchor="mm")
    _name(draw, sizes, TITLE + PANEL + GAP)
    return _png(sheet)


def contact_sheet(
    path: Path, sheets: Sequence[tuple[str, Path]], *, faults: Mapping[str, str] | None = None
) -> tuple[Path, ...]:
    """Write small copies of many cases' pictures onto one page, or pages; the files written.

    `sheets` are the names of cases and their pictures; `faults` are those without one, and the code
    of each. Further pages are named after the first: PATH-2.png, PATH-3.png, ...
    """
    entries = [*sheets, *((name, code) for name, code in (faults or {}).items())]
    entries.sort(key=lambda entry: entry[0])
    written = []
    for first in range(0, len(entries), ACROSS * DOWN):
        number = first // (ACROSS * DOWN) + 1
        target = path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")
        write_bytes(target, _png(_page(entries[first : first + ACROSS * DOWN])))
        written.append(target)
    return tuple(written)


@dataclass(frozen=True)
class _View:
    """The planes that are shown, and the box in which: RAS voxels, and their spacing."""

    center: tuple[int, int, int]
    low: tuple[int, int, int]
    high: tuple[int, int, int]
    sides: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]


def _counted(
    values: Integer[np.ndarray, "r a s"], size: int
) -> tuple[list[Integer[np.ndarray, " n"]], Integer[np.ndarray, " size"]]:
    """The labeled voxels of each plane along each axis, and the voxels of each value.

    Plane by plane as they are stored: numpy would copy all of them, eight bytes a voxel.
    """
    slow = max(range(3), key=lambda axis: abs(values.strides[axis]))
    areas = [np.zeros(side, dtype=np.int64) for side in values.shape]
    counts = np.zeros(size, dtype=np.int64)
    rows, columns = (areas[axis] for axis in range(3) if axis != slow)
    for number, plane in enumerate(np.moveaxis(values, slow, 0)):
        found = np.bincount(plane.ravel(order="K"), minlength=size)
        counts += found
        areas[slow][number] = plane.size - found[0]
        if areas[slow][number]:
            inside = plane != 0
            rows += np.count_nonzero(inside, axis=1)
            columns += np.count_nonzero(inside, axis=0)
    return areas, counts


def _view_of(areas: Sequence[Integer[np.ndarray, " n"]], grid: Grid) -> _View:
    """The planes of the largest cross-sections, and a box about all labels."""
    axes, _ = grid.nearest_axes()
    spacing = [grid.spacing_mm[axes.index(world)] for world in range(3)]
    center, low, high = [], [], []
    for axis, area in enumerate(areas):
        hit = np.flatnonzero(area)
        side = len(area)
        first, last = (int(hit[0]), int(hit[-1]) + 1) if hit.size else (0, side)
        extent = (last - first) * spacing[axis]
        margin = max(MARGIN_SHARE * extent, (LEAST_MM - extent) / 2, 0) / spacing[axis]
        low.append(max(int(first - margin), 0))
        high.append(min(int(np.ceil(last + margin)), side))
        center.append(int(area.argmax()) if hit.size else side // 2)
    i, j, k = map(len, areas)
    spaced = (spacing[0], spacing[1], spacing[2])
    return _View(_three(center), _three(low), _three(high), (i, j, k), spaced)


def _limits(
    gray: Float[np.ndarray, "r a s"], values: Integer[np.ndarray, "r a s"], view: _View
) -> tuple[float, float]:
    """The intensities that are black and white: those of the labels and about them, of the box."""
    box = tuple(slice(a, b) for a, b in zip(view.low, view.high, strict=True))
    step = max(round((gray[box].size / SAMPLES) ** (1 / 3)), 1)
    sample, marks = (array[box][::step, ::step, ::step] for array in (gray, values))
    # What the image is filled up with beyond the body says nothing of it.
    inside = sample[sample != sample.min()]
    low, high = np.percentile(inside, (1, 99)) if inside.size else (0.0, 0.0)
    marked = sample[marks > 0]
    if marked.size:
        first, last = np.percentile(marked, (25, 75))
        about = max(FENCE * (last - first), LEAST_WINDOW * (high - low))
        low, high = max(low, first - about), min(high, last + about)
    if low >= high:
        low, high = float(sample.min()), float(sample.max()) + 1e-6
    return float(low), float(high)


def _panel(
    gray: Float[np.ndarray, "r a s"],
    values: Integer[np.ndarray, "r a s"],
    view: _View,
    axis: int,
    limits: tuple[float, float],
    table: LabelTable,
) -> Pixels:
    """One plane, gray with its labels in their colors, in the middle of a square."""
    across, along = (other for other in range(3) if other != axis)
    box: list[slice | int] = [slice(a, b) for a, b in zip(view.low, view.high, strict=True)]
    box[axis] = view.center[axis]
    # Both axes of the screen run against the RAS axes: R, A and S stand on the left and on top.
    plane, marked = (np.asarray(array[tuple(box)])[::-1, ::-1].T for array in (gray, values))
    extent = [(view.high[n] - view.low[n]) * view.spacing_mm[n] for n in (across, along)]
    scale = PANEL / max(extent)
    size = max(round(extent[0] * scale), 1), max(round(extent[1] * scale), 1)
    low, high = limits
    light = np.clip((plane.astype(np.float32) - low) / (high - low), 0, 1) * 255
    shown = Image.fromarray(light.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    pixels = np.repeat(np.asarray(shown)[..., None], 3, axis=2)
    marks = Image.fromarray(marked.astype(np.int32)).resize(size, Image.Resampling.NEAREST)
    pixels = _colored(pixels, np.asarray(marks), table)
    square = np.zeros((PANEL, PANEL, 3), dtype=np.uint8)
    y, x = (PANEL - size[1]) // 2, (PANEL - size[0]) // 2
    square[y : y + size[1], x : x + size[0]] = pixels
    return square


def _colored(pixels: Pixels, marks: Integer[np.ndarray, "y x"], table: LabelTable) -> Pixels:
    colors = np.zeros((max(table.values) + 1, 3), dtype=np.float32)
    for label in table.labels:
        colors[label.value] = label.color
    inside = marks > 0
    padded = np.pad(marks, 1)
    edge = np.zeros_like(inside)
    for y, x in ((0, 1), (2, 1), (1, 0), (1, 2)):
        edge |= padded[y : y + marks.shape[0], x : x + marks.shape[1]] != marks
    opacity = np.where(edge & inside, 1.0, np.where(inside, OPACITY, 0.0))[..., None]
    return (pixels * (1 - opacity) + colors[marks] * opacity).astype(np.uint8)


def _annotate(
    draw: ImageDraw.ImageDraw, x: int, name: str, left: str, top: str, place: str
) -> None:
    middle, small = TITLE + PANEL / 2, _font(14)
    for at, letter, anchor in (
        ((x + 6, middle), left, "lm"),
        ((x + PANEL - 6, middle), OPPOSITE[left], "rm"),
        ((x + PANEL / 2, TITLE + 6), top, "mt"),
        ((x + PANEL / 2, TITLE + PANEL - 6), OPPOSITE[top], "mb"),
    ):
        draw.text(at, letter, FRONT, small, anchor=anchor, stroke_width=2, stroke_fill=(0, 0, 0))
    told = f"{name}\n{place}"
    # In two lines it does not reach the letter in the middle.
    at = x + 6, TITLE + PANEL - 6
    draw.text(at, told, FAINT, _font(12), anchor="ld", stroke_width=2, stroke_fill=(0, 0, 0))


def _place(view: _View, axis: int, grid: Grid) -> str:
    """The slice, and where its middle lies in the scanner: millimeters to R, A or S, or against."""
    worlds, signs = grid.nearest_axes()
    voxel = [(side - 1) / 2 for side in grid.shape]
    stored = worlds.index(axis)
    along = view.center[axis]
    voxel[stored] = along if signs[stored] > 0 else grid.shape[stored] - 1 - along
    at = round(float((grid.affine @ [*voxel, 1.0])[axis]))
    toward = DIRECTIONS[axis][0 if at >= 0 else 1]
    return f"slice {along + 1} of {view.sides[axis]}, {toward} {abs(at)} mm"


def _sizes_ml(
    labels: LabelVolume, counts: Integer[np.ndarray, " size"]
) -> list[tuple[Label, float]]:
    """The labels that are there and their volumes, the largest first."""
    voxel_ml = labels.grid.voxel_volume_mm3 / 1000
    found = [
        (label, float(counts[label.value]) * voxel_ml)
        for label in labels.table.labels
        if counts[label.value]
    ]
    return sorted(found, key=lambda pair: -pair[1])


def _name(draw: ImageDraw.ImageDraw, sizes: Sequence[tuple[Label, float]], y: int) -> None:
    width = (3 * PANEL + 2 * GAP) / COLUMNS
    named = sizes if len(sizes) <= MOST_NAMED else sizes[: MOST_NAMED - 1]
    texts = [(label.color, f"{_short(label.name)}  {ml:.4g} ml") for label, ml in named]
    if len(named) < len(sizes):
        texts.append((FAINT, f"and {len(sizes) - len(named)} smaller labels"))
    for number, (color, text) in enumerate(texts):
        left, top = GAP + (number % COLUMNS) * width, y + (number // COLUMNS) * ROW
        draw.rounded_rectangle((left, top + 4, left + 13, top + 17), 3, fill=color)
        draw.text((left + 20, top + 10), text, FRONT, _font(13), anchor="lm")


def _page(entries: Sequence[tuple[str, Path | str]]) -> Image.Image:
    width = round(STRIP * (3 * PANEL + 2 * GAP) / PANEL)
    height = STRIP + ROW
    rows = -(-len(entries) // ACROSS)
    columns = min(len(entries), ACROSS)
    page = Image.new("RGB", (columns * (width + GAP) + GAP, rows * (height + GAP) + GAP), BACK)
    draw = ImageDraw.Draw(page)
    for number, (name, picture) in enumerate(entries):
        x = GAP + (number % ACROSS) * (width + GAP)
        y = GAP + (number // ACROSS) * (height + GAP)
        draw.text((x, y + ROW / 2), _short(name, 44), FRONT, _font(13), anchor="lm")
        if isinstance(picture, str):
            draw.rectangle((x, y + ROW, x + width, y + ROW + STRIP), fill=(30, 20, 22))
            at = x + width / 2, y + ROW + STRIP / 2
            draw.text(at, picture, FAULT, _font(18), anchor="mm")
            continue
        with Image.open(picture) as whole:
            strip = whole.crop((GAP, TITLE, whole.width - GAP, TITLE + PANEL))
        page.paste(strip.resize((width, STRIP), Image.Resampling.LANCZOS), (x, y + ROW))
    return page


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=False, compress_level=6)
    return buffer.getvalue()


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _short(name: str, most: int = 26) -> str:
    return name if len(name) <= most else f"{name[: most - 3]}..."


def _three(values: Sequence[int]) -> tuple[int, int, int]:
    return values[0], values[1], values[2]
