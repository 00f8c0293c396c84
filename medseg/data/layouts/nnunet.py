"""The layout `nnunet`: an nnU-Net raw data set (DatasetXXX_Name), told by its dataset.json.

Images are imagesTr/CASE_0000.nii.gz (a four-digit number a channel), labels labelsTr/CASE.nii.gz;
or dataset.json lists both under "dataset". Labels that are lists of values are regions, written in
the order of regions_class_order.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medseg.data.card import Card
from medseg.data.layouts.dataset_json import (
    NAME,
    in_number_order,
    named_table,
    need,
    read_dataset_json,
    settled_channels,
    settled_labels,
)
from medseg.data.layouts.decathlon import missing_files
from medseg.data.layouts.found import Found, FoundCase
from medseg.fault import InputFault
from medseg.volume import LabelTable, Region

ENDINGS = (".nii.gz", ".nii")
CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")


def find(card: Card, root: Path, *, labeled: bool) -> Found:
    """The training cases of the data set."""
    facts = read_dataset_json(root)
    key = "channel_names" if "channel_names" in facts else "modality"
    channels = in_number_order(need(facts, key, dict, root), key, root)
    labels, regions = read_labels(facts, root)
    if "dataset" in facts:
        cases = _told_cases(facts["dataset"], root, labeled=labeled)
    else:
        cases = _named_cases(_ending(facts, root), len(channels), root, labeled=labeled)
    return Found(
        settled_channels(card, channels, root),
        settled_labels(card, labels, root),
        card.regions or regions,
        cases,
        tuple(missing_files(cases)),
    )


def place(root: Path, case: str, channels: int) -> FoundCase:
    """Where the files of a new case belong."""
    images = tuple(root / f"imagesTr/{case}_{number:04d}.nii.gz" for number in range(channels))
    return FoundCase(case, images, root / f"labelsTr/{case}.nii.gz")


def read_labels(facts: Mapping[str, Any], root: Path) -> tuple[LabelTable, tuple[Region, ...]]:
    """The table of all values, and the regions where a label is a list of values."""
    entries = {str(name): _members(name, value, root) for name, value in _told_labels(facts, root)}
    entries = {name: members for name, members in entries.items() if members != (0,)}
    names = {members[0]: name for name, members in entries.items() if len(members) == 1}
    values = sorted({value for members in entries.values() for value in members if value})
    table = named_table({value: names.get(value, f"label {value}") for value in values}, root)
    if all(len(members) == 1 for members in entries.values()):
        if len(names) < len(entries):
            raise InputFault(
                f"{root / NAME}: two of the labels {', '.join(entries)} have the same value.",
                code="E_DATASET",
            )
        return table, ()
    order = need(facts, "regions_class_order", list, root)
    if len(order) != len(entries) or not all(value in table for value in order):
        raise InputFault(
            f"{root / NAME}: regions_class_order {order} must give each of the {len(entries)} "
            f"regions a value of {', '.join(map(str, values))}.",
            code="E_DATASET",
        )
    pairs = zip(entries.items(), order, strict=True)
    return table, tuple(Region(name, members, value) for (name, members), value in pairs)


def _told_labels(facts: Mapping[str, Any], root: Path) -> list[tuple[str, Any]]:
    labels = need(facts, "labels", dict, root)
    if "ignore" in labels:
        raise InputFault(
            f"{root / NAME}: the label `ignore` (voxels that nobody labeled) is not supported; "
            "give the voxels a label and remove it.",
            code="E_DATASET",
        )
    if not all(key.isdigit() for key in labels):
        return list(labels.items())
    # The first nnU-Net wrote {"1": "name"}, as the Decathlon does.
    names = [str(name) for name in labels.values()]
    if len(set(names)) < len(names):
        raise InputFault(
            f"{root / NAME}: two labels have the same name ({', '.join(names)}).",
            code="E_DATASET",
        )
    return list(zip(names, map(int, labels), strict=True))


def _members(name: str, value: Any, root: Path) -> tuple[int, ...]:
    members = tuple(value) if isinstance(value, list) else (value,)
    whole = all(type(member) is int and member >= 0 for member in members)
    if not members or not whole or (0 in members and members != (0,)):
        raise InputFault(
            f"{root / NAME}: label {name} is {value!r}; it must be a whole number, or a list of "
            "them without 0 (background).",
            code="E_DATASET",
        )
    return members


def _ending(facts: Mapping[str, Any], root: Path) -> str:
    ending = facts.get("file_ending", ENDINGS[0])
    if ending not in ENDINGS:
        raise InputFault(
            f"{root / NAME}: file_ending {ending!r}; data sets are read from "
            f"{' and '.join(ENDINGS)}. Convert the files first.",
            code="E_FORMAT",
        )
    return ending


def _named_cases(ending: str, channels: int, root: Path, *, labeled: bool) -> tuple[FoundCase, ...]:
    """The cases by the names in imagesTr and labelsTr."""
    images = [CHANNEL.fullmatch(stem) for stem in _stems(root / "imagesTr", ending)]
    ids = {found["case"] for found in images if found}
    if labeled:
        ids |= set(_stems(root / "labelsTr", ending))
    return tuple(
        FoundCase(
            case,
            tuple(root / "imagesTr" / f"{case}_{n:04d}{ending}" for n in range(channels)),
            root / "labelsTr" / f"{case}{ending}" if labeled else None,
        )
        for case in sorted(ids)
    )


def _told_cases(told: Any, root: Path, *, labeled: bool) -> tuple[FoundCase, ...]:
    """The cases that dataset.json lists itself; its paths are relative to the data set."""
    if not isinstance(told, dict) or not all(
        isinstance(item, dict) and {"images", "label"} <= set(item) for item in told.values()
    ):
        raise InputFault(
            f'{root / NAME}: dataset must map each case to {{"images": [...], "label": ...}}.',
            code="E_DATASET",
        )
    return tuple(
        FoundCase(
            case,
            tuple(root / image for image in item["images"]),
            root / item["label"] if labeled else None,
        )
        for case, item in sorted(told.items())
    )


def _stems(folder: Path, ending: str) -> list[str]:
    return sorted(
        path.name.removesuffix(ending)
        for path in folder.glob(f"*{ending}")
        if not path.name.startswith(".")
    )
