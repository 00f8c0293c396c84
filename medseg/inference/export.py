"""From logits on the model's grid to label values on the source grid.

Each channel is interpolated and compared in turn, so that class x volume at source resolution
never exists: beside the logits there are three arrays of the source's size.
"""

import numpy as np
from jaxtyping import Float

from medseg.preprocess.record import Record
from medseg.volume import Target


def labels_on_source(
    logits: Float[np.ndarray, "out i j k"], *, record: Record, target: Target
) -> np.ndarray:
    """Label values (i, j, k) on the source grid; 0 outside the crop of the record.

    Softmax: the class of the largest interpolated logit (the first one at equal values).
    Regions: where the interpolated logit is above 0 (probability one half), written in order.
    """
    if target.is_regions:
        return record.place(_written_in_order(logits, record, target))
    return record.place(target.decode(_running_argmax(logits, record)[None]))


def _running_argmax(logits: np.ndarray, record: Record) -> np.ndarray:
    best = record.restore_channel(logits[0]).copy()
    winner = np.zeros(best.shape, dtype=np.uint8 if len(logits) <= 256 else np.uint16)
    for index, channel in enumerate(logits[1:], start=1):
        restored = record.restore_channel(channel)
        wins = restored > best
        np.copyto(best, restored, where=wins)
        winner[wins] = index
    return winner


def _written_in_order(logits: np.ndarray, record: Record, target: Target) -> np.ndarray:
    dtype = np.uint8 if max(target.labels.values) < 256 else np.uint16
    labels = np.zeros(record.crop_shape, dtype=dtype)
    for channel, region in zip(logits, target.regions, strict=True):
        labels[record.restore_channel(channel) > 0] = region.value
    return labels
