"""The cases of a data set: the files of each, whose they are, and that none is missing."""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from medseg.data.card import DEMO_HINT, Card, alternatives, choose_target
from medseg.data.layouts import decathlon, nnunet, patterns
from medseg.data.layouts.dataset_json import NAME
from medseg.data.layouts.found import Found, FoundCase
from medseg.fault import InputFault, all_at_once
from medseg.volume import LabelTable, Region, Target


@dataclass(frozen=True)
class Case:
    """One study of a patient: an image file a channel (or a single 4D file) and its labels."""

    id: str
    patient: str
    images: tuple[Path, ...]
    label: Path | None


@dataclass(frozen=True, eq=False)
class Listing:
    """A data set on disk: the facts of its card, settled, and its cases sorted by id."""

    card: Card
    root: Path
    channels: tuple[str, ...]
    labels: LabelTable
    regions: tuple[Region, ...]
    cases: tuple[Case, ...]

    def target(self, *, regions: bool) -> Target:
        """What a network is asked for: the regions, or the labels."""
        return choose_target(self.labels, self.regions if regions else None, place=self.card.name)

    def case(self, case: str) -> Case:
        """The case of that id."""
        return self._by_id[case]

    @cached_property
    def _by_id(self) -> dict[str, Case]:
        return {case.id: case for case in self.cases}


def open_listing(card: Card, root: str | Path, *, labeled: bool = True) -> Listing:
    """The cases of `card` under `root`; `labeled=False` looks for images alone.

    Raises:
        InputFault: the root is missing or empty (E_NODATA, with the way to get the data), files
            of a case are missing or doubled (E_CASES, all at once), or dataset.json contradicts
            the card (E_CARD).
    """
    root = Path(root)
    if not root.is_dir():
        raise InputFault(f"{root}: this folder is not there. {_how_to_get(card)}", code="E_NODATA")
    found = _find(card, root, labeled=labeled)
    if not found.cases and not found.faults:
        raise InputFault(f"{root}: no case is there. {_how_to_get(card)}", code="E_NODATA")
    if found.faults:
        raise all_at_once(
            found.faults, summary=f"{root}: the data set is not complete:", code="E_CASES"
        )
    cases = tuple(_case(card, case) for case in found.cases)
    labels = card.with_mirrored(found.labels)
    return Listing(card, root, found.channels, labels, found.regions, cases)


def place_case(card: Card, root: str | Path, case: str, *, channels: int) -> FoundCase:
    """Where the files of a new case belong in the card's layout."""
    if card.layout == "msd":
        return decathlon.place(Path(root), case)
    if card.layout == "nnunet":
        return nnunet.place(Path(root), case, channels)
    return patterns.place(card, Path(root), case)


def patient_of(card: Card, case: str) -> str:
    """The patient that a case belongs to, by the card's rule."""
    if card.patient is None:
        return case
    found = re.fullmatch(card.patient, case)
    if not found:
        raise InputFault(
            f"case {case}: its name does not fit the card's rule for patients ({card.patient}); "
            "without its patient it cannot be put on one side of a split.",
            code="E_CARD",
        )
    return found.group(1)


def _find(card: Card, root: Path, *, labeled: bool) -> Found:
    if card.layout == "folder":
        return patterns.find(card, root, labeled=labeled)
    if not (root / NAME).is_file():
        raise InputFault(
            f"{root}: there is no {NAME}{_nearby(root)}. {_how_to_get(card)}", code="E_NODATA"
        )
    find = decathlon.find if card.layout == "msd" else nnunet.find
    return find(card, root, labeled=labeled)


def _nearby(root: Path) -> str:
    inner = sorted(path.parent for path in root.glob(f"*/{NAME}"))
    return f" (did you mean {inner[0]}?)" if len(inner) == 1 else ""


def _case(card: Card, found: FoundCase) -> Case:
    if "/" in found.id or "\\" in found.id:
        raise InputFault(
            f"case {found.id!r}: the name of a case has no slash; it is used for files.",
            code="E_CASES",
        )
    return Case(found.id, patient_of(card, found.id), found.images, found.label)


def _how_to_get(card: Card) -> str:
    return (
        f"Expected: {card.title}, as {_expected(card)}. {card.how_to_get.strip()} "
        f"Licence: {card.licence}. {DEMO_HINT}"
    )


def _expected(card: Card) -> str:
    if card.layout == "msd":
        return "the folder with dataset.json, imagesTr and labelsTr"
    if card.layout == "nnunet":
        return "the folder (DatasetXXX_Name) with dataset.json, imagesTr and labelsTr"
    assert card.files is not None, "the card's own check asks for files"
    images = card.files.images
    first = next(iter(images.values())) if isinstance(images, dict) else images
    return f"files like {alternatives(first)[0]} and {alternatives(card.files.label)[0]}"
