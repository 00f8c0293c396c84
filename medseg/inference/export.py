"""From logits on the model's grid to label values on the source grid, a few planes at a time.

A linear mix of logits can be largest only for a class that is largest, or nearly so, at a corner;
`medseg_kernels.pruned_export` uses that to decide most voxels without computing them. Class x
volume at source resolution never exists.
"""

from collections.abc import Iterator

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

# Logits at a time, in bytes; at least one plane.
PIECE = 64 << 20


class SourceLabels:
    """Label values (i, j, k) on the source grid of `record`, filled in along `axis` of the walk.

    Softmax: the class of the largest interpolated logit (the first one at equal values).
    Regions: where the interpolated logit is above 0 (probability one half), written in order.
    0 outside the crop of the record.
    """

    def __init__(self, record: Record, target: Target, *, axis: int) -> None:
        self.target, self.axis = target, axis
        self.array = np.zeros(record.source_grid.shape, dtype=target.dtype)
        # The oriented view of the array is where the crop belongs.
        self._crop = record.orient(self.array)
        self._places = [
            places_along(n, record.model_grid.shape[n], record.crop_shape[n], record.coarse_axis)
            for n in range(3)
        ]
        self._sides = record.model_grid.shape
        self._written = 0
        self._last: Tensor | None = None

    def add(self, slab: Slab, blend: Blend) -> None:
        """Write what the planes of `slab` decide, together with the plane before them.

        Raises:
            InputFault: its logits are not all finite (E_LOGITS).
        """
        for high, mean in self._pieces(slab):
            logits = blend.finish(mean)
            if not _is_surely_finite(mean, blend):
                refuse_nonfinite_logits(logits)
            if self._last is not None:
                logits = torch.cat([self._last, logits], dim=self.axis + 1)
            planes = logits.shape[self.axis + 1]
            self._last = logits.narrow(self.axis + 1, planes - 1, 1).clone()
            self._decide(high - planes, high, logits)

    def _pieces(self, slab: Slab) -> Iterator[tuple[int, Tensor]]:
        """A few planes at a time, and the number of the plane that follows them."""
        planes = slab.mean.shape[self.axis + 1]
        voxels = slab.mean[0].numel() // planes
        at_once = max(PIECE // (4 * voxels * self.target.output_channels), 1)
        for low in range(0, planes, at_once):
            size = min(at_once, planes - low)
            yield slab.first + low + size, slab.mean.narrow(self.axis + 1, low, size)

    def _decide(self, low: int, high: int, logits: Float[Tensor, "out i j k"]) -> None:
        """Write the rows of the source that lie between the planes from `low` to before `high`."""
        along = self._places[self.axis]
        needed = along.left + (along.beyond > 0)
        rows = int(torch.searchsorted(needed, high))
        if rows <= self._written:
            return
        some = slice(self._written, rows)
        places = list(self._places)
        places[self.axis] = Places(along.left[some] - low, along.beyond[some])
        where = [slice(None)] * 3
        where[self.axis] = some
        self._crop[tuple(where)] = self._values(logits, (places[0], places[1], places[2]))
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
    low, high = (float(end) for end in torch.aminmax(mean))
    # A comparison with NaN is false.
    return (abs(low) + abs(high) + 1) * blend.gain < torch.finfo(torch.float32).max
