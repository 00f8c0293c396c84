"""The header of a .seg.nrrd file, read so that no ambiguous one passes for a good one."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medseg.fault import InputFault
from medseg.io.stream import open_stream
from medseg.volume import Grid

MAGIC = re.compile(r"NRRD000[1-5]")
LARGEST_HEADER = 1 << 22
SEGMENT_KEY = re.compile(r"Segment(\d+)_(\w+)")
# To RAS: which axes of a named space run the other way (NRRD definition, section 5.1).
SPACES = {
    "left-posterior-superior": np.diag([-1.0, -1.0, 1.0, 1.0]),
    "left-anterior-superior": np.diag([-1.0, 1.0, 1.0, 1.0]),
    "right-anterior-superior": np.diag([1.0, 1.0, 1.0, 1.0]),
}
SHORT_SPACES = {"lps": "left-posterior-superior", "las": "left-anterior-superior"}
SHORT_SPACES["ras"] = "right-anterior-superior"
TYPES = {
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t"), "u1"),
    **dict.fromkeys(("signed char", "int8", "int8_t"), "i1"),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), "u2"),
    **dict.fromkeys(
        ("short", "short int", "signed short", "signed short int", "int16", "int16_t"), "i2"
    ),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t"), "u4"),
}
ENDIANS = {"little": "<", "big": ">"}
NUMBER = r"\s*([-+.\deE]+)\s*"
VECTOR = re.compile(rf"\({NUMBER},{NUMBER},{NUMBER}\)")
NO_VECTOR = re.compile(r"none\b")


@dataclass(frozen=True)
class NrrdSegment:
    """One segment: its layer, its value there, and how it is shown; `entry` holds its codes."""

    name: str
    color: tuple[int, int, int]
    layer: int
    value: int
    entry: str


@dataclass(frozen=True)
class NrrdHeader:
    """Where the voxels begin, how they are stored, where they lie, and what they mean."""

    offset: int
    dtype: np.dtype
    layers: int
    grid: Grid
    packed: bool
    segments: tuple[NrrdSegment, ...]


def read_nrrd_header(path: Path) -> NrrdHeader:
    """The header of a .seg.nrrd file.

    Raises:
        InputFault: not a segmentation of 3D Slicer (E_FORMAT), or in no patient's space (E_SPACE).
    """
    with open_stream(path) as stream:
        start = stream.peek(LARGEST_HEADER)
    text, offset = _text(path, start)
    fields, keys = _parsed(path, text)
    sizes = [int(size) for size in _needed(path, fields, "sizes").split() if size.isdecimal()]
    dimension = _needed(path, fields, "dimension")
    if dimension not in ("3", "4") or len(sizes) != int(dimension) or min(sizes) < 1:
        raise _wrong(path, f"dimension {dimension} with sizes {fields['sizes']} is no volume")
    encoding = _needed(path, fields, "encoding").lower()
    if encoding not in ("raw", "gzip", "gz"):
        raise _wrong(path, f"encoding {encoding} is not read (raw and gzip are)")
    layers = sizes[0] if len(sizes) == 4 else 1
    affine = _affine(path, fields, has_layers=len(sizes) == 4)
    try:
        grid = Grid((sizes[-3], sizes[-2], sizes[-1]), affine)
    except InputFault as fault:
        raise InputFault(f"{path}: {fault}", code=fault.code) from fault
    segments = _segments(path, keys, layers)
    return NrrdHeader(offset, _dtype(path, fields), layers, grid, encoding != "raw", segments)


def _text(path: Path, start: bytes) -> tuple[str, int]:
    """The header's text and the place of the first byte behind it: a blank line ends it."""
    end = re.search(rb"\r?\n\r?\n", start)
    if not start.startswith(b"NRRD") or end is None:
        raise _wrong(path, "it does not begin with the header of an NRRD file")
    try:
        return start[: end.start()].decode("utf-8"), end.end()
    except UnicodeDecodeError:
        return start[: end.start()].decode("latin-1"), end.end()


def _parsed(path: Path, text: str) -> tuple[dict[str, str], dict[str, str]]:
    magic, *lines = text.replace("\r\n", "\n").split("\n")
    if not MAGIC.fullmatch(magic.strip()):
        raise _wrong(path, f"{magic.strip()[:16]} is no version that is known")
    fields: dict[str, str] = {}
    keys: dict[str, str] = {}
    for line in lines:
        if line.startswith("#"):
            continue
        key, separator, value = line.partition(":=")
        into = keys
        if not separator or ": " in key:
            key, separator, value = line.partition(": ")
            key, into = key.strip().lower(), fields
        if not separator or key in into:
            raise _wrong(path, f"the line {line[:40]!r} of its header is no field or stands twice")
        into[key] = value.strip()
    for name in ("data file", "datafile", "line skip", "lineskip", "byte skip", "byteskip"):
        if fields.get(name, "0") not in ("0", ""):
            raise _wrong(path, f"its header has `{name}`; only files that hold all are read")
    return fields, keys


def _needed(path: Path, fields: Mapping[str, str], name: str) -> str:
    if name not in fields:
        raise _wrong(path, f"its header has no `{name}`")
    return fields[name]


def _dtype(path: Path, fields: Mapping[str, str]) -> np.dtype:
    name = _needed(path, fields, "type").lower()
    if name not in TYPES:
        raise _wrong(path, f"type {name} is no type of labels")
    order = ENDIANS.get(fields.get("endian", "").lower())
    if TYPES[name][1] != "1" and order is None:
        raise _wrong(path, "its header does not say the byte order (endian)")
    return np.dtype(f"{order or '|'}{TYPES[name]}")


def _affine(path: Path, fields: Mapping[str, str], *, has_layers: bool) -> np.ndarray:
    name = fields.get("space", "").lower()
    space = SPACES.get(SHORT_SPACES.get(name, name))
    if space is None:
        raise InputFault(
            f"{path}: space {name or 'missing'}: where left and right are is not told; save it "
            "again with 3D Slicer (left-posterior-superior).",
            code="E_SPACE",
        )
    units = fields.get("space units", "")
    if units and set(re.findall(r'"([^"]*)"', units)) - {"mm", ""}:
        raise InputFault(
            f"{path}: space units {units}: millimeters are expected; save it again.",
            code="E_SPACE",
        )
    directions = _needed(path, fields, "space directions")
    axes = VECTOR.findall(directions)
    origin = VECTOR.findall(_needed(path, fields, "space origin"))
    if len(axes) != 3 or len(origin) != 1 or has_layers != bool(NO_VECTOR.match(directions)):
        raise _wrong(path, "its `space directions` or `space origin` are damaged")
    try:
        affine = np.eye(4)
        affine[:3, :3] = np.array(axes, float).T
        affine[:3, 3] = np.array(origin[0], float)
    except ValueError as error:
        raise _wrong(path, "its `space directions` or `space origin` are no numbers") from error
    return space @ affine


def _segments(path: Path, keys: Mapping[str, str], layers: int) -> tuple[NrrdSegment, ...]:
    found: dict[int, dict[str, str]] = {}
    for key, value in keys.items():
        if match := SEGMENT_KEY.fullmatch(key):
            found.setdefault(int(match[1]), {})[match[2]] = value
    if not found:
        raise _wrong(path, "it names no segment; it is an image, not a segmentation of 3D Slicer")
    return tuple(
        _segment(path, place, found[number], number, layers)
        for place, number in enumerate(sorted(found))
    )


def _segment(
    path: Path, place: int, keys: Mapping[str, str], number: int, layers: int
) -> NrrdSegment:
    # Before layers were told, each segment had its own, with ones in it.
    try:
        value, layer = int(keys.get("LabelValue", 1)), int(keys.get("Layer", place))
        color = [float(part) for part in keys.get("Color", "0.5 0.5 0.5").split()]
    except ValueError as error:
        raise _wrong(path, f"value, layer or color of segment {number} are no numbers") from error
    if not (0 <= layer < layers and 1 <= value <= 65_535 and len(color) == 3):
        raise _wrong(path, f"segment {number} (layer {layer}, value {value}) is not in the file")
    tags = dict(tag.split(":", 1) for tag in keys.get("Tags", "").split("|") if ":" in tag)
    red, green, blue = (round(255 * min(max(part, 0.0), 1.0)) for part in color)
    name = re.sub(r"\\(.)", lambda match: {"n": "\n"}.get(match[1], match[1]), keys.get("Name", ""))
    return NrrdSegment(
        name or f"Segment_{number}",
        (red, green, blue),
        layer,
        value,
        tags.get("TerminologyEntry", ""),
    )


def _wrong(path: Path, why: str) -> InputFault:
    return InputFault(
        f"{path}: {why}; save the segmentation again as .seg.nrrd with 3D Slicer.",
        code="E_FORMAT",
    )
