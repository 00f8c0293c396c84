"""A network ready to label volumes: preprocessing, windows, and the way back to the source."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from medseg.fault import InputFault
from medseg.inference.export import labels_on_source
from medseg.inference.window import mirrored, sliding_window
from medseg.preprocess.record import Preprocessing
from medseg.progress import Listener, silent
from medseg.volume import LabelVolume, Task, Volume


@dataclass(frozen=True, eq=False)
class Predictor:
    """Labels volumes with `model`; the result always lies on the grid of the input.

    `mirror_axes` (0 i, 1 j, 2 k) are mirrored at test time and averaged; left and right labels
    change places along i.
    """

    model: nn.Module
    task: Task
    preprocessing: Preprocessing
    overlap: float = 0.5
    batch_size: int = 1
    device: torch.device | str = "cpu"
    mirror_axes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        refuse_nonfinite_weights(self.model)
        self.model.to(self.device).eval()

    def predict(self, volume: Volume, *, listener: Listener = silent) -> LabelVolume:
        """The label map of `volume` on its own grid.

        Raises:
            InputFault: other channels than the task's (E_CHANNELS), an image that preprocessing
                refuses, or logits that are not finite (E_LOGITS): no mask comes of them.
        """
        self._refuse_channels(volume)
        image, record = self.preprocessing.apply(volume)
        logits = self.logits(torch.from_numpy(image), listener=listener)
        labels = labels_on_source(logits.numpy(), record=record, target=self.task.target)
        return LabelVolume(labels, volume.grid, self.task.target.labels)

    def logits(self, image: Tensor, *, listener: Listener = silent) -> Tensor:
        """Logits (out, i, j, k) of a preprocessed image (c, i, j, k), float32 on the CPU."""

        def walk(given: Tensor) -> Tensor:
            return sliding_window(
                self.model,
                given,
                patch_size=self.task.patch_size,
                overlap=self.overlap,
                batch_size=self.batch_size,
                device=self.device,
                listener=listener,
            )

        with torch.inference_mode():
            result = mirrored(
                walk,
                image,
                axes=self.mirror_axes,
                channels=self.task.target.mirrored_channels(),
            )
        if not torch.isfinite(result).all():
            raise InputFault(
                "the network's output holds NaN or infinity, so no mask is written; the image "
                "may be far from what it was trained on. Look at its intensities.",
                code="E_LOGITS",
            )
        return result

    def _refuse_channels(self, volume: Volume) -> None:
        if len(volume.channels) != self.task.in_channels:
            raise InputFault(
                f"the image has {len(volume.channels)} channels and the model takes "
                f"{self.task.in_channels}: {', '.join(self.task.channels)}, in this order.",
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
