"""What is done to a label map after the network: rules of the bundle, with their effect told.

Each rule looks at a label within the smallest box around it, so that little is held beside the map;
where those boxes are much larger together than the map, at all labels in one pass. Of equally large
components the first is kept.
"""

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

import cc3d
import numpy as np
from jaxtyping import Integer
from scipy import ndimage

from medseg.fault import InputFault
from medseg.inference.components import Components, Connectivity, component_sizes, some_planes
from medseg.volume import Grid, LabelTable, LabelVolume

Box = tuple[slice, slice, slice]
Plane = Literal["axial", "coronal", "sagittal"]
# The directions that lie across each plane.
ACROSS: Mapping[Plane, str] = {"axial": "SI", "coronal": "AP", "sagittal": "RL"}
# Boxes of labels are looked at one by one, unless that is so many passes over all of them.
MOST_PASSES = 3


@dataclass(frozen=True, kw_only=True)
class KeepLargest:
    """Of each label (all where none is named) only the largest component stays.

    `together` takes the labels as one: nnU-Net's rule for all of the foreground.
    """

    labels: tuple[str, ...] = ()
    together: bool = False
    connectivity: Connectivity = 26


@dataclass(frozen=True, kw_only=True)
class RemoveSmall:
    """Components of each label (all where none is named) below a volume become background."""

    labels: tuple[str, ...] = ()
    below_mm3: float
    connectivity: Connectivity = 26


@dataclass(frozen=True, kw_only=True)
class FillHoles:
    """Background that a label (each where none is named) encloses on all six sides becomes it.

    Only holes up to `below_mm3`, if it is given. What is another label stays. With `slices` each
    slice of that plane is looked at by itself, and a hole is enclosed on four sides.
    """

    labels: tuple[str, ...] = ()
    below_mm3: float | None = None
    slices: Plane | None = None


Rule = KeepLargest | RemoveSmall | FillHoles

RULES: Mapping[str, type[Rule]] = {
    "keep_largest": KeepLargest,
    "remove_small": RemoveSmall,
    "fill_holes": FillHoles,
}


def postprocessed(
    labels: LabelVolume, rules: Sequence[Rule]
) -> tuple[LabelVolume, tuple[str, ...]]:
    """The label map after `rules`, one after the other, and a sentence on each change.

    Raises:
        InputFault: a rule names a label that the table does not have (E_POSTPROCESS).
    """
    refuse_rules(rules, labels.table)
    array, voxel_mm3 = labels.array, labels.grid.voxel_volume_mm3
    if not rules or not array.any():
        return labels, ()
    array = array.copy()
    # No rule lets a label leave its box, so they are found once.
    boxes = ndimage.find_objects(array)
    notes: list[str] = []
    for rule in rules:
        for group in _groups(rule, labels.table, boxes):
            for change in _changes(array[group.box], group, rule, labels.grid):
                volume_ml = change.voxels * voxel_mm3 / 1000
                notes.append(f"{change.name}: {change.told}, {volume_ml:.2f} ml.")
    if not notes:
        return labels, ()
    return LabelVolume(array, labels.grid, labels.table), tuple(notes)


def refuse_rules(rules: Sequence[Rule], table: LabelTable) -> None:
    """Raise InputFault (E_POSTPROCESS) where a rule names no label of `table`, or no volume."""
    for rule in rules:
        for name in rule.labels:
            if name not in table.names:
                near = difflib.get_close_matches(name, table.names, n=1)
                hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(table.names)}"
                raise InputFault(
                    f"postprocess: {name} is no label of the table; {hint}", code="E_POSTPROCESS"
                )
        volume = None if isinstance(rule, KeepLargest) else rule.below_mm3
        if volume is not None and not 0 < volume < math.inf:
            raise InputFault(
                f"postprocess: below_mm3 {volume}: a volume is above 0.",
                code="E_POSTPROCESS",
            )


def rules_to_json(rules: Sequence[Rule]) -> list[dict[str, Any]]:
    """The rules as plain JSON values."""
    names = {kind: name for name, kind in RULES.items()}
    return [
        {"name": names[type(rule)], **asdict(rule), "labels": list(rule.labels)} for rule in rules
    ]


def rules_from_json(data: object) -> tuple[Rule, ...]:
    """The rules that `rules_to_json` wrote.

    Raises:
        InputFault: they are none of this medseg (E_POSTPROCESS).
    """
    if not isinstance(data, list):
        raise InputFault("postprocess: it is no list of rules.", code="E_POSTPROCESS")
    return tuple(map(_rule_from_json, data))


def _rule_from_json(item: object) -> Rule:
    kind = RULES.get(str(item.get("name"))) if isinstance(item, dict) else None
    if kind is None or not isinstance(item, dict):
        raise InputFault(
            f"postprocess: {item!r} is no rule; the rules are {', '.join(RULES)}.",
            code="E_POSTPROCESS",
        )
    values = {key: value for key, value in item.items() if key != "name"}
    refusal = _refusal(kind, values)
    if refusal:
        raise InputFault(f"postprocess: {item['name']}: {refusal}.", code="E_POSTPROCESS")
    return kind(**{**values, "labels": tuple(values.get("labels", ()))})


def _refusal(kind: type[Rule], values: Mapping[str, Any]) -> str | None:
    """Why these are no settings of the rule."""
    unknown = values.keys() - {field.name for field in fields(kind)}
    if unknown:
        return f"it has no {', '.join(sorted(map(str, unknown)))}"
    labels, below_mm3 = values.get("labels", []), values.get("below_mm3")
    if not isinstance(labels, list) or not all(isinstance(name, str) for name in labels):
        return f"labels {labels!r} is no list of names"
    if not _is_number(below_mm3) and (below_mm3 is not None or kind is RemoveSmall):
        return f"below_mm3 {below_mm3!r} is no volume in mm3"
    connectivity = values.get("connectivity", 26)
    if not isinstance(connectivity, int) or connectivity not in get_args(Connectivity):
        return f"connectivity {connectivity!r} is none of 6, 18 and 26"
    if values.get("slices") not in (None, *ACROSS):
        return f"slices {values['slices']!r} is none of {', '.join(ACROSS)}"
    if not isinstance(values.get("together", False), bool):
        return f"together {values['together']!r} is neither true nor false"
    return None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True)
class _Group:
    """Names by value of labels that are looked at in one pass over a box; `together` as one."""

    names: Mapping[int, str]
    box: Box
    together: bool


@dataclass(frozen=True)
class _Change:
    """How many voxels of a label changed, and what that is."""

    name: str
    voxels: int
    told: str


def _groups(rule: Rule, table: LabelTable, boxes: Sequence[Box | None]) -> list[_Group]:
    box_of = {
        label.value: box
        for label, box in ((label, _box_of(label.value, boxes)) for label in table.labels)
        if box is not None and (not rule.labels or label.name in rule.labels)
    }
    names = {label.value: label.name for label in table.labels if label.value in box_of}
    if not names:
        return []
    around = _around(list(box_of.values()))
    if isinstance(rule, KeepLargest) and rule.together:
        return [_Group(names, around, together=True)]
    one_by_one = sum(map(_size, box_of.values()))
    if isinstance(rule, FillHoles) or one_by_one < MOST_PASSES * _size(around):
        return [_Group({v: name}, box_of[v], together=False) for v, name in names.items()]
    return [_Group(names, around, together=False)]


def _box_of(value: int, boxes: Sequence[Box | None]) -> Box | None:
    return boxes[value - 1] if value <= len(boxes) else None


def _size(box: Box) -> int:
    return math.prod(side.stop - side.start for side in box)


def _around(boxes: Sequence[Box]) -> Box:
    """The smallest box around some boxes."""
    i, j, k = (
        slice(min(side.start for side in sides), max(side.stop for side in sides))
        for sides in zip(*boxes, strict=True)
    )
    return i, j, k


def _changes(
    part: Integer[np.ndarray, "x y z"], group: _Group, rule: Rule, grid: Grid
) -> Iterator[_Change]:
    """Do to `part`, in place, what the rule asks."""
    if isinstance(rule, FillHoles):
        yield from _fill(part, group, rule, grid)
        return
    components = Components.of(
        part, tuple(group.names), connectivity=rule.connectivity, together=group.together
    )
    goes = (
        components.sizes * grid.voxel_volume_mm3 < rule.below_mm3
        if isinstance(rule, RemoveSmall)
        else ~components.largest
    )
    goes[0] = False
    components.remove(part, goes)
    owners = {0: " + ".join(group.names.values())} if group.together else group.names
    for owner, name in owners.items():
        its = components.owners == owner
        its[0] = False
        gone = its & goes
        if gone.any():
            told = f"{np.count_nonzero(gone)} of {np.count_nonzero(its)} components removed"
            yield _Change(name, int(components.sizes[gone].sum()), told)


def _fill(
    part: Integer[np.ndarray, "x y z"], group: _Group, rule: FillHoles, grid: Grid
) -> Iterator[_Change]:
    ((value, name),) = group.names.items()
    most = math.inf if rule.below_mm3 is None else rule.below_mm3 / grid.voxel_volume_mm3
    if rule.slices is None:
        pieces, sides = [part], (0, 1, 2)
    else:
        across = next(n for n, code in enumerate(grid.axis_codes) if code in ACROSS[rule.slices])
        pieces = np.split(part, part.shape[across], axis=across)
        sides = tuple(n for n in range(3) if n != across)
    filled = [size for piece in pieces for size in _filled(piece, value, sides, most)]
    if filled:
        yield _Change(name, sum(filled), f"{len(filled)} holes filled")


def _filled(
    part: Integer[np.ndarray, "x y z"], value: int, sides: tuple[int, ...], most: float
) -> list[int]:
    """Fill holes of up to `most` voxels, in place: what each of them took, in voxels.

    A part of the background is a hole if it does not reach the ends of the axes `sides`.
    """
    parts = cc3d.connected_components(part != value, connectivity=6)
    sizes = component_sizes(parts)
    is_hole = sizes <= most
    # 0 is the label itself. What touches a face of its box is not closed off by it.
    is_hole[0] = False
    for axis in sides:
        is_hole[np.unique(np.take(parts, (0, -1), axis=axis))] = False
    filled = np.zeros(len(sizes), dtype=np.int64)
    for planes in some_planes(parts) if is_hole.any() else ():
        voxels = is_hole[parts[planes]] & (part[planes] == 0)
        filled += np.bincount(parts[planes][voxels], minlength=len(sizes))
        part[planes][voxels] = value
    return filled[filled > 0].tolist()
