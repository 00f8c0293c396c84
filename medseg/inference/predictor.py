"""A network ready to label volumes: preprocessing, windows, and the way back to the source."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from medseg.fault import InputFault
from medseg.inference.export import labels_on_source, probabilities_on_source
from medseg.inference.window import mirrored, sliding_window
from medseg.models.shape import ShapePolicy
from medseg.preprocess.record import Preprocessing, Record
from medseg.progress import Listener, silent
from medseg.volume import LabelVolume, Task, Volume


@dataclass(frozen=True, eq=False, kw_only=True)
class Predictor:
    """Labels volumes with `model`; the result always lies on the grid of the input.

    `mirror_axes` (0 i, 1 j, 2 k) are mirrored at test time and averaged; left and right labels
    change places along i. `batch_size` windows run at a time on `device`.

    Raises:
        InputFault: weights that are not finite (E_WEIGHTS), or a mirror axis other than 0, 1, 2.
    """

    model: nn.Module
    task: Task
    preprocessing: Preprocessing
    overlap: float = 0.5
    batch_size: int = 1
    device: torch.device | str = "cpu"
    mirror_axes: tuple[int, ...] = ()
    shape_policy: ShapePolicy | None = None

    def __post_init__(self) -> None:
        refuse_nonfinite_weights(self.model)
        if not set(self.mirror_axes) <= {0, 1, 2}:
            raise InputFault(
                f"mirror_axes {list(self.mirror_axes)}: the axes are 0 (left to right), 1 (back "
                "to front) and 2 (feet to head).",
                code="E_MIRROR",
            )
        self.model.to(self.device).eval()

    def predict(self, volume: Volume, *, listener: Listener = silent) -> LabelVolume:
        """The label map of `volume` on its own grid.

        Raises:
            InputFault: other channels than the task's (E_CHANNELS), an image that preprocessing
                refuses, or logits that are not finite (E_LOGITS): no mask comes of them.
        """
        logits, record = self._logits_of(volume, listener)
        return self._labels(logits, record)

    def predict_probabilities(
        self, volume: Volume, *, listener: Listener = silent
    ) -> tuple[LabelVolume, Float[np.ndarray, "labels i j k"]]:
        """The label map of `volume`, and the probability of each label or region, float32.

        Raises:
            InputFault: see `predict`.
        """
        logits, record = self._logits_of(volume, listener)
        target = self.task.target
        probabilities = probabilities_on_source(logits, record=record, target=target)
        return self._labels(logits, record), probabilities

    def _logits_of(self, volume: Volume, listener: Listener) -> tuple[np.ndarray, Record]:
        self._refuse_channels(volume)
        image, record = self.preprocessing.apply(volume)
        return self.logits(torch.from_numpy(image), listener=listener).numpy(), record

    def _labels(self, logits: np.ndarray, record: Record) -> LabelVolume:
        labels = labels_on_source(logits, record=record, target=self.task.target)
        return LabelVolume(labels, record.source_grid, self.task.target.labels)

    def logits(
        self, image: Float[Tensor, "c i j k"], *, listener: Listener = silent
    ) -> Float[Tensor, "out i j k"]:
        """Logits of a preprocessed image, float32, where `image` is.

        Raises:
            InputFault: they are not all finite (E_LOGITS).
        """
        network = mirrored(
            self.model,
            axes=self.mirror_axes,
            channels=self.task.target.mirrored_channels(),
        )
        result = sliding_window(
            network,
            image,
            patch_size=self.task.patch_size,
            overlap=self.overlap,
            batch_size=self.batch_size,
            shape_policy=self.shape_policy,
            device=self.device,
            listener=listener,
        )
        _refuse_nonfinite_logits(result)
        return result

    def _refuse_channels(self, volume: Volume) -> None:
        wanted = self.task.channels
        if volume.channels != wanted:
            raise InputFault(
                f"the image has {_listed(volume.channels)} and the model takes "
                f"{_listed(wanted)}, in this order; give the files in it, or name them so.",
                code="E_CHANNELS",
            )


def refuse_nonfinite_weights(model: nn.Module) -> None:
    """Raise InputFault (E_WEIGHTS) that names the first tensors with NaN or infinity."""
    bad = [
        name
        for name, tensor in model.state_dict().items()
        if tensor.is_floating_point() and not torch.isfinite(tensor).all()
    ]
    if bad:
        raise InputFault(
            f"{len(bad)} weight tensors hold NaN or infinity ({', '.join(bad[:3])}); every mask "
            "would be empty. The training diverged: take an earlier checkpoint.",
            code="E_WEIGHTS",
        )


def _refuse_nonfinite_logits(logits: Tensor) -> None:
    # Channel by channel, so that the mask of what is finite is never of the size of the logits.
    for number, channel in enumerate(logits):
        bad = channel.numel() - int(torch.isfinite(channel).sum())
        if bad:
            raise InputFault(
                f"{bad} voxels of the network's output {number} are NaN or infinite, so no mask "
                "is written; the image may be far from what the network was trained on. Look at "
                "its intensities, or predict in float32.",
                code="E_LOGITS",
            )


def _listed(channels: tuple[str, ...]) -> str:
    return f"{len(channels)} channel{'s' * (len(channels) != 1)} ({', '.join(channels)})"
