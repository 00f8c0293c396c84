"""The dataset.json of a Decathlon task or an nnU-Net data set, read and checked."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medseg.data.card import Card
from medseg.fault import InputFault
from medseg.volume import LabelTable

NAME = "dataset.json"


def read_dataset_json(root: Path) -> Mapping[str, Any]:
    """The facts in `root`/dataset.json.

    Raises:
        InputFault: it is no JSON.
    """
    path = root / NAME
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as fault:
        raise InputFault(f"{path}: not JSON: {fault}.", code="E_DATASET") from fault
    if not isinstance(facts, dict):
        raise InputFault(f"{path}: it holds no keys.", code="E_DATASET")
    return facts


def need(facts: Mapping[str, Any], key: str, kind: type, root: Path) -> Any:
    """The value of `key`, which must be there and of that kind."""
    if not isinstance(facts.get(key), kind):
        raise InputFault(
            f"{root / NAME}: {key} must be there and be a {kind.__name__}, not {facts.get(key)!r}.",
            code="E_DATASET",
        )
    return facts[key]


def in_number_order(names: Mapping[str, str], key: str, root: Path) -> tuple[str, ...]:
    """The values of {"0": .., "1": ..} by number, which must count from 0 without a gap."""
    try:
        return tuple(str(names[str(number)]) for number in range(len(names)))
    except KeyError as fault:
        raise InputFault(
            f"{root / NAME}: {key} has the keys {', '.join(names)}; they count from 0 "
            "without a gap.",
            code="E_DATASET",
        ) from fault


def named_table(names: Mapping[int, str], root: Path) -> LabelTable:
    """The table of the names; what is wrong with it is told with the file."""
    try:
        return LabelTable.from_names(names)
    except InputFault as fault:
        raise InputFault(f"{root / NAME}: {fault}", code=fault.code) from fault


def settled_channels(card: Card, told: tuple[str, ...], root: Path) -> tuple[str, ...]:
    """The card's channel names where it states them; dataset.json must have as many."""
    if card.channels is None:
        return told
    if len(card.channels) != len(told):
        raise InputFault(
            f"{root / NAME}: channels {', '.join(told)}, but the card {card.name} states "
            f"{', '.join(card.channels)}; this is another data set.",
            code="E_CARD",
        )
    return card.channels


def settled_labels(card: Card, told: LabelTable, root: Path) -> LabelTable:
    """The card's table where it states one; values and names must be those of dataset.json."""
    if card.labels is None:
        return told
    ours, theirs = _names(card.labels), _names(told)
    if ours != theirs:
        raise InputFault(
            f"{root / NAME}: labels {_shown(theirs)}, but the card {card.name} states "
            f"{_shown(ours)}; this is another data set, or its labels were renumbered.",
            code="E_CARD",
        )
    return card.labels


def _names(table: LabelTable) -> dict[int, str]:
    return {label.value: label.name.lower() for label in table.labels}


def _shown(names: Mapping[int, str]) -> str:
    return ", ".join(f"{value} {name}" for value, name in names.items())
