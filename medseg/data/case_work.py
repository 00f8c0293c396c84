"""The work on one case: read, check, preprocess, sample, write; fit to run in another process."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from medseg.data.cases import Case
from medseg.data.entry import Entry, Stamp, array_path, entry_path, input_paths
from medseg.data.foreground import Members, sample_places
from medseg.data.pairs import fault_line, read_pair
from medseg.fault import InputFault
from medseg.io.atomic import atomic_path
from medseg.preprocess.record import Preprocessing
from medseg.volume import LabelTable

# Faults of the machine end the whole run; faults of a case are told together with the others'.
MACHINE_CODES = ("E_DISKFULL", "E_WRITE")


@dataclass(frozen=True)
class Job:
    """All that is needed to prepare one case."""

    case: Case
    channels: tuple[str, ...]
    labels: LabelTable
    members: tuple[Members, ...]
    preprocessing: Preprocessing
    folder: Path
    key: str


def prepare_case(job: Job) -> Entry | str:
    """Prepare a case on disk; what is wrong with its files comes back as a line."""
    _forget(job)
    try:
        entry = _prepared(job)
    except InputFault as fault:
        if fault.code in MACHINE_CODES:
            raise
        return fault_line(job.case, fault)
    entry.save(job.folder, job.case.id)
    return entry


def _forget(job: Job) -> None:
    """Remove the entry: the case counts as not prepared while its arrays are replaced."""
    path = entry_path(job.folder, job.case.id)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise InputFault(
            f"{path}: cannot be replaced ({error.strerror}); choose another folder.",
            code="E_WRITE",
        ) from error


def members_key(members: Members) -> str:
    """Label values as a key of JSON: "1,2,4"."""
    return ",".join(map(str, members))


def _prepared(job: Job) -> Entry:
    inputs = tuple(Stamp.of(path) for path in input_paths(job.case))
    volume, source_labels = read_pair(job.case, job.channels, job.labels)
    image, record = job.preprocessing.apply(volume)
    labels = job.preprocessing.apply_labels(source_labels, record)
    counts, places = sample_places(labels, job.members, seed=job.case.id)
    arrays = {"image": image, "labels": labels, "places": np.concatenate(places)}
    return Entry(
        key=job.key,
        labels=job.labels.values,
        inputs=inputs,
        outputs={name: _save(job, name, array) for name, array in arrays.items()},
        voxels=dict(zip(map(members_key, job.members), counts, strict=True)),
        spans=_spans(job.members, places),
        record=record.to_json(),
    )


def _spans(members: Sequence[Members], places: Sequence[np.ndarray]) -> dict[str, tuple[int, int]]:
    ends = np.cumsum([0, *map(len, places)]).tolist()
    return dict(zip(map(members_key, members), pairwise(ends), strict=True))


def _save(job: Job, name: str, array: np.ndarray) -> Stamp:
    path = array_path(job.folder, job.case.id, name)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, np.ascontiguousarray(array), allow_pickle=False)
    return Stamp.of(path)
