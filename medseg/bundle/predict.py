"""One case from its files to its label map on disk."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from medseg.bundle.inputs import Case
from medseg.fault import InputFault
from medseg.inference.predictor import Predictor
from medseg.io.nifti import write_labels
from medseg.progress import Listener, silent


@dataclass(frozen=True)
class Prediction:
    """What a case came to: milliliters a label, and what of its input was mended."""

    volumes_ml: dict[str, float]
    notes: tuple[str, ...]


def predict_case(
    predictor: Predictor, case: Case, target: Path, *, listener: Listener = silent
) -> Prediction:
    """Write the label map of a case to `target`, whole or not at all.

    Raises:
        InputFault: a file cannot be read, the channels are others, or the result is not finite.
    """
    reading = case.read(predictor.task.channels)
    labels = predictor.predict(reading.volume, listener=listener)
    write_labels(target, labels)
    counts = np.bincount(labels.array.ravel(), minlength=max(labels.table.values) + 1)
    voxel_ml = labels.grid.voxel_volume_mm3 / 1000
    volumes_ml = {
        label.name: float(counts[label.value]) * voxel_ml for label in labels.table.labels
    }
    return Prediction(volumes_ml, reading.notes)


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
