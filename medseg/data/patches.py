"""Patches of a case: where they lie, and how they are read, turned and scaled in one resampling.

Only the box of voxels that a patch touches is read. Labels are resampled as the linear
interpolation of each label's mask, of which the largest wins: on a turned shape of 10x22x12 voxels
that gives a Dice of 0.962 to the shape itself, where the nearest label gives 0.942.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, UInt
from scipy import ndimage
from torch.nn import functional

from medseg.data.separable import along_axes, interpolation

Triple = tuple[int, int, int]
Slices = tuple[slice, slice, slice]


@dataclass(frozen=True, eq=False)
class Patch:
    """Where to read: patch voxel o is source voxel `center + matrix @ (o - (size - 1) / 2)`.

    `matrix` None reads voxels as they are, from a whole-numbered start.
    """

    size: Triple
    center: tuple[float, float, float]
    matrix: np.ndarray | None = None

    @property
    def start(self) -> Triple:
        """First voxel of a patch that is read as it is; below 0 where it hangs over."""
        i, j, k = (round(c - (p - 1) / 2) for c, p in zip(self.center, self.size, strict=True))
        return i, j, k

    def box(self, shape: tuple[int, ...]) -> Slices:
        """The part of a volume that the patch touches; a voxel of its border if there is none."""
        assert self.matrix is not None
        reach = np.abs(self.matrix) @ ((np.asarray(self.size) - 1) / 2) + 1
        low = np.clip(np.floor(self.center - reach), 0, np.asarray(shape) - 1).astype(int)
        high = np.clip(np.ceil(self.center + reach) + 1, low + 1, shape).astype(int)
        return _slices(low, high)

    def within(self, box: Slices) -> "Patch":
        """The same patch of a volume that was cut to `box`."""
        i, j, k = (c - part.start for c, part in zip(self.center, box, strict=True))
        return replace(self, center=(i, j, k))

    def rows_of(self, box: Slices) -> Slices:
        """The patch voxels that may touch `box` of the volume; empty slices where none does."""
        assert self.matrix is not None
        back = np.linalg.inv(self.matrix)
        low = np.array([part.start for part in box]) - 1.0
        high = np.array([part.stop for part in box], dtype=np.float64)
        middle = (np.asarray(self.size) - 1) / 2 + back @ ((low + high) / 2 - self.center)
        reach = np.abs(back) @ ((high - low) / 2)
        first = np.clip(np.ceil(middle - reach), 0, self.size).astype(int)
        last = np.clip(np.floor(middle + reach) + 1, first, self.size).astype(int)
        return _slices(first, last)

    def part(self, rows: Slices) -> "Patch":
        """The patch of some of its voxels alone."""
        assert self.matrix is not None
        i, j, k = (row.stop - row.start for row in rows)
        middle = np.array([(row.start + row.stop - 1) / 2 for row in rows])
        x, y, z = self.center + self.matrix @ (middle - (np.asarray(self.size) - 1) / 2)
        return Patch((i, j, k), (x, y, z), self.matrix)


def place_around(voxel: np.ndarray, shape: Triple, size: Triple) -> tuple[float, float, float]:
    """The center of the patch around `voxel`, moved so that it hangs over as little as it can."""
    starts = []
    for at, side, patch in zip(voxel, shape, size, strict=True):
        room = side - patch
        starts.append(min(max(int(at) - patch // 2, 0), room) if room >= 0 else room // 2)
    i, j, k = (start + (patch - 1) / 2 for start, patch in zip(starts, size, strict=True))
    return i, j, k


def place_anywhere(
    state: np.random.RandomState, shape: Triple, size: Triple
) -> tuple[float, float, float]:
    """The center of a patch anywhere within the volume, each place as likely as any other."""
    voxel = [
        state.randint(max(side - patch, 0) + 1) + patch // 2
        for side, patch in zip(shape, size, strict=True)
    ]
    return place_around(np.asarray(voxel), shape, size)


def read_patch(
    image: Float[np.ndarray, "c i j k"], labels: UInt[np.ndarray, "i j k"], patch: Patch
) -> tuple[Float[np.ndarray, "c p q r"], UInt[np.ndarray, "p q r"]]:
    """Image and labels of a patch, arrays of their own; outside the volume both are 0."""
    if patch.matrix is None:
        return _as_they_are(image, patch), _as_they_are(labels[None], patch)[0]
    box = patch.box(labels.shape)
    inner = patch.within(box)
    part = np.array(image[(slice(None), *box)], dtype=np.float32)
    return _linear(part, inner), _winners(np.array(labels[box]), inner)


def _as_they_are(array: np.ndarray, patch: Patch) -> np.ndarray:
    result = np.zeros((len(array), *patch.size), dtype=array.dtype)
    source, target = [slice(None)], [slice(None)]
    for start, side, size in zip(patch.start, array.shape[1:], patch.size, strict=True):
        low, high = max(start, 0), min(start + size, side)
        source.append(slice(low, max(high, low)))
        target.append(slice(low - start, max(high, low) - start))
    result[tuple(target)] = array[tuple(source)]
    return result


def _linear(array: Float[np.ndarray, "c i j k"], patch: Patch) -> Float[np.ndarray, "c p q r"]:
    """Linear interpolation, 0 outside."""
    assert patch.matrix is not None
    given = torch.from_numpy(array)
    if np.array_equal(patch.matrix, np.diag(np.diag(patch.matrix))):
        # Scaling alone is a matrix product along each axis, three times as fast.
        weights = [
            interpolation(c + step * (np.arange(size) - (size - 1) / 2), side)
            for c, step, size, side in zip(
                patch.center, np.diag(patch.matrix), patch.size, array.shape[1:], strict=True
            )
        ]
        return along_axes(given, weights).numpy()
    where = _places(patch, array.shape[1:])[None]
    return functional.grid_sample(given[None], where, align_corners=False)[0].numpy()


def _places(patch: Patch, shape: tuple[int, ...]) -> Float[torch.Tensor, "p q r 3"]:
    """Where each patch voxel lies in an array, as grid_sample counts: -1..1, axes in order k j i.

    The three coordinates are planes of one tensor: filled so they take a fifth of the time of
    torch's affine_grid, and grid_sample reads them as fast.
    """
    assert patch.matrix is not None
    steps = [torch.arange(size) - (size - 1) / 2 for size in patch.size]
    planes = torch.empty((3, *patch.size))
    for axis, side in enumerate(shape):
        i, j, k = (step * (float(patch.matrix[axis, a]) * 2 / side) for a, step in enumerate(steps))
        i += (patch.center[axis] + 0.5) * 2 / side - 1
        torch.add(i[:, None, None] + j[:, None], k, out=planes[2 - axis])
    return planes.permute(1, 2, 3, 0)


def _winners(labels: UInt[np.ndarray, "i j k"], patch: Patch) -> UInt[np.ndarray, "p q r"]:
    """The label whose mask has the largest linear interpolation; background takes ties."""
    result = np.zeros(patch.size, dtype=labels.dtype)
    best, total = np.zeros((2, *patch.size), dtype=np.float32)
    # Each label costs as much as its box is large, however many labels there are.
    for value, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None:
            continue
        rows = patch.rows_of(box)
        if any(row.start == row.stop for row in rows):
            continue
        mask = (labels[box] == value).astype(np.float32)
        score = _linear(mask[None], patch.part(rows).within(box))[0]
        ahead = score > best[rows]
        result[rows][ahead] = value
        np.maximum(best[rows], score, out=best[rows])
        total[rows] += score
    result[best <= 1 - total] = 0
    return result


def _slices(low: np.ndarray, high: np.ndarray) -> Slices:
    i, j, k = (slice(int(first), int(last)) for first, last in zip(low, high, strict=True))
    return i, j, k
