"""A data set measured: what its plan is made from.

As nnU-Net does it (Isensee et al., Nature Methods 2021): each case is cropped to its nonzero box,
and as many foreground voxels are drawn from each case as from any other, with replacement, so that
large lesions do not outweigh small ones. Ten million are drawn in all (nnU-Net: a hundred million,
which costs ten times the memory and moves no percentile).
"""

import json
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from medseg.data.cases import Case, Listing
from medseg.data.entry import Stamp, input_paths, key_of
from medseg.data.facts import ChannelIntensities, Fingerprint
from medseg.data.measure import Job, Measured, measure
from medseg.data.pairs import check_headers, refuse
from medseg.fault import InputFault
from medseg.io.atomic import write_json
from medseg.progress import Listener, Progress, silent

__all__ = ["ChannelIntensities", "Fingerprint", "fingerprint"]

FORMAT = 1
SAMPLES = 10_000_000
SEED = 1234
PERCENTILES = (0.5, 50.0, 99.5)

log = logging.getLogger(__name__)


def fingerprint(
    listing: Listing, *, cache: Path | None = None, workers: int = 0, listener: Listener = silent
) -> Fingerprint:
    """The fingerprint of the labeled cases of `listing`.

    `cache` is a JSON file: it is believed where it was made of files with the same contents (a file
    of unchanged size and time is taken for unchanged), and written anew where not. `workers`
    processes share the reading; 0 reads in this one.

    Raises:
        InputFault: images and labels do not fit (E_PAIR, all cases at once), no case has labels
            (E_NODATA) or any foreground (E_LABEL), a worker was killed (E_WORKER).
    """
    cases = [case for case in listing.cases if case.label is not None]
    if not cases:
        raise InputFault(
            f"{listing.root}: none of {len(listing.cases)} cases has labels, and a plan is made of "
            "cases with labels; add their label maps.",
            code="E_NODATA",
        )
    kept = _kept(cache, listing, cases)
    if kept is not None:
        return kept
    check_headers(listing, cases, listener=listener)
    stamps = _stamps(cases, listener) if cache is not None else {}
    made = _made(listing, cases, _measured(_jobs(listing, cases), workers, listener))
    if cache is not None:
        key = _key(listing, cases)
        write_json(cache, {"key": key, "files": stamps, "fingerprint": made.to_json()})
    return made


def _jobs(listing: Listing, cases: Sequence[Case]) -> list[Job]:
    share = max(1, SAMPLES // len(cases))
    return [
        Job(case, listing.channels, listing.labels, samples=share, seed=(SEED, number))
        for number, case in enumerate(cases)
    ]


def _measured(jobs: Sequence[Job], workers: int, listener: Listener) -> list[Measured]:
    """The measures of all jobs; the faults of all cases are raised together, at the end."""
    measured, faults = [], []
    for done, outcome in enumerate(_outcomes(jobs, workers), start=1):
        if isinstance(outcome, str):
            faults.append(outcome)
        else:
            measured.append(outcome)
        listener(Progress("fingerprint", done, len(jobs), text=jobs[done - 1].case.id))
    refuse(faults)
    return measured


def _outcomes(jobs: Sequence[Job], workers: int) -> Iterator[Measured | str]:
    if workers == 0:
        yield from map(measure, jobs)
        return
    # Spawned, not forked: a fork of a process with running threads may wait for ever.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        try:
            yield from pool.map(measure, jobs)
        except BrokenProcessPool as broken:
            raise InputFault(
                f"a worker of {workers} was killed while it measured a case, most often because "
                "memory ran out; run again with fewer workers.",
                code="E_WORKER",
            ) from broken


def _made(listing: Listing, cases: Sequence[Case], measured: Sequence[Measured]) -> Fingerprint:
    return Fingerprint(
        channels=listing.channels,
        classes=len(listing.labels) + 1,
        cases=tuple(case.id for case in cases),
        shapes=tuple(one.shape for one in measured),
        spacings_mm=tuple(one.spacing_mm for one in measured),
        relative_sizes=tuple(one.relative_size for one in measured),
        intensities=_intensities(listing, measured),
    )


def _intensities(listing: Listing, measured: Sequence[Measured]) -> tuple[ChannelIntensities, ...]:
    sample = np.concatenate([one.sample for one in measured], axis=1)
    extremes = np.concatenate([one.extremes for one in measured], axis=1)
    if sample.shape[1] == 0:
        raise InputFault(
            f"{listing.root}: the label maps of all {len(measured)} cases are empty, and a plan "
            "is made of labeled voxels.",
            code="E_LABEL",
        )
    return tuple(_statistics(*channel) for channel in zip(sample, extremes, strict=True))


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


def _key(listing: Listing, cases: Sequence[Case]) -> str:
    names = [case.id for case in cases]
    return key_of([FORMAT, SAMPLES, SEED, listing.channels, listing.labels.values, names])


def _stamps(cases: Sequence[Case], listener: Listener) -> dict[str, Any]:
    """The files of each case as they are, before they are measured."""
    stamps = {}
    for done, case in enumerate(cases, start=1):
        stamps[case.id] = [Stamp.of(path).to_json() for path in input_paths(case)]
        listener(Progress("hash the files", done, len(cases), text=case.id))
    return stamps


def _kept(cache: Path | None, listing: Listing, cases: Sequence[Case]) -> Fingerprint | None:
    if cache is None or not cache.is_file():
        return None
    try:
        data = json.loads(cache.read_text(encoding="utf-8"))
        if data["key"] != _key(listing, cases) or not _unchanged(data["files"], cases):
            return None
        return Fingerprint.from_json(data["fingerprint"])
    except (ValueError, KeyError, TypeError) as fault:
        log.warning("%s cannot be used (%s); the data set is measured again.", cache, fault)
        return None


def _unchanged(files: dict[str, Any], cases: Sequence[Case]) -> bool:
    return all(
        Stamp(*stamp).fits(path)
        for case in cases
        for stamp, path in zip(files[case.id], input_paths(case), strict=True)
    )
