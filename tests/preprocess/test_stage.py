"""Labels of a first stage as channels, against nnU-Net's own resampling."""

import numpy as np
import pytest
from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape
from scipy import ndimage

from medseg.preprocess.geometry import filled_nonzero
from medseg.preprocess.record import Preprocessing
from medseg.preprocess.stage import stage_channels
from medseg.volume import Grid, Volume


@pytest.mark.parametrize(
    ("shape", "mm", "wanted_mm"),
    [
        ((26, 30, 31), (1.3, 1.1, 0.9), (1.5, 1.0, 1.0)),
        ((20, 22, 17), (1.5, 1.0, 1.0), (0.75, 0.5, 0.5)),
        ((20, 30, 28), (1.0, 1.0, 1.0), (2.0, 2.0, 2.0)),
        ((10, 30, 28), (4.0, 1.0, 1.0), (2.0, 0.8, 0.8)),
        ((24, 30, 28), (1.0, 1.0, 1.0), (5.0, 1.2, 1.0)),
        ((9, 10, 11), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0)),
    ],
)
def test_channels_are_those_that_nnunet_stacks_on_the_image(
    shape: tuple[int, int, int], mm: tuple[float, ...], wanted_mm: tuple[float, float, float]
) -> None:
    random = np.random.default_rng(0)
    blurred = ndimage.gaussian_filter(random.standard_normal((5, *shape)), (0, 2, 2, 2))
    labels = blurred.argmax(axis=0).astype(np.uint8)
    image = np.ones((1, *shape), dtype=np.float32)
    image[0, :7, :8], image[0, :5, :, :5] = 0, 0
    labels[:6, :6] = 0
    image[0, 4, 4, 4] = 0
    volume = Volume(image, Grid.from_spacing(shape, mm), ("CT",))
    pre = Preprocessing(spacing_mm=wanted_mm, normalisation=(), crop="nonzero", axes=(2, 1, 0))
    record = pre.record_of(volume)
    inside = filled_nonzero([record.orient(image[0])])
    ours = stage_channels(labels, record, (1, 2, 3, 4), inside=inside)
    _, seg, _ = crop_to_nonzero(
        image.transpose(0, 3, 2, 1), labels.transpose(2, 1, 0)[None].astype(np.float32)
    )
    theirs = resample_data_or_seg_to_shape(
        seg,
        record.model_grid.shape,
        mm[::-1],
        wanted_mm,
        is_seg=True,
        order=1,
        order_z=0,
        force_separate_z=None,
    )
    assert (theirs == -1).any()
    for value in range(1, 5):
        assert np.array_equal(ours[value - 1], theirs[0] == value)
