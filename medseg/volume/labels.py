"""The label table: what each value of a label map means, and how it is shown and coded.

On disk it is a CSV in the columns of 3D Slicer's color tables, so that one file feeds the reports,
the pictures and the DICOM and NRRD writers.
"""

import colorsys
import csv
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from medseg.fault import InputFault, all_at_once

LARGEST_VALUE = 65_535
VALUES_AT_ONCE = 1 << 16
CODE_COLUMNS = tuple(
    f"{group}_{part}"
    for group in ("Category", "Type", "TypeModifier", "Region", "RegionModifier")
    for part in ("CodingScheme", "CodeValue", "CodeMeaning")
)
COLUMNS = ("LabelValue", "Name", "Color_R", "Color_G", "Color_B", "Color_A", *CODE_COLUMNS)
SIDE = re.compile(r"(?<![a-z])(left|right)(?![a-z])", re.IGNORECASE)
HEART = re.compile(r"heart|cardiac|(?<![a-z])atri(um|al)(?![a-z])", re.IGNORECASE)


@dataclass(frozen=True)
class Label:
    """One value of a label map. `codes` holds the filled terminology columns of the table."""

    value: int
    name: str
    color: tuple[int, int, int]
    codes: Mapping[str, str] = field(default_factory=dict)


class LabelTable:
    """The labels of a task, background (0) left out, in rising order of value.

    `mirrored` are pairs (left value, right value) that change places in a mirror; None: those
    that the names tell.
    """

    def __init__(
        self, labels: Iterable[Label], *, mirrored: Iterable[tuple[int, int]] | None = None
    ) -> None:
        self.labels = tuple(sorted(labels, key=lambda label: label.value))
        self.mirrored = None if mirrored is None else tuple(mirrored)
        _refuse_labels(self.labels)
        _refuse_mirrored(self.mirrored or (), [label.value for label in self.labels])
        self._by_value = {label.value: label for label in self.labels}

    @classmethod
    def from_names(cls, names: Mapping[int, str]) -> "LabelTable":
        """A table with colors of our choice; a value 0 (background) is passed over."""
        values = sorted(value for value in names if value != 0)
        return cls(
            Label(value, names[value], _spread_color(place)) for place, value in enumerate(values)
        )

    @classmethod
    def from_csv(cls, text: str, *, place: str) -> "LabelTable":
        """The table in `text`; `place` (a file name) stands in front of what is wrong with it.

        A row of value 0 (background), which color tables hold, is passed over.
        """
        rows = csv.DictReader(io.StringIO(text))
        missing = [name for name in COLUMNS[:5] if name not in (rows.fieldnames or ())]
        if missing:
            raise InputFault(
                f"{place}: columns {', '.join(missing)} are missing; a label table has "
                f"{', '.join(COLUMNS[:6])} and the terminology columns of 3D Slicer.",
                code="E_TABLE",
            )
        labels = [_label_of_row(row, f"{place}:{line}") for line, row in enumerate(rows, start=2)]
        return cls(label for label in labels if label.value != 0)

    def to_csv(self) -> str:
        """The table as a CSV that `from_csv` and 3D Slicer read."""
        out = io.StringIO()
        writer = csv.DictWriter(out, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        for label in self.labels:
            red, green, blue = label.color
            row = {"LabelValue": label.value, "Name": label.name, "Color_A": 255}
            writer.writerow(
                {**row, "Color_R": red, "Color_G": green, "Color_B": blue, **label.codes}
            )
        return out.getvalue()

    @property
    def values(self) -> tuple[int, ...]:
        """The values in rising order, background left out."""
        return tuple(label.value for label in self.labels)

    @property
    def names(self) -> tuple[str, ...]:
        """The names in the order of `values`."""
        return tuple(label.name for label in self.labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, value: int) -> Label:
        return self._by_value[value]

    def __contains__(self, value: object) -> bool:
        return value in self._by_value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LabelTable) and self.labels == other.labels

    __hash__ = None  # type: ignore[assignment]  # codes are mappings

    def mirror_pairs(self) -> tuple[tuple[int, int], ...]:
        """Pairs (left value, right value) that change places in a mirror.

        Unless the table says otherwise they are those whose names differ in left and right alone.
        A heart's chambers are not: the left one is no mirror image of the right one.
        """
        if self.mirrored is not None:
            return self.mirrored
        by_name = {label.name.lower(): label.value for label in self.labels}
        pairs = []
        for name, value in by_name.items():
            side = SIDE.search(name)
            if side and side.group(1) == "left" and not HEART.search(name):
                other = by_name.get(SIDE.sub("right", name))
                if other is not None:
                    pairs.append((value, other))
        return tuple(pairs)

    def refuse_unknown(self, array: np.ndarray) -> None:
        """Raise an InputFault that names the values of `array` that the table does not have."""
        counts = _counts(array.ravel(order="K"))
        unknown = [int(value) for value in np.flatnonzero(counts) if value and value not in self]
        if unknown:
            shown = ", ".join(f"{value} ({counts[value]} voxels)" for value in unknown[:8])
            more = ", ..." if len(unknown) > 8 else ""
            raise InputFault(
                f"label values {shown}{more} are not in the label table ({self._shown_values()}); "
                "map them to values of the table or add them to it.",
                code="E_LABEL",
            )

    def _shown_values(self) -> str:
        values = [str(value) for value in (0, *self.values)]
        if len(values) > 20:
            values = [*values[:10], "...", values[-1]]
        return ", ".join(values)


def _counts(values: np.ndarray) -> np.ndarray:
    """How often each value from 0 to the largest occurs, for at least one value."""
    # numpy counts in int64, so a part at a time spares eight times the memory of uint8.
    parts = [
        values[start : start + VALUES_AT_ONCE] for start in range(0, len(values), VALUES_AT_ONCE)
    ]
    counts = np.zeros(int(max((part.max() for part in parts), default=0)) + 1, dtype=np.int64)
    for part in parts:
        counts += np.bincount(part, minlength=len(counts))
    return counts


def _label_of_row(row: Mapping[str, str | None], place: str) -> Label:
    try:
        value = int(row["LabelValue"] or "")
        red, green, blue = (int(row[f"Color_{part}"] or "") for part in "RGB")
    except ValueError as fault:
        raise InputFault(
            f"{place}: {fault}; LabelValue and Color_R, Color_G, Color_B are whole numbers.",
            code="E_TABLE",
        ) from fault
    codes = {name: cell for name in CODE_COLUMNS if (cell := row.get(name))}
    return Label(value, row["Name"] or "", (red, green, blue), codes)


def _refuse_labels(labels: tuple[Label, ...]) -> None:
    faults = []
    for label in labels:
        if not 1 <= label.value <= LARGEST_VALUE:
            faults.append(f"value {label.value} ({label.name}): values are 1 to {LARGEST_VALUE}.")
        if not label.name:
            faults.append(f"value {label.value} has no name.")
        if not all(0 <= part <= 255 for part in label.color):
            faults.append(f"{label.name}: color {label.color} leaves 0..255.")
    for kind, keys in (
        ("value", [label.value for label in labels]),
        ("name", [label.name.lower() for label in labels]),
    ):
        faults += [f"{kind} {key} stands twice." for key in sorted(_repeated(keys), key=str)]
    if not labels:
        faults.append("it holds no label beside background.")
    if faults:
        raise all_at_once(faults, summary="The label table cannot be used:", code="E_TABLE")


def _refuse_mirrored(pairs: Iterable[tuple[int, int]], known: list[int]) -> None:
    values = [value for pair in pairs for value in pair]
    wrong = sorted({value for value in values if value not in known} | _repeated(values))
    if wrong:
        raise InputFault(
            f"mirrored: {', '.join(map(str, wrong))} is no label, or stands twice; each pair is of "
            "two labels, and a label is in one pair at most.",
            code="E_TABLE",
        )


def _repeated(keys: list) -> set:
    seen: set = set()
    return {key for key in keys if key in seen or seen.add(key)}


def _spread_color(place: int) -> tuple[int, int, int]:
    # Steps of the golden ratio keep any number of neighbors apart on the color circle.
    hue = (0.02 + place * 0.618034) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.72, 0.92)
    return round(red * 255), round(green * 255), round(blue * 255)
