"""Probabilities of labels or regions on the source grid."""

import numpy as np
from jaxtyping import Float

from medseg.preprocess.record import Record
from medseg.volume import Target

# exp() of it is still a float32.
LARGEST_EXPONENT = np.float32(80)


def probabilities_on_source(
    logits: Float[np.ndarray, "out i j k"], *, record: Record, target: Target
) -> Float[np.ndarray, "labels i j k"]:
    """Probabilities of labels (softmax, background left out) or regions (sigmoid), float32.

    Logits are interpolated first, so that the likeliest label is that of `SourceLabels`. All are 0
    outside the crop of the record. Here class x volume does exist.
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
