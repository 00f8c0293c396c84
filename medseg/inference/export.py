"""From logits on the model's grid to label values on the source grid.

Each channel is interpolated and compared in turn, so that class x volume at source resolution
never exists: beside the logits there are three arrays of the source's size.
"""

import numpy as np
from jaxtyping import Float

from medseg.preprocess.record import Record
from medseg.volume import Target

# exp() of it is still a float32.
LARGEST_EXPONENT = np.float32(80)


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


def probabilities_on_source(
    logits: Float[np.ndarray, "out i j k"], *, record: Record, target: Target
) -> Float[np.ndarray, "labels i j k"]:
    """Probabilities of labels (softmax, background left out) or regions (sigmoid), float32.

    Logits are interpolated first, so that the likeliest label is that of `labels_on_source`.
    All are 0 outside the crop of the record. Here class x volume does exist.
    """
    restored = np.stack([record.restore_channel(channel) for channel in logits])
    if target.is_regions:
        np.clip(restored, -LARGEST_EXPONENT, LARGEST_EXPONENT, out=restored)
        restored = 1 / (1 + np.exp(-restored))
    else:
        restored -= restored.max(axis=0)
        np.exp(restored, out=restored)
        restored /= restored.sum(axis=0)
        restored = restored[1:]
    return np.stack([record.place(channel) for channel in restored])


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
