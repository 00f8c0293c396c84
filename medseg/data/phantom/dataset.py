"""A synthetic data set in a card's own layout."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medseg.data.card import Card
from medseg.data.cases import place_case
from medseg.data.phantom.brain import brain_subject
from medseg.data.phantom.organs import organs_subject
from medseg.data.phantom.shapes import Shape
from medseg.fault import InputFault
from medseg.io.atomic import write_json, write_text
from medseg.io.nifti import write_labels, write_volume
from medseg.progress import Listener, Progress, silent
from medseg.volume import Grid, LabelTable, LabelVolume, Volume

Spacing = tuple[float, float, float]

NOTICE = (
    "SYNTHETIC data, made by `medseg train --demo` to show that the pipeline works. No patient was "
    "imaged; nothing trained on it is of medical use.\n"
)
MARK = "phantom.json"
NOTICE_FILE = "SYNTHETIC.txt"
DATASET_FILE = "dataset.json"
STAGE = "make phantoms"
# Raised when the same settings make other images than before: sets of before are then made again.
VERSION = 3


def make_phantom(
    card: Card,
    folder: Path,
    *,
    subjects: int,
    seed: int = 0,
    spacing_mm: Spacing | None = None,
    longest_side: int = 96,
    listener: Listener = silent,
) -> Path:
    """Write `subjects` synthetic cases in the layout of `card` to `folder`; the data set's root.

    Channels and labels are the card's; the spacing is `spacing_mm` or the card's. A block is as
    large as the card says, but no side is longer than `longest_side` voxels. The same arguments
    give the same files: a finished set is kept, an older one is replaced.

    Raises:
        InputFault: the folder holds files that are no synthetic set (E_PHANTOM).
    """
    channels, labels = facts_of(card)
    spacing = spacing_mm or card.phantom.spacing_mm
    shape = block_shape(card, spacing, longest_side)
    names = [card.phantom.case.format(n=number + 1) for number in range(subjects)]
    settings = {
        "version": VERSION,
        "card": json.loads(card.model_dump_json(include={"name", "layout", "modality", "phantom"})),
        "channels": list(channels),
        "labels": {str(label.value): label.name for label in labels.labels},
        "subjects": subjects,
        "seed": seed,
        "spacing_mm": list(spacing),
        "shape": list(shape),
        "files": _files(card, folder, names, len(channels)),
    }
    if _is_made(folder, settings):
        return folder
    write_text(folder / NOTICE_FILE, NOTICE)
    grid = Grid.from_spacing(shape, spacing)
    for number, name in enumerate(names):
        generator = np.random.default_rng(np.random.SeedSequence([seed, number]))
        image, array = _subject(card, generator, grid, channels, labels)
        _write_case(card, folder, name, Volume(image, grid, channels), array, labels)
        listener(Progress(STAGE, number + 1, subjects, text=name))
    if card.layout != "folder":
        write_json(folder / DATASET_FILE, _dataset_json(card, names, channels, labels))
    write_json(folder / MARK, {**settings, "complete": True})
    return folder


def facts_of(card: Card) -> tuple[tuple[str, ...], LabelTable]:
    """Channels and labels of the card; of its phantom where dataset.json would tell them."""
    channels = card.channels or card.phantom.channels
    labels = card.labels or LabelTable.from_names(card.phantom.labels)
    return channels, labels


def block_shape(card: Card, spacing_mm: Spacing, longest_side: int) -> Shape:
    """The card's block in voxels of `spacing_mm`, each side cut to the longest allowed."""
    i, j, k = (
        min(max(round(side * mm / wanted), 4), longest_side)
        for side, mm, wanted in zip(
            card.phantom.shape, card.phantom.spacing_mm, spacing_mm, strict=True
        )
    )
    return i, j, k


def _files(card: Card, folder: Path, names: Sequence[str], channels: int) -> list[str]:
    files = []
    for name in names:
        place = place_case(card, folder, name, channels=channels)
        assert place.label is not None
        files += [path.relative_to(folder).as_posix() for path in (*place.images, place.label)]
    return files


def _is_made(folder: Path, settings: dict[str, Any]) -> bool:
    """Whether the finished set lies there; if not, the folder is ready for it."""
    mark = folder / MARK
    if mark.is_file():
        before = json.loads(mark.read_text(encoding="utf-8"))
        if before == {**settings, "complete": True}:
            return True
        for name in before.get("files", []):
            (folder / name).unlink(missing_ok=True)
    elif folder.is_dir() and any(folder.iterdir()):
        raise InputFault(
            f"{folder}: it holds files that are no synthetic set, and the two must not be mixed; "
            "name an empty folder, or remove this one.",
            code="E_PHANTOM",
        )
    # Written first, so that what a killed run leaves is known to be synthetic.
    write_json(mark, {**settings, "complete": False})
    return False


def _subject(
    card: Card,
    generator: np.random.Generator,
    grid: Grid,
    channels: tuple[str, ...],
    labels: LabelTable,
) -> tuple[np.ndarray, np.ndarray]:
    phantom = card.phantom
    if phantom.kind == "brain" and phantom.lesion is not None:
        return brain_subject(
            generator,
            shape=grid.shape,
            spacing_mm=grid.spacing_mm,
            channels=channels,
            lesion=phantom.lesion,
        )
    return organs_subject(
        generator, shape=grid.shape, channels=channels, labels=labels, modality=card.modality
    )


def _write_case(
    card: Card, folder: Path, name: str, volume: Volume, array: np.ndarray, labels: LabelTable
) -> None:
    place = place_case(card, folder, name, channels=len(volume.channels))
    assert place.label is not None
    if len(place.images) == 1:
        write_volume(place.images[0], volume)
    else:
        for path, channel, part in zip(place.images, volume.channels, volume.array, strict=True):
            write_volume(path, Volume(part[None], volume.grid, (channel,)))
    write_labels(place.label, LabelVolume(array, volume.grid, labels))


def _dataset_json(
    card: Card, names: Sequence[str], channels: tuple[str, ...], labels: LabelTable
) -> dict[str, Any]:
    """The facts as the layout's own dataset.json tells them."""
    numbered = {str(number): channel for number, channel in enumerate(channels)}
    named = {label.name: label.value for label in labels.labels}
    common = {
        "name": f"Synthetic stand-in for {card.title}",
        "description": NOTICE.strip(),
        "numTraining": len(names),
    }
    if card.layout == "nnunet":
        named = {"background": 0, **named}
        return {**common, "channel_names": numbered, "labels": named, "file_ending": ".nii.gz"}
    return {
        **common,
        "modality": numbered,
        "labels": {"0": "background", **{str(value): name for name, value in named.items()}},
        "training": [
            {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}
            for name in names
        ],
        "numTest": 0,
        "test": [],
    }
