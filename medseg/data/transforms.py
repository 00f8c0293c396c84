"""Patch sampling and augmentation as MONAI dict transforms: a case goes in, a patch comes out.

The chain of one sample shares one random state, made from (seed, sample number), so that it is a
function of that number. MONAI's Compose would give each transform a state of its own: 1.4 ms a
sample, as long as all the rest takes for a small patch.
"""

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.transforms.transform import MapTransform, Randomizable, RandomizableTransform, Transform

from medseg.data.intensity import Change
from medseg.data.patches import Patch, Triple, place_anywhere, place_around, read_patch

IMAGE, LABELS, PLACES, CENTERED = "image", "labels", "places", "centered"
Drawn = Callable[[np.random.RandomState], np.ndarray | None]


class RandPatchd(Randomizable, Transform):
    """A patch of a case, turned and scaled while it is read.

    Takes `image` (c, i, j, k) and `labels` (i, j, k), mapped files as a rule, `places` (for each
    foreground name some of its voxels, (n, 3)) and `centered` (whether the patch is to lie around
    one of them, each name that is present as likely as any other). Gives `image`, a tensor, and
    `labels`, an array.
    """

    def __init__(self, size: Triple, *, matrix: Drawn) -> None:
        self.size = size
        self.matrix = matrix

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The case with its arrays replaced by those of the patch."""
        i, j, k = data[LABELS].shape
        center = self._center(data, (i, j, k))
        patch = Patch(self.size, center, self.matrix(self.R))
        image, labels = read_patch(data[IMAGE], data[LABELS], patch)
        return {**data, IMAGE: torch.from_numpy(image), LABELS: labels}

    def _center(self, data: Mapping[Hashable, Any], shape: Triple) -> tuple[float, float, float]:
        present = [voxels for voxels in data[PLACES].values() if len(voxels)]
        if not (data[CENTERED] and present):
            return place_anywhere(self.R, shape, self.size)
        voxels = present[self.R.randint(len(present))]
        return place_around(voxels[self.R.randint(len(voxels))], shape, self.size)


class RandMirrord(Randomizable, Transform):
    """Image and labels mirrored along each of `axes` with probability one half.

    Axis 0 runs from left to right: there the values of `swap` (a table from value to value, or
    None) change places, so that the left kidney of a mirrored patient is a left kidney.
    """

    def __init__(self, axes: tuple[int, ...], *, swap: np.ndarray | None) -> None:
        self.axes = axes
        self.swap = swap

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The patch, mirrored or not."""
        axes = tuple(axis for axis in self.axes if self.R.rand() < 0.5)
        if not axes:
            return dict(data)
        labels = np.ascontiguousarray(np.flip(data[LABELS], axes))
        if self.swap is not None and 0 in axes:
            labels = self.swap[labels]
        image = torch.flip(data[IMAGE], [axis + 1 for axis in axes])
        return {**data, IMAGE: image, LABELS: labels}


class RandIntensityd(RandomizableTransform, MapTransform):
    """With probability `prob` the image changed, channel by channel.

    Each channel is changed with probability `channel_prob`, by numbers of its own.
    """

    def __init__(self, change: Change, *, prob: float, channel_prob: float = 1.0) -> None:
        MapTransform.__init__(self, IMAGE)
        RandomizableTransform.__init__(self, prob)
        self.change = change
        self.channel_prob = channel_prob

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The patch, its image overwritten where it is changed."""
        self.randomize(None)
        if self._do_transform:
            for channel in data[IMAGE]:
                if self.R.rand() < self.channel_prob:
                    channel.copy_(self.change(channel, self.R))
        return dict(data)
