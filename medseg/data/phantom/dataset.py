"""A synthetic data set in a card's own layout."""

import json
from pathlib import Path

import numpy as np

from medseg.data.card import Card
from medseg.data.cases import place_case
from medseg.data.phantom.brain import brain_subject
from medseg.data.phantom.organs import organs_subject
from medseg.data.phantom.shapes import Shape
from medseg.io.atomic import write_json, write_text
from medseg.io.nifti import write_labels, write_volume
from medseg.progress import Listener, Progress, silent
from medseg.volume import Grid, LabelTable, LabelVolume, Volume

LARGEST_BLOCK = 96
NOTICE = (
    "SYNTHETIC data, made by `medseg train --demo` to show that the pipeline works. No patient was "
    "imaged; nothing trained on it is of medical use.\n"
)
MARK = "phantom.json"
STAGE = "make phantoms"


def make_phantom(
    card: Card,
    folder: Path,
    *,
    subjects: int,
    seed: int = 0,
    spacing_mm: tuple[float, float, float] | None = None,
    listener: Listener = silent,
) -> Path:
    """Write `subjects` synthetic cases in the layout of `card` to `folder`; the data set's root.

    Channels and labels are the card's, the spacing is `spacing_mm` or the card's. The same
    arguments give the same files; a set that is already there is kept.
    """
    settings = {
        "card": card.name,
        "subjects": subjects,
        "seed": seed,
        "spacing_mm": list(spacing_mm or card.phantom.spacing_mm),
    }
    mark = folder / MARK
    if mark.is_file() and json.loads(mark.read_text()) == settings:
        return folder
    channels, labels = facts_of(card)
    names = [card.phantom.case.format(n=number + 1) for number in range(subjects)]
    for number, name in enumerate(names):
        generator = np.random.default_rng(np.random.SeedSequence([seed, number]))
        image, array = _subject(card, generator, channels, labels)
        shape = (array.shape[0], array.shape[1], array.shape[2])
        grid = Grid.from_spacing(shape, spacing_mm or card.phantom.spacing_mm)
        _write_case(card, folder, name, Volume(image, grid, channels), array, labels)
        listener(Progress(STAGE, number + 1, subjects))
    _write_facts(card, folder, names, channels, labels)
    write_text(folder / "SYNTHETIC.txt", NOTICE)
    write_json(mark, settings)
    return folder


def facts_of(card: Card) -> tuple[tuple[str, ...], LabelTable]:
    """Channels and labels of the card; of its phantom where dataset.json would tell them."""
    channels = card.channels or card.phantom.channels
    labels = card.labels or LabelTable.from_names(card.phantom.labels)
    return channels, labels


def _subject(
    card: Card, generator: np.random.Generator, channels: tuple[str, ...], labels: LabelTable
) -> tuple[np.ndarray, np.ndarray]:
    shape = _block(card.phantom.shape)
    if card.phantom.kind == "brain" and card.phantom.lesion is not None:
        return brain_subject(generator, shape=shape, channels=channels, lesion=card.phantom.lesion)
    return organs_subject(
        generator, shape=shape, channels=channels, labels=labels, is_ct=card.modality == "CT"
    )


def _block(shape: Shape) -> Shape:
    i, j, k = (min(side, LARGEST_BLOCK) for side in shape)
    return i, j, k


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


def _write_facts(
    card: Card, folder: Path, names: list[str], channels: tuple[str, ...], labels: LabelTable
) -> None:
    """The dataset.json of the layouts that have one."""
    if card.layout == "folder":
        return
    numbered = {str(number): channel for number, channel in enumerate(channels)}
    title = f"Synthetic stand-in for {card.title}"
    named = {label.name: label.value for label in labels.labels}
    if card.layout == "msd":
        files = [
            {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}
            for name in names
        ]
        facts = {
            "name": title,
            "description": NOTICE.strip(),
            "modality": numbered,
            "labels": {"0": "background", **{str(v): n for n, v in named.items()}},
            "numTraining": len(names),
            "training": files,
            "numTest": 0,
            "test": [],
        }
    else:
        facts = {
            "name": title,
            "description": NOTICE.strip(),
            "channel_names": numbered,
            "labels": {"background": 0, **named},
            "numTraining": len(names),
            "file_ending": ".nii.gz",
        }
    write_json(folder / "dataset.json", facts)
