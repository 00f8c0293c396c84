"""Connected components of label maps, by cc3d (Silversmith 2021)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import cc3d
import numpy as np
from jaxtyping import Bool, Int, Integer

VOXELS_AT_ONCE = 1 << 20

Connectivity = Literal[6, 18, 26]
Part = Integer[np.ndarray, "x y z"]


@dataclass(frozen=True)
class Components:
    """Numbered components: their sizes in voxels and the label of each, 0 where taken as one.

    Number 0 is what belongs to none.
    """

    parts: Part
    sizes: Int[np.ndarray, " n"]
    owners: Int[np.ndarray, " n"]

    @classmethod
    def of(
        cls, labels: Part, values: tuple[int, ...], *, connectivity: Connectivity, together: bool
    ) -> "Components":
        """Components of some labels, all in one pass; `together` takes them as one label."""
        wanted = labels == values[0] if len(values) == 1 else np.isin(labels, values)
        if not together and len(values) > 1:
            wanted = np.where(wanted, labels, 0).astype(labels.dtype)
        parts = cc3d.connected_components(wanted, connectivity=connectivity)
        del wanted
        sizes = component_sizes(parts)
        owners = np.zeros(len(sizes), dtype=np.int64)
        if not together:
            for planes in some_planes(parts):
                owners[parts[planes]] = labels[planes]
            owners[0] = 0
        return cls(parts, sizes, owners)

    @property
    def largest(self) -> Bool[np.ndarray, " n"]:
        """Which are the largest of their label; of equally large ones the first."""
        found = np.zeros(len(self.sizes), dtype=bool)
        numbers = np.arange(1, len(self.sizes))
        order = numbers[np.lexsort((numbers, -self.sizes[1:], self.owners[1:]))]
        owners = self.owners[order]
        found[order[np.flatnonzero(np.diff(owners, prepend=-1))]] = True
        return found

    def remove(self, labels: Part, goes: Bool[np.ndarray, " n"]) -> None:
        """Set the voxels of some components to 0, in place."""
        if goes.any():
            for planes in some_planes(self.parts):
                labels[planes][goes[self.parts[planes]]] = 0


def component_sizes(parts: Part) -> Int[np.ndarray, " n"]:
    """Voxels of each number from 0 to the largest."""
    sizes = np.zeros(int(parts.max()) + 1, dtype=np.int64)
    # numpy counts in int64: some planes at a time take little memory.
    for planes in some_planes(parts):
        sizes += np.bincount(parts[planes].reshape(-1), minlength=len(sizes))
    return sizes


def some_planes(parts: Part) -> Iterator[slice]:
    """Planes of an array, about a million voxels at a time."""
    step = max(1, VOXELS_AT_ONCE // max(1, parts[0].size))
    return (slice(low, low + step) for low in range(0, len(parts), step))
