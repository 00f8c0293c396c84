"""One case from its files to its label map on disk."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from medseg.fault import InputFault
from medseg.inference.predictor import Predictor
from medseg.io.nifti import read_volume, write_labels
from medseg.progress import Listener, silent


def predict_case(
    predictor: Predictor, files: Sequence[Path], target: Path, *, listener: Listener = silent
) -> dict[str, float]:
    """Write the label map of a case to `target`, whole or not at all; milliliters a label.

    Raises:
        InputFault: a file cannot be read, the channels are others, or the result is not finite.
    """
    volume = read_volume(files, predictor.task.channels)
    labels = predictor.predict(volume, listener=listener)
    write_labels(target, labels)
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
