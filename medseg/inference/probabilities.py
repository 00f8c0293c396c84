"""Probabilities of labels or regions on the source grid, one at a time."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from medseg.inference.blend import Blend
from medseg.preprocess.record import Record
from medseg.volume import Target

# exp() of it is still a float32.
LARGEST_EXPONENT = np.float32(80)


class Probabilities:
    """The probability (i, j, k), float32, of each label (background left out) or region in turn.

    Logits are interpolated first, so that the likeliest label is that of `SourceLabels`. All are 0
    outside the crop of the record. What is held is the blended `mean` on the model's grid and, for
    a softmax, two arrays of the source's size; each array is computed when it is asked for.
    """

    def __init__(
        self, mean: Float[Tensor, "f i j k"], blend: Blend, *, record: Record, target: Target
    ) -> None:
        self._mean, self._blend, self._record, self._target = mean, blend, record, target
        self._largest, self._sum = (None, None) if target.is_regions else self._normalizer()

    def __len__(self) -> int:
        """How many there are."""
        return len(self._target.foreground_names)

    def __iter__(self) -> Iterator[Float[np.ndarray, "i j k"]]:
        """Each in turn, on the whole source grid."""
        first = 0 if self._target.is_regions else 1
        for index in range(first, self._target.output_channels):
            yield self._record.place(self._probability(self._restored(index)))

    def _restored(self, index: int) -> Float[np.ndarray, "i j k"]:
        logit = torch.empty((1, *self._mean.shape[1:]))
        self._blend.finish(self._mean, out=logit, only=index)
        return np.array(self._record.restore_channel(logit[0].numpy()))

    def _probability(self, logit: np.ndarray) -> np.ndarray:
        if self._largest is None or self._sum is None:
            np.clip(logit, -LARGEST_EXPONENT, LARGEST_EXPONENT, out=logit)
            return 1 / (1 + np.exp(-logit))
        logit -= self._largest
        np.exp(logit, out=logit)
        logit /= self._sum
        return logit

    def _normalizer(self) -> tuple[np.ndarray, np.ndarray]:
        """The largest logit of each voxel, and the sum of all exponentials below it."""
        largest = self._restored(0)
        total = np.ones_like(largest)
        for index in range(1, self._target.output_channels):
            logit = self._restored(index)
            above = np.maximum(largest, logit)
            total *= np.exp(largest - above)
            logit -= above
            total += np.exp(logit, out=logit)
            largest = above
        return largest, total
