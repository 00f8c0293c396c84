"""What is done to a label map after the network: rules of the bundle, with their effect told.

Each rule looks at a label within the smallest box around it, so that little is held beside the map.
Components are found by cc3d (Silversmith 2021); of equally large ones the first is kept.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

import cc3d
import numpy as np
from jaxtyping import Bool, Integer
from scipy import ndimage

from medseg.fault import InputFault
from medseg.volume import LabelTable, LabelVolume

Connectivity = Literal[6, 18, 26]
Box = tuple[slice, slice, slice]


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

    Only holes up to `below_mm3`, if it is given. What is another label stays.
    """

    labels: tuple[str, ...] = ()
    below_mm3: float | None = None


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
    # No rule lets a label leave its box, so they are found once.
    boxes = ndimage.find_objects(array) if rules else []
    notes: list[str] = []
    for rule in rules:
        for name, values in _groups(rule, labels.table):
            box = _around([boxes[value - 1] for value in values if value <= len(boxes)])
            change = _change(array[box], values, rule, voxel_mm3) if box else None
            if box is None or change is None:
                continue
            if array is labels.array:
                array = array.copy()
            array[box][change.voxels] = change.value
            volume_ml = np.count_nonzero(change.voxels) * voxel_mm3 / 1000
            notes.append(f"{name}: {change.told}, {volume_ml:.2f} ml.")
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
        if not isinstance(rule, KeepLargest) and rule.below_mm3 is not None and rule.below_mm3 <= 0:
            raise InputFault(
                f"postprocess: below_mm3 {rule.below_mm3}: a volume is above 0.",
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
    unknown = values.keys() - {field.name for field in fields(kind)}
    connectivity = values.get("connectivity", 26)
    if unknown or connectivity not in get_args(Connectivity):
        raise InputFault(
            f"postprocess: {item['name']} has no {', '.join(sorted(unknown))}."
            if unknown
            else f"postprocess: connectivity {connectivity!r} is none of 6, 18 and 26.",
            code="E_POSTPROCESS",
        )
    return kind(**{**values, "labels": tuple(values.get("labels", ()))})


@dataclass(frozen=True)
class _Change:
    """Voxels of a box that become `value`, and what that is."""

    voxels: Bool[np.ndarray, "x y z"]
    value: int
    told: str


def _groups(rule: Rule, table: LabelTable) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and values of what a rule takes as one."""
    chosen = [label for label in table.labels if not rule.labels or label.name in rule.labels]
    if isinstance(rule, KeepLargest) and rule.together:
        yield " + ".join(label.name for label in chosen), tuple(label.value for label in chosen)
        return
    for label in chosen:
        yield label.name, (label.value,)


def _around(boxes: Sequence[Box | None]) -> Box | None:
    """The smallest box around some boxes; None where there is none."""
    found = [box for box in boxes if box is not None]
    if not found:
        return None
    i, j, k = (
        slice(min(side.start for side in sides), max(side.stop for side in sides))
        for sides in zip(*found, strict=True)
    )
    return i, j, k


def _change(
    part: Integer[np.ndarray, "x y z"], values: tuple[int, ...], rule: Rule, voxel_mm3: float
) -> _Change | None:
    inside = np.isin(part, values)
    if isinstance(rule, FillHoles):
        return _holes(part, inside, values[0], rule, voxel_mm3)
    parts, count = cc3d.connected_components(inside, connectivity=rule.connectivity, return_N=True)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
    if isinstance(rule, RemoveSmall):
        goes = sizes * voxel_mm3 < rule.below_mm3
    else:
        goes = np.arange(count) != (sizes.argmax() if count else 0)
    if not goes.any():
        return None
    voxels = np.concatenate([[False], goes])[parts]
    return _Change(voxels, 0, f"{int(goes.sum())} of {count} components removed")


def _holes(
    part: Integer[np.ndarray, "x y z"],
    inside: Bool[np.ndarray, "x y z"],
    value: int,
    rule: FillHoles,
    voxel_mm3: float,
) -> _Change | None:
    parts, count = cc3d.connected_components(~inside, connectivity=6, return_N=True)
    is_hole = np.ones(count + 1, dtype=bool)
    # 0 is the label itself. What touches a face of its box is not closed off by it.
    is_hole[0] = False
    for axis in range(3):
        is_hole[np.unique(np.take(parts, (0, -1), axis=axis))] = False
    if rule.below_mm3 is not None:
        is_hole &= np.bincount(parts.ravel(), minlength=count + 1) * voxel_mm3 <= rule.below_mm3
    voxels = is_hole[parts] & (part == 0)
    filled = np.count_nonzero(np.bincount(parts[voxels], minlength=1))
    return _Change(voxels, value, f"{filled} holes filled") if filled else None
