"""One case whole: claimed, read, labeled, written, and its receipt; what goes wrong is its outcome.

The three stages are functions of their own, so that `local` can run them side by side.
"""

import logging
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch

from medseg.engine.effort import forwards_over
from medseg.engine.fingerprint import Fingerprint, fingerprint
from medseg.engine.job import Job, Outcome
from medseg.engine.pictures import draw_picture
from medseg.engine.receipt import (
    Receipt,
    claim_path,
    read_receipt,
    reason_to_predict,
    write_receipt,
)
from medseg.fault import InputFault
from medseg.inference import memory
from medseg.inference.postprocess import postprocessed
from medseg.inference.predictor import Predictor, Prepared
from medseg.io.claim import Claim, claim
from medseg.progress import Listener, silent
from medseg.volume import LabelVolume, Volume

log = logging.getLogger(__name__)
Made = TypeVar("Made")
Stage = Literal["read_s", "network_s", "write_s"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Opened:
    """A case that is ours to do: read, and on the network's grid.

    `image` is the source where it is kept for the picture.
    """

    job: Job
    held: Claim
    inputs: Fingerprint
    earlier: Receipt | None
    image: Volume | None
    prepared: Prepared
    dicom_files: tuple[Path, ...] | None
    notes: tuple[str, ...]
    read_s: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Labeled:
    """A case with its label map, which is yet to be written."""

    opened: Opened
    labels: LabelVolume
    probabilities: Iterable[np.ndarray] | None
    network_s: float
    peak_mb: float


def run_job(predictor: Predictor, job: Job, *, listener: Listener = silent) -> Outcome:
    """Do a case from its files to its outputs and receipt, or say why not.

    No case makes it raise; interrupts alone come through (KeyboardInterrupt, SystemExit).
    """
    opened = open_job(predictor, job)
    if isinstance(opened, Outcome):
        return opened
    labeled = label_job(predictor, opened, listener=listener)
    if isinstance(labeled, Outcome):
        return labeled
    return finish_job(predictor, labeled)


def open_job(predictor: Predictor, job: Job) -> Opened | Outcome:
    """Claim a case, see whether it is done already, and if not read and preprocess it."""
    try:
        held = claim(claim_path(job))
    except InputFault as fault:
        return Outcome(case=job.name, state="failed", code=fault.code, message=str(fault))
    if held is None:
        return Outcome(case=job.name, state="claimed", message="another run is at it.")
    return _guarded(job, held, lambda: _opened(predictor, job, held), time_of="read_s")


def label_job(
    predictor: Predictor, opened: Opened, *, listener: Listener = silent
) -> Labeled | Outcome:
    """Walk the network over an opened case, and export its labels onto the source grid."""
    return _guarded(
        opened.job,
        opened.held,
        lambda: _labeled(predictor, opened, listener),
        time_of="network_s",
    )


def finish_job(predictor: Predictor, labeled: Labeled) -> Outcome:
    """Write the outputs of a labeled case and its receipt, and let it go."""
    opened = labeled.opened
    return _guarded(
        opened.job, opened.held, lambda: _finished(predictor, labeled), time_of="write_s"
    )


def _opened(predictor: Predictor, job: Job, held: Claim) -> Opened | Outcome:
    began = time.monotonic()
    earlier = read_receipt(job)
    inputs = fingerprint(job.case.files, known=earlier.inputs if earlier else None)
    reason = reason_to_predict(job, earlier, inputs, was_left=held.was_left)
    if reason is None:
        held.release(finished=True)
        return _present(job, earlier)
    reading = job.case.read(predictor.task.channels)
    # Under a budget the picture's image is read again when the network's memory is free.
    keeps_image = job.terms.pictures and predictor.settings.max_ram is None
    return Opened(
        job=job,
        held=held,
        inputs=inputs,
        earlier=earlier,
        image=reading.volume if keeps_image else None,
        prepared=predictor.prepare(reading.volume),
        dicom_files=reading.dicom_files,
        notes=(*((reason,) if reason else ()), *reading.notes),
        read_s=time.monotonic() - began,
    )


def _labeled(predictor: Predictor, opened: Opened, listener: Listener) -> Labeled:
    began = time.monotonic()
    memory.reset_peak()
    probabilities = None
    if opened.job.outputs.probabilities:
        labels, probabilities = predictor.label_with_probabilities(
            opened.prepared, listener=listener
        )
    else:
        labels = predictor.label(opened.prepared, listener=listener)
    return Labeled(
        opened=opened,
        labels=labels,
        probabilities=probabilities,
        network_s=time.monotonic() - began,
        peak_mb=memory.peak() / 1e6,
    )


def _finished(predictor: Predictor, labeled: Labeled) -> Outcome:
    began = time.monotonic()
    opened, job = labeled.opened, labeled.opened.job
    labels, effects = postprocessed(labeled.labels, job.terms.rules)
    notes = (*opened.notes, *effects)
    opened.held.begin_writing()
    job.outputs.write(
        job.name,
        labels,
        origin=replace(job.terms.origin, sources=opened.dicom_files),
        probabilities=labeled.probabilities,
        asked=predictor.task.target,
    )
    note = _drawn(predictor, opened, labels) if job.terms.pictures else ""
    notes = (*notes, note) if note else notes
    voxels = _voxels(labels)
    voxel_ml = labels.grid.voxel_volume_mm3 / 1000
    outcome = Outcome(
        case=job.name,
        state="done",
        message=" ".join(notes),
        read_s=opened.read_s,
        network_s=labeled.network_s,
        write_s=time.monotonic() - began,
        peak_mb=labeled.peak_mb,
        forwards=forwards_over(predictor, opened.prepared),
        image_voxels=labels.array.size,
        voxels=voxels,
        volumes_ml={name: count * voxel_ml for name, count in voxels.items()},
        path=job.path,
    )
    write_receipt(
        job,
        inputs=opened.inputs,
        outcome=outcome,
        geometry=opened.prepared.record.to_json(),
        notes=notes,
        earlier=opened.earlier,
    )
    opened.held.release(finished=True)
    return outcome


def _drawn(predictor: Predictor, opened: Opened, labels: LabelVolume) -> str:
    image = opened.image or opened.job.case.read(predictor.task.channels).volume
    return draw_picture(opened.job, image, labels)


def _voxels(labels: LabelVolume) -> Mapping[str, int]:
    counts = np.bincount(labels.array.ravel(), minlength=max(labels.table.values) + 1)
    return {label.name: int(counts[label.value]) for label in labels.table.labels}


def _present(job: Job, earlier: Receipt | None) -> Outcome:
    if earlier is not None:
        return earlier.outcome(job)
    message = "there without a receipt, so it is kept as it is."
    return Outcome(case=job.name, state="present", message=message, path=job.path)


def _guarded(job: Job, held: Claim, stage: Callable[[], Made], *, time_of: Stage) -> Made | Outcome:
    """What `stage` gives; what it raises is told as the case's outcome, and the case let go."""
    began = time.monotonic()
    try:
        return stage()
    except InputFault as fault:
        code, message = fault.code, str(fault)
    except (MemoryError, torch.OutOfMemoryError):
        code = "E_MEMORY"
        message = (
            f"{job.name}: the memory did not suffice; give --max-ram or --max-vram, so that it is "
            "divided, or predict on a machine with more."
        )
    except Exception as error:  # noqa: BLE001  # the last door of a case: the others are done
        code, message = "E_OURS", _of_ours(job, error)
    except BaseException:
        held.release(finished=False)
        raise
    held.release(finished=False)
    failed = Outcome(case=job.name, state="failed", code=code, message=message)
    seconds = time.monotonic() - began
    if time_of == "read_s":
        return replace(failed, read_s=seconds)
    if time_of == "network_s":
        return replace(failed, network_s=seconds)
    return replace(failed, write_s=seconds)


def _of_ours(job: Job, error: Exception) -> str:
    # Where it was raised, and not what it says: messages of libraries may quote a header.
    log.error("%s: %s\n%s", job.name, type(error).__name__, _frames(error))
    return (
        f"{job.name}: this is a fault of medseg ({type(error).__name__}); please report it with "
        "the lines that stand in the log."
    )


def _frames(error: Exception) -> str:
    return "".join(traceback.format_tb(error.__traceback__))
