"""Cases prepared once: read, checked, preprocessed, and kept as arrays that map into memory.

A case is redone when its files, the preprocessing, the labels or the arrays themselves changed.

Images are float32. As float16 they would take half the disk, but a patch (4, 128, 128, 128) out of
a mapped file costs 16 ms instead of 9 (one core), because each voxel is converted on the way.
"""

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from medseg.data.case_work import Job, members_key, prepare_case
from medseg.data.cases import Listing
from medseg.data.entry import Entry, array_path, key_of, load_entry
from medseg.data.foreground import all_members, foreground
from medseg.data.pairs import check_headers, refuse
from medseg.fault import InputFault
from medseg.preprocess.record import Preprocessing, Record
from medseg.progress import Listener, Progress, silent
from medseg.volume import Target

# Raised when arrays or entries change their meaning: caches of before are then redone.
FORMAT = 1
STAGE = "prepare cases"


@dataclass(frozen=True, eq=False)
class Prepared:
    """Prepared cases in a folder. Arrays are mapped, so that only what is used is read."""

    folder: Path
    entries: Mapping[str, Entry]

    @property
    def cases(self) -> tuple[str, ...]:
        """The case ids, sorted."""
        return tuple(self.entries)

    def image(self, case: str) -> np.ndarray:
        """The preprocessed image, float32 (c, i, j, k), read only."""
        return self._array(case, "image")

    def labels(self, case: str) -> np.ndarray:
        """The label values on the grid of the image, uint8 or uint16 (i, j, k), read only."""
        return self._array(case, "labels")

    def record(self, case: str) -> Record:
        """The way back to the source grid."""
        return Record.from_json(self.entries[case].record)

    def places(self, case: str, target: Target) -> dict[str, np.ndarray]:
        """For each foreground name of `target` a sample of its voxels, uint16 (n, 3), n <= 8192.

        The sample is drawn evenly from all voxels of the label or region; absent ones have n = 0.
        """
        spans = self.entries[case].spans
        places = self._array(case, "places")
        return {
            name: places[slice(*spans[members_key(members)])]
            for name, members in foreground(target).items()
        }

    def voxels(self, case: str, target: Target) -> dict[str, int]:
        """For each foreground name of `target` how many voxels it has in `labels(case)`."""
        counts = self.entries[case].voxels
        return {name: counts[members_key(m)] for name, m in foreground(target).items()}

    def _array(self, case: str, name: str) -> np.ndarray:
        return np.load(array_path(self.folder, case, name), mmap_mode="r", allow_pickle=False)


def prepare(
    listing: Listing,
    preprocessing: Preprocessing,
    folder: str | Path,
    *,
    workers: int = 0,
    recheck: bool = False,
    listener: Listener = silent,
) -> Prepared:
    """Prepare what is not prepared yet, and give access to all of it.

    A run that was killed goes on where it stopped. `workers` processes share the work (0: this
    one does it). `recheck` compares hashes even where size and time of a file are unchanged.

    Raises:
        InputFault: images and labels do not fit (E_PAIR, all cases at once; the good ones stay
            prepared), the disk is full (E_DISKFULL), a worker was killed (E_WORKER).
    """
    folder = Path(folder)
    jobs = _jobs(listing, preprocessing, folder)
    entries, todo = {}, []
    for job in jobs:
        entry = load_entry(folder, job.case.id)
        if entry is not None and entry.holds(folder, job.case, key=job.key, surely=recheck):
            entries[job.case.id] = entry
        else:
            todo.append(job)
    check_headers(listing, [job.case for job in todo], listener=listener)
    entries.update(_prepare_all(todo, workers, listener))
    return Prepared(folder, dict(sorted(entries.items())))


def cache_folder(cache: Path, listing: Listing, preprocessing: Preprocessing) -> Path:
    """Where in `cache` the prepared cases of a data set lie, apart from those of any other.

    The names of cases are the same in many data sets, and a training reads its cases for hours.
    """
    root = str(listing.root.resolve())
    return cache / key_of([_key(listing, preprocessing), root])[:12]


def _jobs(listing: Listing, preprocessing: Preprocessing, folder: Path) -> list[Job]:
    members = all_members(listing.labels, listing.regions)
    key = _key(listing, preprocessing)
    return [
        Job(case, listing.channels, listing.labels, members, preprocessing, folder, key)
        for case in listing.cases
    ]


def _key(listing: Listing, preprocessing: Preprocessing) -> str:
    """What stands for all that a prepared case depends on beside its files."""
    members = all_members(listing.labels, listing.regions)
    return key_of(
        [FORMAT, preprocessing.digest(), listing.channels, listing.labels.values, members]
    )


def _prepare_all(jobs: list[Job], workers: int, listener: Listener) -> dict[str, Entry]:
    """The entries of all jobs; the faults of all cases are raised together, at the end."""
    entries, faults = {}, []
    for done, (job, outcome) in enumerate(_outcomes(jobs, workers), start=1):
        if isinstance(outcome, str):
            faults.append(outcome)
        else:
            entries[job.case.id] = outcome
        listener(Progress(STAGE, done, len(jobs), text=job.case.id))
    refuse(sorted(faults))
    return entries


def _outcomes(jobs: list[Job], workers: int) -> Iterable[tuple[Job, Entry | str]]:
    if workers == 0 or len(jobs) < 2:
        return ((job, prepare_case(job)) for job in jobs)
    return _shared_outcomes(jobs, workers)


def _shared_outcomes(jobs: list[Job], workers: int) -> Iterator[tuple[Job, Entry | str]]:
    # Spawned, not forked: a fork of a process with running threads may wait for ever.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        running = {pool.submit(prepare_case, job): job for job in jobs}
        try:
            for future in as_completed(running):
                yield running[future], future.result()
        except BrokenProcessPool as broken:
            raise InputFault(
                f"a worker of {workers} was killed while it prepared a case, most often because "
                "memory ran out. What is prepared is kept: run again with fewer workers "
                "(trainer.workers=0 needs the least).",
                code="E_WORKER",
            ) from broken
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
