"""A network ready to label volumes: preprocessing, windows, and the way back to the source."""

import math
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from medseg.fault import InputFault
from medseg.inference.blend import Blend, Mirroring, blend_of
from medseg.inference.budget import Demand, fitted, is_clearly_enough, window_bytes
from medseg.inference.cuts import walk_axes
from medseg.inference.export import SourceLabels, refuse_nonfinite_logits
from medseg.inference.probabilities import Probabilities
from medseg.inference.settings import WalkSettings
from medseg.inference.walk import Walk, gathered
from medseg.inference.window import Windows
from medseg.models.shape import ShapePolicy
from medseg.nn import int8
from medseg.nn.copies import copied
from medseg.nn.kernels import choose_kernels
from medseg.preprocess.geometry import filled_nonzero
from medseg.preprocess.record import Preprocessing, Record
from medseg.preprocess.stage import stage_channels
from medseg.progress import Listener, silent
from medseg.volume import LabelVolume, Target, Task, Volume

AUTOCAST = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16, "int8": None}


@dataclass(frozen=True)
class Forecast:
    """What labeling one image takes: windows, forwards of a network, and bytes beside the image."""

    windows: int
    forwards: int
    bytes_beside: int


@dataclass(frozen=True, eq=False)
class Prepared:
    """A volume on the grid of the network, float32, and the record of the way there.

    `previous` is the same volume on the grid of a cascade's first stage, `inside` where it is not
    0 on the oriented crop of the source.
    """

    image: Float[np.ndarray, "c i j k"]
    record: Record
    previous: "Prepared | None" = None
    inside: Bool[np.ndarray, "a b c"] | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Predictor:
    """Labels volumes with `models`, averaged; the result always lies on the grid of the input.

    Several models are folds: networks of one task, trained on other cases each. `previous` is a
    cascade's first stage, whose labels these networks see as further channels.

    Raises:
        InputFault: weights that are not finite (E_WEIGHTS), a patch that the network does not take
            (E_SHAPE), or a precision that the device does not have (E_DEVICE).
    """

    models: tuple[nn.Module, ...]
    task: Task
    preprocessing: Preprocessing
    settings: WalkSettings = field(default_factory=WalkSettings)
    device: torch.device | str = "cpu"
    shape_policy: ShapePolicy | None = None
    previous: "Predictor | None" = None

    def __post_init__(self) -> None:
        refusal = self.shape_policy.refuses(self.task.patch_size) if self.shape_policy else None
        if refusal:
            raise InputFault(f"patch_size {self.task.patch_size}: {refusal}.", code="E_SHAPE")
        if self.settings.precision == "int8" and (refusal := int8.refuses(self._device)):
            raise InputFault(
                f"precision int8: {refusal}. Choose another --precision, or --device cpu.",
                code="E_DEVICE",
            )
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
        image, record = self.preprocessing.apply(volume)
        if self.previous is None:
            return Prepared(image, record)
        inside = filled_nonzero([record.orient(channel) for channel in volume.array])
        return Prepared(image, record, self.previous.prepare(volume), inside)

    def label(self, prepared: Prepared, *, listener: Listener = silent) -> LabelVolume:
        """The label map of what `prepare` gave, on the grid of its source.

        Raises:
            InputFault: it does not fit into the memory allowed (E_MEMORY), or logits that are not
                finite (E_LOGITS).
        """
        image, record = self._seen(prepared, listener), prepared.record
        target = self.task.target
        walk = self._walk_over(image, label_bytes=_label_bytes(record, target))
        labels = SourceLabels(record, target)
        with walk.memory():
            for box in walk.boxes(self._blend, image, linked=labels.linked, listener=listener):
                labels.add(box, self._blend)
        return LabelVolume(labels.array, record.source_grid, target.labels)

    def label_with_probabilities(
        self, prepared: Prepared, *, listener: Listener = silent
    ) -> tuple[LabelVolume, Probabilities]:
        """The label map, and the probability of each label or region, one at a time.

        Raises:
            InputFault: see `label`.
        """
        image, record = torch.from_numpy(prepared.image), prepared.record
        target, voxels = self.task.target, image[0].numel()
        walk = self._walk_over(
            image, label_bytes=_label_bytes(record, target) + 4 * self._blend.channels * voxels
        )
        labels = SourceLabels(record, target)
        whole = torch.empty((self._blend.channels, *image.shape[1:]))
        with walk.memory():
            for box in walk.boxes(self._blend, image, linked=labels.linked, listener=listener):
                labels.add(box, self._blend)
                whole[(slice(None), *box.place)] = box.mean
        made = LabelVolume(labels.array, record.source_grid, target.labels)
        return made, Probabilities(whole, self._blend, record=record, target=target)

    def logits(
        self, image: Float[Tensor, "c i j k"], *, listener: Listener = silent
    ) -> Float[Tensor, "out i j k"]:
        """Logits of a preprocessed image, float32, where `image` is.

        Raises:
            InputFault: they are not all finite (E_LOGITS).
        """
        walk = self._walk_over(image, label_bytes=4 * self.task.out_channels * image[0].numel())
        with walk.memory():
            result = gathered(walk, self._blend, image, listener=listener)
        refuse_nonfinite_logits(result)
        return result

    def forecast(self, shape: tuple[int, int, int], *, label_bytes: int = 0) -> Forecast:
        """What labeling an image of `shape` on the network's grid takes; one window is run.

        `label_bytes` is the size of the label map on the source grid.

        Raises:
            InputFault: it does not fit into the memory allowed (E_MEMORY).
        """
        demand = self._demand(shape, label_bytes=label_bytes, window_bytes=self._window_bytes)
        fit = fitted(demand, self.settings, self._device)
        return Forecast(
            windows=len(demand.windows),
            forwards=len(demand.windows) * self._blend.forwards,
            bytes_beside=fit.need.total,
        )

    def _seen(self, prepared: Prepared, listener: Listener) -> Float[Tensor, "c i j k"]:
        """What the networks see: the image, and in a cascade the labels of the first stage."""
        image = torch.from_numpy(prepared.image)
        if self.previous is None:
            return image
        assert prepared.previous is not None
        assert prepared.inside is not None
        found = self.previous.label(prepared.previous, listener=listener)
        stage = stage_channels(
            found.array, prepared.record, self.task.stage_labels, inside=prepared.inside
        )
        return torch.cat([image, torch.from_numpy(stage)])

    @property
    def _device(self) -> torch.device:
        return torch.device(self.device)

    @cached_property
    def _blend(self) -> Blend:
        return blend_of(
            [self._as_asked(model) for model in self.models],
            Mirroring(
                self.settings.mirror_axes,
                self.task.target.mirrored_channels() if self.settings.mirrors_sides else (),
            ),
            out_channels=self.task.out_channels,
            input_shape=self._window_shape,
            blended=self.settings.blended,
        )

    def _as_asked(self, model: nn.Module) -> nn.Module:
        if self.settings.kernels is not None:
            model = copied(model)
            choose_kernels(model, self.settings.kernels)
        return int8.in_int8(model) if self.settings.precision == "int8" else model

    @property
    def _window_shape(self) -> tuple[int, ...]:
        return (1, self.task.in_channels, *self.task.patch_size)

    @cached_property
    def _window_bytes(self) -> int:
        """What one window takes of the network's device while it runs, measured."""
        return window_bytes(self._blend.once, self._window_shape, self._device)

    def _demand(
        self, shape: tuple[int, int, int], *, label_bytes: int, window_bytes: int
    ) -> Demand:
        windows = Windows.over(
            shape,
            self.task.patch_size,
            overlap=self.settings.overlap,
            rule=self.settings.windows,
        )
        return Demand(
            windows=windows,
            axes=walk_axes(windows),
            blended=self._blend.channels,
            label_bytes=label_bytes,
            window_bytes=window_bytes,
            forwards=self._blend.forwards,
        )

    def _walk_over(self, image: Tensor, *, label_bytes: int) -> Walk:
        i, j, k = image.shape[1:]
        demand = self._demand((i, j, k), label_bytes=label_bytes, window_bytes=0)
        if not is_clearly_enough(demand, self.settings, self._device):
            demand = replace(demand, window_bytes=self._window_bytes)
        fit = fitted(demand, self.settings, self._device)
        return Walk(
            windows=demand.windows,
            axes=demand.axes,
            batch_size=fit.batch_size,
            device=self.device,
            sums_device=fit.sums_device,
            sums=fit.sums,
            autocast=AUTOCAST[self.settings.precision],
            keeps_memory=fit.keeps_memory,
        )

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


def _label_bytes(record: Record, target: Target) -> int:
    return math.prod(record.source_grid.shape) * np.dtype(target.dtype).itemsize


def _listed(channels: tuple[str, ...]) -> str:
    return f"{len(channels)} channel{'s' * (len(channels) != 1)} ({', '.join(channels)})"
