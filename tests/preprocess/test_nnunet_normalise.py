"""Normalisations against nnU-Net's own classes."""

import numpy as np
import pytest
from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero
from nnunetv2.preprocessing.normalization import default_normalization_schemes as peer

from medseg.preprocess.geometry import filled_nonzero
from medseg.preprocess.normalise import Normalisation

FACTS = {"mean": 40.0, "std": 30.0, "percentile_00_5": -50.0, "percentile_99_5": 120.0}
CT = Normalisation("ct", lower=-50.0, upper=120.0, mean=40.0, std=30.0)


@pytest.mark.parametrize(
    ("ours", "theirs", "masked"),
    [
        (Normalisation("zscore"), peer.ZScoreNormalization, False),
        (Normalisation("zscore_inside"), peer.ZScoreNormalization, True),
        (CT, peer.CTNormalization, False),
        (CT, peer.CTNormalization, True),
        (Normalisation("full_range"), peer.RescaleTo01Normalization, False),
        (Normalisation("range", lower=0.0, upper=255.0), peer.RGBTo01Normalization, False),
        (Normalisation("none"), peer.NoNormalization, False),
    ],
)
def test_values_are_nnunets(ours: Normalisation, theirs: type, masked: bool) -> None:
    random = np.random.default_rng(0)
    image = random.uniform(0, 250, (2, 12, 13, 14)).astype(np.float32)
    image[:, 5:8, 5:8, 5:8] = 0
    image[:, :3, :, 4:9] = 0
    image[0, 9] = 0
    cropped, seg, _ = crop_to_nonzero(image)
    assert cropped.shape == image.shape
    wanted = theirs(use_mask_for_norm=masked, intensityproperties=FACTS).run(
        image[0].copy(), seg[0]
    )
    inside = filled_nonzero(list(image))
    assert np.array_equal(inside, seg[0] == 0)
    assert 0 < (~inside).sum() < (image[0] == 0).sum()
    made = ours.apply(image[0], inside=inside)
    assert np.allclose(made, wanted, rtol=1e-5, atol=1e-6)
