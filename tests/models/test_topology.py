"""The pooling rule agrees with nnU-Net's own on drawn patches, and says what it refuses."""

import importlib.util
import random

import pytest

from medseg.fault import InputFault
from medseg.models.topology import topology


@pytest.mark.skipif(
    importlib.util.find_spec("nnunetv2") is None,
    reason="nnunetv2 is not installed (pip install medseg[nnunet]); its rule cannot be compared",
)
def test_topologies_of_drawn_patches_are_those_of_nnunetv2():
    peer = pytest.importorskip("nnunetv2.experiment_planning.experiment_planners.network_topology")
    draw = random.Random(0)
    for _ in range(1500):
        patch = [draw.choice((draw.randint(1, 40), draw.randint(1, 320))) for _ in range(3)]
        patch[0] += draw.choice((0.0, 0.5))
        spacing = [draw.choice((1.0, round(draw.uniform(0.3, 8.0), 3))) for _ in range(3)]
        form = topology(patch, spacing)
        pools, strides, kernels, padded, divisor = peer.get_pool_and_conv_props(
            spacing, patch, 4, 999_999
        )
        assert form.pool_counts == tuple(pools)
        assert form.strides == strides
        assert form.kernel_sizes == kernels
        assert form.padded(patch) == tuple(padded)
        assert form.divisor == tuple(divisor)


def test_a_coarse_axis_is_halved_late_and_has_flat_kernels_until_then():
    form = topology((320, 256, 20), (0.6, 0.6, 3.6))
    assert form.kernel_sizes[:3] == ((3, 3, 1), (3, 3, 1), (3, 3, 3))
    assert form.strides[:3] == ((1, 1, 1), (2, 2, 1), (2, 2, 1))
    assert form.pool_counts == (6, 6, 2)


def test_a_shallower_topology_keeps_its_upper_stages():
    form = topology((128, 128, 128), (1.0, 1.0, 1.0))
    cut = form.shallower(3)
    assert (form.stages, cut.stages) == (6, 3)
    assert cut.strides == form.strides[:3]
    assert cut.shape_policy.divisor == (4, 4, 4)
    assert form.shallower(9) == form


def test_features_double_up_to_the_most():
    form = topology((128, 128, 128), (1.0, 1.0, 1.0))
    assert form.features(base=32, most=320) == (32, 64, 128, 256, 320, 320)


@pytest.mark.parametrize(
    ("patch", "spacing", "said"),
    [
        ((0, 8, 8), (1.0, 1.0, 1.0), "patch_size"),
        ((8, 8), (1.0, 1.0, 1.0), "patch_size"),
        ((8, 8, 8), (1.0, 0.0, 1.0), "spacing_mm"),
        ((8, 8, 8), (1.0, float("nan"), 1.0), "spacing_mm"),
    ],
)
def test_nonsense_is_refused_by_name(patch, spacing, said):
    with pytest.raises(InputFault, match=said):
        topology(patch, spacing)
