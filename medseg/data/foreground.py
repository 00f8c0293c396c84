"""Where the labels and regions of a case lie: their voxels counted, and an even sample of them."""

import hashlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, UInt

from medseg.volume import LabelTable, Region, Target

MOST_PLACES = 8192

Members = tuple[int, ...]


def foreground(target: Target) -> dict[str, Members]:
    """The label values that each foreground name of a target stands for."""
    if target.is_regions:
        return {region.name: region.members for region in target.regions}
    return {label.name: (label.value,) for label in target.labels.labels}


def all_members(labels: LabelTable, regions: Sequence[Region]) -> tuple[Members, ...]:
    """The values of every label and every region, each set of values once."""
    members = [(value,) for value in labels.values] + [region.members for region in regions]
    return tuple(dict.fromkeys(members))


def sample_places(
    labels: UInt[np.ndarray, "i j k"], members: Sequence[Members], *, seed: str
) -> tuple[list[int], list[Int[np.ndarray, "n 3"]]]:
    """For each set of label values the count of its voxels, and the places of at most 8192.

    The places are drawn without return, each voxel as likely as any other, and stand in the order
    of the array. The draw depends on `seed` and the values alone.
    """
    flat = np.flatnonzero(labels)
    values = labels.ravel()[flat]
    counts, places = [], []
    for wanted in members:
        chosen = flat[np.isin(values, wanted)]
        counts.append(len(chosen))
        if len(chosen) > MOST_PLACES:
            generator = np.random.default_rng(_number_of(f"{seed}:{wanted}"))
            chosen = np.sort(generator.choice(chosen, MOST_PLACES, replace=False))
        found = np.stack(np.unravel_index(chosen, labels.shape), axis=1)
        places.append(found.astype(np.uint16))
    return counts, places


def _number_of(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
