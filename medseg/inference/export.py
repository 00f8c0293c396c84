"""From logits on the model's grid to label values on the source grid, a few planes at a time.

A linear mix of logits can be largest only for a class that is largest, or nearly so, at a corner;
`medseg_kernels.pruned_export` uses that to decide most voxels without computing them. Class x
volume at source resolution never exists.
"""

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from medseg.fault import InputFault
from medseg.inference.blend import Blend
from medseg.inference.walk import Slab
from medseg.preprocess.operators import linear_places, nearest_indices
from medseg.preprocess.record import Record
from medseg.volume import Target
from medseg_kernels.pruned_export import Places, pruned_argmax, pruned_regions

# Logits at a time: bytes (but at least one plane), and planes.
PIECE = 128 << 20
MOST_PLANES = 32


class SourceLabels:
    """Label values (i, j, k) on the source grid of `record`, filled in along `axis` of the walk.

    Softmax: the class of the largest interpolated logit (the first one at equal values).
    Regions: where the interpolated logit is above 0 (probability one half), written in order.
    0 outside the crop of the record.
    """

    def __init__(self, record: Record, target: Target, *, axis: int) -> None:
        self.target, self.axis = target, axis
        self.array = np.zeros(record.source_grid.shape, dtype=target.dtype)
        # The oriented view of the array is where the crop belongs. Here and below the axis of the
        # walk stands first, so that planes follow each other in memory.
        self._crop = np.moveaxis(record.orient(self.array), axis, 0)
        self._order = (axis, *(other for other in range(3) if other != axis))
        self._places = [
            places_along(n, record.model_grid.shape[n], record.crop_shape[n], record.coarse_axis)
            for n in self._order
        ]
        self._sides = tuple(record.model_grid.shape[n] for n in self._order)
        self._written = 0
        self._logits: Tensor | None = None

    def add(self, slab: Slab, blend: Blend) -> None:
        """Write what the planes of `slab` decide, together with the plane before them.

        Raises:
            InputFault: its logits are not all finite (E_LOGITS).
        """
        mean = slab.mean.movedim(self.axis + 1, 1)
        for low in range(0, mean.shape[1], self._at_once):
            part = mean[:, low : low + self._at_once]
            self._add(slab.first + low, part, blend)

    @property
    def _at_once(self) -> int:
        plane = 4 * self._sides[1] * self._sides[2] * self.target.output_channels
        return min(max(PIECE // plane, 1), MOST_PLANES, self._sides[0])

    def _add(self, first: int, mean: Float[Tensor, "f p q r"], blend: Blend) -> None:
        """Decide with the planes from `first` on, and keep the last one for those that follow."""
        planes = mean.shape[1]
        if self._logits is None:
            shape = (self.target.output_channels, 1 + self._at_once, *self._sides[1:])
            self._logits = torch.empty(shape, device=mean.device)
        blend.finish(mean, out=self._logits[:, 1 : 1 + planes])
        if not _is_surely_finite(mean, blend):
            refuse_nonfinite_logits(self._logits[:, 1 : 1 + planes])
        before = 1 if first else 0
        self._decide(first - before, first + planes, self._logits[:, 1 - before : 1 + planes])
        self._logits[:, 0] = self._logits[:, planes]

    def _decide(self, low: int, high: int, logits: Float[Tensor, "out p q r"]) -> None:
        """Write the rows of the source that lie between the planes from `low` to before `high`."""
        along = self._places[0]
        rows = int(torch.searchsorted(along.left + (along.beyond > 0), high))
        if rows <= self._written:
            return
        places = (along.part(self._written, rows).after(low), self._places[1], self._places[2])
        self._crop[self._written : rows] = self._values(logits, places)
        self._written = rows

    def _values(
        self, logits: Tensor, places: tuple[Places, Places, Places]
    ) -> Integer[np.ndarray, "a b c"]:
        if self.target.is_regions:
            values = tuple(region.value for region in self.target.regions)
            return pruned_regions(logits, places, values).cpu().numpy()
        return self.target.decode(pruned_argmax(logits, places).cpu().numpy()[None])


def places_along(axis: int, source: int, target: int, coarse_axis: int | None) -> Places:
    """Where the target's voxels lie along one axis; at a voxel's center along thick slices."""
    if axis == coarse_axis and source != target:
        left = nearest_indices(source, target)
        return Places(torch.from_numpy(left), torch.zeros(target))
    left, beyond = linear_places(source, target)
    return Places(torch.from_numpy(left), torch.from_numpy(beyond.astype(np.float32)))


def refuse_nonfinite_logits(logits: Float[Tensor, "out i j k"]) -> None:
    """Raise InputFault (E_LOGITS) where a logit is NaN or infinite."""
    for number, channel in enumerate(logits):
        bad = channel.numel() - int(torch.isfinite(channel).sum())
        if bad:
            raise InputFault(
                f"{bad} voxels of the network's output {number} are NaN or infinite, so no mask "
                "is written; the image may be far from what the network was trained on. Look at "
                "its intensities, or predict in float32.",
                code="E_LOGITS",
            )


def _is_surely_finite(mean: Tensor, blend: Blend) -> bool:
    """Whether logits of `mean` cannot but be finite; one pass over what may be few channels."""
    largest = float(torch.linalg.vector_norm(mean, ord=float("inf")))
    # A comparison with NaN is false.
    return (largest + 1) * blend.gain < torch.finfo(torch.float32).max
