"""The layout `msd`: a task of the Medical Segmentation Decathlon, told by its dataset.json.

One file a case holds all channels (4D where there are several). Cases are those of "training".
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
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
from medseg.data.layouts.found import Found, FoundCase
from medseg.fault import InputFault
from medseg.volume import LabelTable


def find(card: Card, root: Path, *, labeled: bool) -> Found:
    """The training cases that dataset.json lists."""
    facts = read_dataset_json(root)
    channels = in_number_order(need(facts, "modality", dict, root), "modality", root)
    labels = _labels(need(facts, "labels", dict, root), root)
    cases = tuple(
        _case(item, number, root, labeled=labeled)
        for number, item in enumerate(need(facts, "training", list, root))
    )
    return Found(
        settled_channels(card, channels, root),
        settled_labels(card, labels, root),
        card.regions,
        tuple(sorted(cases, key=lambda case: case.id)),
        tuple(_faults(cases)),
    )


def place(root: Path, case: str) -> FoundCase:
    """Where the files of a new case belong."""
    return FoundCase(case, (root / f"imagesTr/{case}.nii.gz",), root / f"labelsTr/{case}.nii.gz")


def _labels(names: Mapping[str, Any], root: Path) -> LabelTable:
    strangers = [key for key in names if not key.isdigit()]
    if strangers:
        raise InputFault(
            f"{root / NAME}: label {strangers[0]!r} is no number; a Decathlon task maps values to "
            'names ("1": "Anterior"). An nnU-Net data set is opened by the card nnunet.',
            code="E_DATASET",
        )
    return named_table({int(value): str(name) for value, name in names.items()}, root)


def _case(item: Any, number: int, root: Path, *, labeled: bool) -> FoundCase:
    keys = ("image", "label") if labeled else ("image",)
    if not isinstance(item, dict) or not all(isinstance(item.get(key), str) for key in keys):
        raise InputFault(
            f"{root / NAME}: training[{number}] is {item!r}; it must name {' and '.join(keys)}.",
            code="E_DATASET",
        )
    name = PurePosixPath(item["image"]).name
    case = name.removesuffix(".gz").removesuffix(".nii")
    return FoundCase(case, (root / item["image"],), root / item["label"] if labeled else None)


def _faults(cases: tuple[FoundCase, ...]) -> list[str]:
    counts = Counter(case.id for case in cases)
    faults = [f"{case}: training lists it {n} times." for case, n in counts.items() if n > 1]
    return faults + missing_files(cases)


def missing_files(cases: tuple[FoundCase, ...]) -> list[str]:
    """A line for each file of the cases that is not there."""
    return [
        f"{case.id}: {path} is missing."
        for case in cases
        for path in (*case.images, *([case.label] if case.label else []))
        if not path.is_file()
    ]
