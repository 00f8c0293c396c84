"""A data set measured: what its plan is made from.

As nnU-Net does it (Isensee et al., Nature Methods 2021): each case is turned to RAS and cropped to
its nonzero box, and as many foreground voxels are drawn from each case as from any other, with
replacement, so that large lesions do not outweigh small ones.
"""

import hashlib
import json
import logging
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from medseg.data.cases import Case, Listing
from medseg.data.facts import ChannelIntensities, Fingerprint, Shape, Spacing
from medseg.fault import InputFault
from medseg.io.atomic import write_json
from medseg.io.nifti import read_labels, read_volume
from medseg.preprocess.record import Preprocessing
from medseg.progress import Listener, Progress, silent
from medseg.volume import LabelTable

__all__ = ["ChannelIntensities", "Fingerprint", "fingerprint"]

VERSION = 1
SAMPLES = 10_000_000
SEED = 1234
PERCENTILES = (0.5, 50.0, 99.5)

log = logging.getLogger(__name__)


def fingerprint(
    listing: Listing, *, cache: Path | None = None, workers: int = 0, listener: Listener = silent
) -> Fingerprint:
    """The fingerprint of the labeled cases of `listing`.

    `cache` is a JSON file: it is believed where it was made from files with the same contents,
    and written anew where not. `workers` processes share the reading; 0 reads in this one.

    Raises:
        InputFault: no case has labels, none has foreground, or a file cannot be read.
    """
    cases = [case for case in listing.cases if case.label is not None]
    if not cases:
        raise InputFault(
            f"{listing.root}: none of {len(listing.cases)} cases has labels; a plan is made from "
            "cases with labels.",
            code="E_NODATA",
        )
    digest = _digest(listing, cases, listener)
    kept = _kept(cache, digest)
    if kept is not None:
        return kept
    measured = list(_measured(listing, cases, workers, listener))
    made = Fingerprint(
        channels=listing.channels,
        classes=len(listing.labels) + 1,
        cases=tuple(case.id for case in cases),
        shapes=tuple(case.shape for case in measured),
        spacings_mm=tuple(case.spacing_mm for case in measured),
        relative_sizes=tuple(case.relative_size for case in measured),
        intensities=_intensities(listing, measured),
        digest=digest,
    )
    if cache is not None:
        write_json(cache, made.to_json())
    return made


@dataclass(frozen=True, eq=False)
class Measured:
    """One case: its crop, and foreground intensities drawn from it, shape (c, n)."""

    shape: Shape
    spacing_mm: Spacing
    relative_size: float
    sample: np.ndarray
    extremes: np.ndarray


def measure(
    numbered: tuple[int, Case], *, channels: tuple[str, ...], labels: LabelTable, samples: int
) -> Measured:
    """The measures of one case; its number in the data set seeds what is drawn."""
    number, case = numbered
    assert case.label is not None, "only labeled cases are measured"
    volume = read_volume(case.images, channels)
    truth = read_labels(case.label, labels)
    crop = Preprocessing(spacing_mm=None, normalisation=(), crop="nonzero")
    try:
        record = crop.record_of(volume)
    except InputFault as fault:
        raise InputFault(f"case {case.id}: {fault}", code=fault.code) from fault
    difference = volume.grid.difference(truth.grid)
    if difference:
        raise InputFault(
            f"case {case.id}: image and labels lie on different grids: {difference}; resample the "
            "labels onto the image's grid (nearest neighbor).",
            code="E_PAIR",
        )
    inside = record.orient(truth.array) > 0
    foreground = np.stack([record.orient(channel)[inside] for channel in volume.array])
    sample, extremes = _drawn(foreground, samples, seed=(SEED, number))
    return Measured(
        shape=record.crop_shape,
        spacing_mm=record.model_grid.spacing_mm,
        relative_size=float(inside.size / truth.array.size),
        sample=sample,
        extremes=extremes,
    )


def _drawn(
    foreground: np.ndarray, samples: int, *, seed: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Voxels drawn from foreground (c, n) with replacement, and the extremes of all, (c, 2)."""
    if foreground.shape[1] == 0:
        return foreground, np.empty((len(foreground), 0), np.float32)
    places = np.random.default_rng(seed).integers(foreground.shape[1], size=samples)
    extremes = np.stack([foreground.min(axis=1), foreground.max(axis=1)], axis=1)
    return foreground[:, places], extremes


def _measured(
    listing: Listing, cases: Sequence[Case], workers: int, listener: Listener
) -> Iterator[Measured]:
    work = partial(
        measure,
        channels=listing.channels,
        labels=listing.labels,
        samples=max(1, SAMPLES // len(cases)),
    )
    numbered = list(enumerate(cases))
    if workers == 0:
        yield from _told(map(work, numbered), cases, listener)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        yield from _told(pool.map(work, numbered), cases, listener)


def _told(
    results: Iterator[Measured], cases: Sequence[Case], listener: Listener
) -> Iterator[Measured]:
    for done, (result, case) in enumerate(zip(results, cases, strict=True), start=1):
        listener(Progress("fingerprint", done, len(cases), text=case.id))
        yield result


def _intensities(listing: Listing, measured: Sequence[Measured]) -> tuple[ChannelIntensities, ...]:
    sample = np.concatenate([case.sample for case in measured], axis=1)
    extremes = np.concatenate([case.extremes for case in measured], axis=1)
    if sample.shape[1] == 0:
        raise InputFault(
            f"{listing.root}: the labels of all {len(measured)} cases are empty; a plan needs "
            "foreground.",
            code="E_LABEL",
        )
    return tuple(_statistics(values, ends) for values, ends in zip(sample, extremes, strict=True))


def _statistics(values: np.ndarray, extremes: np.ndarray) -> ChannelIntensities:
    low, median, high = np.percentile(values, PERCENTILES)
    return ChannelIntensities(
        percentile_00_5=float(low),
        percentile_99_5=float(high),
        mean=float(values.mean(dtype=np.float64)),
        std=float(values.std(dtype=np.float64)),
        median=float(median),
        minimum=float(extremes.min()),
        maximum=float(extremes.max()),
    )


def _digest(listing: Listing, cases: Sequence[Case], listener: Listener) -> str:
    """A sha256 of how we measure, what the labels mean, and each file's contents."""
    settings = [VERSION, SAMPLES, SEED, listing.channels, listing.labels.values]
    digest = hashlib.sha256(json.dumps(settings).encode())
    for done, case in enumerate(cases, start=1):
        digest.update(case.id.encode())
        for path in (*case.images, case.label):
            assert path is not None, "only labeled cases are measured"
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        listener(Progress("fingerprint files", done, len(cases), text=case.id))
    return digest.hexdigest()


def _kept(cache: Path | None, digest: str) -> Fingerprint | None:
    if cache is None or not cache.exists():
        return None
    try:
        kept = Fingerprint.from_json(json.loads(cache.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError) as fault:
        log.warning("%s cannot be read (%s); the data set is measured again.", cache, fault)
        return None
    return kept if kept.digest == digest else None
