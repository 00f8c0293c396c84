"""From sums over windows to label values on the source grid, as parts of a volume are finished.

A linear mix of logits can be largest only for a class that is largest, or nearly so, at a corner;
`medseg_kernels.pruned_export` uses that to decide most voxels without computing them, and makes
logits of features where it needs them. Class x volume at source resolution never exists.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from medseg.fault import InputFault
from medseg.inference.blend import Blend
from medseg.inference.bricks import Box
from medseg.preprocess.operators import linear_places, nearest_indices
from medseg.preprocess.record import Record
from medseg.volume import Target
from medseg_kernels.pruned_export import Places, export_sums


class SourceLabels:
    """Label values (i, j, k) on the source grid of `record`, filled in box by box.

    Softmax: the class of the largest interpolated logit (the first one at equal values).
    Regions: where the interpolated logit is above 0 (probability one half), written in order.
    0 outside the crop of the record.
    """

    def __init__(self, record: Record, target: Target) -> None:
        self.target = target
        self.array = np.zeros(record.source_grid.shape, dtype=target.dtype)
        # The oriented view of the array is where the crop belongs.
        self._crop = record.orient(self.array)
        self._places = [
            places_along(n, record.model_grid.shape[n], record.crop_shape[n], record.coarse_axis)
            for n in range(3)
        ]

    @property
    def linked(self) -> tuple[bool, bool, bool]:
        """The axes along which labels lie between the voxels of the model's grid."""
        i, j, k = (place.moves for place in self._places)
        return i, j, k

    def add(self, box: Box, blend: Blend) -> None:
        """Write what lies between the voxels of `box`, those of the boxes before it among them.

        Raises:
            InputFault: its logits are not all finite (E_LOGITS).
        """
        rows = [
            _between(place, part.start, part.stop)
            for place, part in zip(self._places, box.place, strict=True)
        ]
        if all(part.start < part.stop for part in rows):
            self._crop[tuple(rows)], largest = self._labels(box, rows, blend)
        else:
            largest = torch.linalg.vector_norm(box.mean, ord=float("inf"))
        # A comparison with NaN is false.
        if not (float(largest) + 1) * blend.gain < torch.finfo(torch.float32).max:
            refuse_nonfinite_logits(box.logits(blend))

    def _labels(
        self, box: Box, rows: Sequence[slice], blend: Blend
    ) -> tuple[Integer[np.ndarray, "a b c"], Float[Tensor, ""]]:
        """The label values of `rows`, and the largest size of what their logits are made of."""
        head, values = blend.head, None
        if head is not None:
            head = head[0].to(box.sums.device), head[1].to(box.sums.device)
        if self.target.is_regions:
            values = [region.value for region in self.target.regions]
        first, sums, counts = self._needed(box, rows)
        i, j, k = (
            place.part(part.start, part.stop).after(n)
            for place, part, n in zip(self._places, rows, first, strict=True)
        )
        labels, largest = export_sums(sums, counts, (i, j, k), head=head, values=values)
        found = labels.cpu().numpy()
        return found if self.target.is_regions else self.target.decode(found[None]), largest

    def _needed(
        self, box: Box, rows: Sequence[slice]
    ) -> tuple[list[int], Float[Tensor, "f i j k"], Float[Tensor, "i j k"]]:
        """Of the planes that were part of boxes before it, those that `rows` lie beyond."""
        first = [
            start if int(place.left[part.start]) == start else start + before
            for place, part, start, before in zip(
                self._places, rows, box.first, box.before, strict=True
            )
        ]
        i, j, k = (slice(n - start, None) for n, start in zip(first, box.first, strict=True))
        return first, box.sums[:, i, j, k], box.counts[i, j, k]


def _between(place: Places, low: int, high: int) -> slice:
    """The target voxels that lie between the source voxels before `low` and before `high`."""
    reached = place.left + (place.beyond > 0)
    return slice(*(int(torch.searchsorted(reached, end)) for end in (low, high)))


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
