"""A network ready to label volumes: preprocessing, windows, and the way back to the source."""

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from medseg.fault import InputFault
from medseg.inference.export import labels_on_source, probabilities_on_source
from medseg.inference.settings import WalkSettings
from medseg.inference.window import averaged, mirrored, sliding_window
from medseg.models.shape import ShapePolicy
from medseg.preprocess.record import Preprocessing, Record
from medseg.progress import Listener, silent
from medseg.volume import LabelVolume, Task, Volume


@dataclass(frozen=True, eq=False)
class Prepared:
    """A volume on the grid of the network, float32, and the record of the way there."""

    image: Float[np.ndarray, "c i j k"]
    record: Record


@dataclass(frozen=True, eq=False, kw_only=True)
class Predictor:
    """Labels volumes with `models`, averaged; the result always lies on the grid of the input.

    Several models are folds: networks of one task, trained on other cases each.

    Raises:
        InputFault: weights that are not finite (E_WEIGHTS).
    """

    models: tuple[nn.Module, ...]
    task: Task
    preprocessing: Preprocessing
    settings: WalkSettings = field(default_factory=WalkSettings)
    device: torch.device | str = "cpu"
    shape_policy: ShapePolicy | None = None

    def __post_init__(self) -> None:
        for model in self.models:
            refuse_nonfinite_weights(model)
            model.to(self.device).eval()

    def predict(self, volume: Volume, *, listener: Listener = silent) -> LabelVolume:
        """The label map of `volume` on its own grid.

        Raises:
            InputFault: other channels than the task's (E_CHANNELS), an image that preprocessing
                refuses, or logits that are not finite (E_LOGITS): no mask comes of them.
        """
        return self.label(self.prepare(volume), listener=listener)

    def prepare(self, volume: Volume) -> Prepared:
        """`volume` on the network's grid.

        Raises:
            InputFault: other channels than the task's (E_CHANNELS), or an image that preprocessing
                refuses.
        """
        self._refuse_channels(volume)
        return Prepared(*self.preprocessing.apply(volume))

    def label(self, prepared: Prepared, *, listener: Listener = silent) -> LabelVolume:
        """The label map of what `prepare` gave, on the grid of its source.

        Raises:
            InputFault: logits that are not finite (E_LOGITS).
        """
        logits = self.logits(torch.from_numpy(prepared.image), listener=listener).numpy()
        return self._labels(logits, prepared.record)

    def label_with_probabilities(
        self, prepared: Prepared, *, listener: Listener = silent
    ) -> tuple[LabelVolume, Float[np.ndarray, "labels i j k"]]:
        """The label map, and the probability of each label or region, float32.

        Raises:
            InputFault: see `label`.
        """
        logits = self.logits(torch.from_numpy(prepared.image), listener=listener).numpy()
        probabilities = probabilities_on_source(
            logits, record=prepared.record, target=self.task.target
        )
        return self._labels(logits, prepared.record), probabilities

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
            averaged(self.models),
            axes=self.settings.mirror_axes,
            channels=self.task.target.mirrored_channels(),
        )
        result = sliding_window(
            network,
            image,
            patch_size=self.task.patch_size,
            overlap=self.settings.overlap,
            batch_size=self.settings.batch_size,
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
