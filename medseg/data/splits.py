"""Who is trained on and who is validated on: by patient, seeded, the same on every machine."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from medseg.data.cases import Case, Listing
from medseg.fault import InputFault

Fold = int | Literal["fixed", "all"]
EVERY_CASE = "every case is trained on"


@dataclass(frozen=True)
class Split:
    """Case ids to train on and to validate on; `origin` says how they were chosen.

    Where every case is trained on (`fold="all"`), none is left to validate on.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    origin: str = ""

    def refuse(self, cases: Sequence[Case]) -> None:
        """Raise an InputFault unless the split fits the cases.

        Refused are an empty side (E_FOLD), cases that are not there or stand twice on a side
        (E_SPLIT), and a case or a patient on both sides (E_LEAK).
        """
        _refuse_empty(self)
        _refuse_doubles(self)
        _refuse_strangers(self, cases)
        _refuse_leak(self, cases)

    def to_json(self) -> dict[str, Any]:
        """The split as plain JSON values."""
        return {
            "origin": self.origin,
            "train": list(self.train),
            "validation": list(self.validation),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Split":
        """The split that `to_json` wrote."""
        return cls(tuple(data["train"]), tuple(data["validation"]), data.get("origin", ""))


def make_split(
    listing: Listing,
    *,
    folds: int = 5,
    fold: Fold = 0,
    seed: int = 0,
    splits: str | None = None,
) -> Split:
    """Fold number `fold` of `folds` (from 0) as validation, the rest as training.

    Patients are dealt to the folds in the order of sha256("seed:patient"), so that the same names
    and seed give the same split on every machine. `splits` names a file with folds to take in
    their place (see `load_splits`). `fold="fixed"` takes the split of the card, `fold="all"`
    trains on every case.
    """
    if fold == "fixed":
        split = _fixed(listing)
    elif fold == "all":
        split = Split(tuple(case.id for case in listing.cases), (), EVERY_CASE)
    elif splits is not None:
        split = _listed(Path(splits), fold)
    else:
        split = _dealt(listing, folds, fold, seed)
    split.refuse(listing.cases)
    return split


def load_split(path: Path, cases: Sequence[Case]) -> Split:
    """The split stored at `path`, refused unless it fits the cases that are there now."""
    try:
        split = Split.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError) as fault:
        raise InputFault(
            f"{path}: this is no stored split ({fault!r}); it holds train and validation, each a "
            "list of case names.",
            code="E_SPLIT",
        ) from fault
    split.refuse(cases)
    return split


def load_splits(path: Path) -> tuple[Split, ...]:
    """The folds of nnU-Net's splits_final.json: a list of `train` and `val`, case names each.

    Raises:
        InputFault: the file cannot be read or is no such list (E_SPLIT).
    """
    try:
        folds = json.loads(path.read_text(encoding="utf-8"))
        return tuple(
            Split(_names(fold["train"]), _names(fold["val"]), f"fold {number} of {path.name}")
            for number, fold in enumerate(folds)
        )
    except OSError as fault:
        raise InputFault(
            f"{path}: it cannot be read ({fault.strerror}); data.splits names a file such as "
            "nnU-Net's splits_final.json.",
            code="E_SPLIT",
        ) from fault
    except (ValueError, KeyError, TypeError) as fault:
        raise InputFault(
            f"{path}: these are no splits ({fault!r}); nnU-Net's splits_final.json is a list "
            "with train and val for each fold, each a list of case names.",
            code="E_SPLIT",
        ) from fault


def _listed(path: Path, fold: int) -> Split:
    splits = load_splits(path)
    if not 0 <= fold < len(splits):
        raise InputFault(
            f"fold {fold} is none of the {len(splits)} in {path}; they are counted from 0, so give "
            f"a number up to {len(splits) - 1} (data.fold=0).",
            code="E_FOLD",
        )
    return splits[fold]


def _dealt(listing: Listing, folds: int, fold: int, seed: int) -> Split:
    patients = sorted(
        {case.patient for case in listing.cases}, key=lambda patient: _rank(patient, seed)
    )
    if folds < 2 or not 0 <= fold < folds:
        raise InputFault(
            f"fold {fold} of {folds}: there are at least 2 folds, counted from 0.", code="E_FOLD"
        )
    if len(patients) < folds:
        raise InputFault(
            f"{folds} folds of {len(patients)} patients leave folds empty; set data.folds to "
            f"{max(len(patients), 2)} or less, or add cases.",
            code="E_FOLD",
        )
    held_out = set(patients[fold::folds])
    return Split(
        tuple(case.id for case in listing.cases if case.patient not in held_out),
        tuple(case.id for case in listing.cases if case.patient in held_out),
        f"fold {fold} of {folds} by patient, seed {seed}",
    )


def _names(names: Sequence[str]) -> tuple[str, ...]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TypeError("a list of names is needed")
    return tuple(names)


def _rank(patient: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{patient}".encode()).digest()


def _fixed(listing: Listing) -> Split:
    fixed = listing.card.split
    if fixed is None:
        raise InputFault(
            f"fold: fixed: the card {listing.card.name} has no fixed split; give a number "
            "(data.fold=0).",
            code="E_SPLIT",
        )
    return Split(fixed.train, fixed.validation, f"fixed by the card {listing.card.name}")


def _refuse_empty(split: Split) -> None:
    sides = ("train",) if split.origin == EVERY_CASE else ("train", "validation")
    for side in sides:
        if not getattr(split, side):
            raise InputFault(
                f"the split has no {side} cases; give it more cases or fewer folds.",
                code="E_FOLD",
            )


def _refuse_doubles(split: Split) -> None:
    for side in (split.train, split.validation):
        doubles = sorted(case for case, count in Counter(side).items() if count > 1)
        if doubles:
            raise InputFault(
                f"the split names cases twice: {_shown(doubles)}; keep one of each.",
                code="E_SPLIT",
            )


def _refuse_strangers(split: Split, cases: Sequence[Case]) -> None:
    known = {case.id for case in cases}
    strangers = [case for case in (*split.train, *split.validation) if case not in known]
    if strangers:
        raise InputFault(
            f"the split{f' ({split.origin})' if split.origin else ''} names {len(strangers)} cases "
            f"that the data set does not have: {_shown(strangers)}. Restore them, or choose a "
            "fold by number (data.fold=0) in a new run.",
            code="E_SPLIT",
        )


def _refuse_leak(split: Split, cases: Sequence[Case]) -> None:
    patient_of = {case.id: case.patient for case in cases}
    trained = {patient_of[case] for case in split.train}
    leaked = [case for case in split.validation if patient_of[case] in trained]
    if leaked:
        raise InputFault(
            f"{len(leaked)} validation cases belong to patients that are trained on as well: "
            f"{_shown(leaked)}. Scores would be too good; keep each patient on one side.",
            code="E_LEAK",
        )


def _shown(names: Sequence[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
