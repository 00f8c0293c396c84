"""Which prediction belongs to which truth, found before anything is scored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg.data.cases import Listing
from medseg.fault import InputFault
from medseg.io.nifti import is_nifti, stem

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
        InputFault: a path is not there or holds nothing (E_NODATA), a name of `cases` has no
            truth, no image has the name of a case, or a prediction is missing and not allowed
            to be (E_MISSING).
    """
    for path in (predictions, truths, images):
        if isinstance(path, Path) and not path.exists():
            raise InputFault(f"{path}: there is no such file or folder.", code="E_NODATA")
    if isinstance(truths, Path) and predictions.is_file() and truths.is_file():
        name = stem(predictions)
        _wanted({name: truths}, cases, truths)
        shown = _images(images, [name, stem(truths)])
        image = next((shown[key] for key in (name, stem(truths)) if key in shown), None)
        return Pairs((Pair(name, predictions, truths, image),), ())
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
    if images is None and isinstance(truths, Listing):
        shown = {name: truths.case(name).images[0] for name in wanted}
    else:
        shown = _images(images, wanted)
    pairs = tuple(Pair(name, found.get(name), true[name], shown.get(name)) for name in wanted)
    return Pairs(pairs, tuple(name for name in found if name not in wanted))


def holds_maps(folder: Path) -> bool:
    """Whether NIfTI files lie in the folder itself, as label maps do for `find_pairs`."""
    return any(is_nifti(path) for path in folder.iterdir())


def _images(place: Path | None, names: Sequence[str]) -> dict[str, Path]:
    """The images of some cases, in a folder by their names; a file is that of all."""
    if place is None:
        return {}
    if place.is_file():
        return dict.fromkeys(names, place)
    found = _by_name(place)
    shown = {name: path for name in names if (path := found.get(name) or found.get(f"{name}_0000"))}
    if not shown:
        raise InputFault(
            f"{place}: none of its images has the name of a case ({_listed(names)}), with _0000 "
            "or without; rename them, or leave the images out.",
            code="E_MISSING",
        )
    return shown


def _by_name(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise InputFault(
            f"{folder}: it is a file, and its partner a folder; give two folders, or two files.",
            code="E_NODATA",
        )
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if not is_nifti(path):
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
