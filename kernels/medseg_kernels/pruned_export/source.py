"""What an export reads: logits, or what logits are made of."""

from dataclasses import dataclass

import torch
from torch import Tensor

# Numbers that are made or copied at a time where they are not there in one piece.
COPY = 1 << 22


@dataclass(frozen=True)
class Source:
    """Numbers of source voxels, and how logits are made of them.

    logits = weight @ (values / counts) + bias: what is None is left out.
    """

    values: Tensor  # (f, i, j, k)
    counts: Tensor | None = None  # (i, j, k)
    weight: Tensor | None = None  # (c, f)
    bias: Tensor | None = None  # (c,)

    @property
    def classes(self) -> int:
        """How many logits a voxel has."""
        return len(self.values if self.weight is None else self.weight)

    @property
    def is_logits(self) -> bool:
        """Whether the values are the logits."""
        return self.weight is None and self.counts is None

    def means(self, first: int, last: int) -> Tensor:
        """The values / counts of some planes along i, rounded to their type, then float32."""
        means = self.values[:, first:last]
        return (means if self.counts is None else means / self.counts[first:last]).float()

    def largest(self) -> Tensor:  # () float32
        """The largest size of a mean, NaN if there is one; 0 where the values are the logits."""
        found = self.values.new_zeros((), dtype=torch.float32)
        if self.is_logits:
            return found
        planes = max(COPY // self.values[:, 0].numel(), 1)
        for first in range(0, self.values.shape[1], planes):
            means = self.means(first, first + planes)
            found = torch.maximum(found, torch.linalg.vector_norm(means, ord=float("inf")))
        return found

    def logits(self, first: int, last: int) -> Tensor:
        """The logits of some planes along i, (c, i, j, k) float32."""
        means = self.means(first, last)
        if self.weight is None or self.bias is None:
            return means
        flat = means.reshape(len(means), -1)
        made = torch.addmm(self.bias.float()[:, None], self.weight.float(), flat)
        return made.view(self.classes, *means.shape[1:])
