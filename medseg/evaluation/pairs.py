"""Which prediction belongs to which truth, checked before anything is scored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg.data.cases import Case, Listing
from medseg.fault import InputFault, all_at_once
from medseg.io.nifti import is_nifti, read_header, stem

SHOWN = 12


@dataclass(frozen=True)
class Pair:
    """The files of one case; `prediction` None where it is missing and counts as empty.

    `image` is what the pictures of the report show below the outlines.
    """

    case: str
    prediction: Path | None
    truth: Path
    image: Path | None = None


@dataclass(frozen=True)
class Pairs:
    """The cases to score, and the predictions that have no truth (they are not scored)."""

    pairs: tuple[Pair, ...]
    unscored: tuple[str, ...]


def find_pairs(
    predictions: Path,
    truths: Path | Listing,
    *,
    images: Path | None = None,
    cases: Sequence[str] | None = None,
    allow_missing: bool = False,
) -> Pairs:
    """The pairs of equal names in two folders, or the one pair of two files.

    A data set brings the names of its cases, and its first channels as images. `cases` limits
    the pairs to some names. An image is CASE.nii.gz or CASE_0000.nii.gz.

    Raises:
        InputFault: a folder holds nothing (E_NODATA), or a prediction is missing and not
            allowed to be (E_MISSING).
    """
    if isinstance(truths, Path) and predictions.is_file() and truths.is_file():
        image = images if images is not None and images.is_file() else None
        return Pairs((Pair(stem(predictions), predictions, truths, image),), ())
    found = _by_name(predictions)
    if isinstance(truths, Listing):
        place = truths.root
        true = {case.id: case.label for case in truths.cases if case.label is not None}
    else:
        place, true = truths, _by_name(truths)
    wanted = _wanted(true, cases, place)
    missing = [name for name in wanted if name not in found]
    if missing and not allow_missing:
        raise _missing(missing, predictions, place, count=len(wanted))
    if images is not None:
        shown = _by_name(images)
    elif isinstance(truths, Listing):
        shown = {name: _first_image(truths.case(name)) for name in wanted}
    else:
        shown = {}
    pairs = tuple(
        Pair(name, found.get(name), true[name], shown.get(name) or shown.get(f"{name}_0000"))
        for name in wanted
    )
    return Pairs(pairs, tuple(name for name in found if name not in wanted))


def refuse_other_grids(pairs: Sequence[Pair]) -> None:
    """Compare the headers of all pairs; raise one InputFault (E_PAIR) that lists what differs."""
    faults = []
    for pair in pairs:
        if pair.prediction is None:
            continue
        truth, prediction = read_header(pair.truth).grid, read_header(pair.prediction).grid
        difference = truth.difference(prediction)
        if difference:
            faults.append(f"{pair.case}: {difference}")
    if faults:
        raise all_at_once(
            faults,
            summary=f"{len(faults)} of {len(pairs)} predictions lie on another grid than their "
            "truth (the truth stands first); predict on the images that the truth was drawn on:",
            code="E_PAIR",
        )


def _first_image(case: Case) -> Path | None:
    """That of a case, unless it cannot lie under its labels: nobody asked for it."""
    assert case.label is not None
    try:
        off = read_header(case.label).grid.difference(read_header(case.images[0]).grid)
    except InputFault:
        return None
    return None if off else case.images[0]


def holds_maps(folder: Path) -> bool:
    """Whether NIfTI files lie in the folder itself, as label maps do for `find_pairs`."""
    return any(_is_map(path) for path in folder.iterdir())


def _by_name(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise InputFault(
            f"{folder}: there is no such folder; give two folders, or two files.", code="E_NODATA"
        )
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if not _is_map(path):
            continue
        name = stem(path)
        if name in found:
            raise InputFault(
                f"{folder}: {found[name].name} and {path.name} are the same case; keep one.",
                code="E_PAIR",
            )
        found[name] = path
    if not found:
        raise InputFault(
            f"{folder}: there is no NIfTI file in it; give the folder that holds the label maps, "
            "or a data set's with its card (--card).",
            code="E_NODATA",
        )
    return found


def _is_map(path: Path) -> bool:
    return is_nifti(path) and not path.name.startswith(".")


def _wanted(true: Mapping[str, Path], cases: Sequence[str] | None, truths: Path) -> list[str]:
    if cases is None:
        return list(true)
    absent = [name for name in cases if name not in true]
    if absent:
        raise InputFault(
            f"{truths}: no truth for {_listed(absent)}; correct the list of cases.",
            code="E_MISSING",
        )
    return list(dict.fromkeys(cases))


def _missing(names: Sequence[str], predictions: Path, truths: Path, *, count: int) -> InputFault:
    return InputFault(
        f"{predictions}: {len(names)} of {count} cases of {truths} have no prediction "
        f"({_listed(names)}). Predict them, name the cases that are meant, or allow missing "
        "ones, which then count as empty masks.",
        code="E_MISSING",
    )


def _listed(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
