"""One case from its files to its label map on disk."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from medseg import __version__
from medseg.bundle.inputs import Case
from medseg.bundle.outputs import Outputs
from medseg.fault import InputFault
from medseg.inference.predictor import Predictor
from medseg.io.formats import Origin
from medseg.progress import Listener, silent
from medseg.volume import LabelVolume

UNNAMED = Origin("medseg", __version__)


@dataclass(frozen=True)
class Prediction:
    """What a case came to: milliliters a label, and what of its input was mended."""

    volumes_ml: dict[str, float]
    notes: tuple[str, ...]


def predict_case(
    predictor: Predictor,
    case: Case,
    outputs: Outputs,
    name: str,
    *,
    origin: Origin = UNNAMED,
    listener: Listener = silent,
) -> Prediction:
    """Write what `outputs` asks for of the case `name`, each file whole or not at all.

    Raises:
        InputFault: a file cannot be read, the channels are others, the result is not finite, or
            a format cannot hold it.
    """
    reading = case.read(predictor.task.channels)
    probabilities = None
    prepared = predictor.prepare(reading.volume)
    if outputs.probabilities:
        labels, probabilities = predictor.label_with_probabilities(prepared, listener=listener)
    else:
        labels = predictor.label(prepared, listener=listener)
    outputs.write(
        name,
        labels,
        origin=replace(origin, sources=reading.dicom_files),
        probabilities=probabilities,
        asked=predictor.task.target,
    )
    return Prediction(_volumes_ml(labels), reading.notes)


def _volumes_ml(labels: LabelVolume) -> dict[str, float]:
    counts = np.bincount(labels.array.ravel(), minlength=max(labels.table.values) + 1)
    voxel_ml = labels.grid.voxel_volume_mm3 / 1000
    return {label.name: float(counts[label.value]) * voxel_ml for label in labels.table.labels}


def best_device(asked: str) -> torch.device:
    """The device that was asked for; `auto` is a GPU where there is one."""
    if asked == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(asked)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputFault(
            f"--device {asked}: it cannot be used here ({str(error).splitlines()[0]}).",
            code="E_DEVICE",
        ) from error
    return device
