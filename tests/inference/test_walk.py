"""The walk equals its peers', along any axes, by either rule and in either type."""

import itertools
from dataclasses import dataclass
from typing import get_args

import pytest
import torch
from monai.inferers import SlidingWindowInferer
from nnunetv2.inference import predict_from_raw_data as peer
from torch import nn

from medseg.inference.blend import BlendLogits, Mirroring
from medseg.inference.settings import WindowRule
from medseg.inference.walk import Walk, gathered
from medseg.inference.window import Windows, gaussian_weight

Shape = tuple[int, int, int]
ORDERS = list(itertools.permutations(range(3)))


def network(channels: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv3d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, channels, 3, padding=1)
    ).eval()


def walked(image: torch.Tensor, patch: Shape, **settings: object) -> torch.Tensor:
    rule, overlap = settings.pop("rule", "monai"), settings.pop("overlap", 0.5)
    i, j, k = image.shape[1:]
    windows = Windows.over((i, j, k), patch, overlap=overlap, rule=rule)
    mirroring = settings.pop("mirroring", Mirroring())
    walk = Walk(windows=windows, axes=settings.pop("axes", (0, 1, 2)), **settings)
    return gathered(walk, BlendLogits([network()], mirroring, channels=3), image)


@pytest.mark.parametrize("axes", ORDERS)
@pytest.mark.parametrize("shape", [(40, 33, 25), (16, 12, 16), (9, 40, 13), (7, 5, 50)])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.8])
def test_a_walk_along_any_axes_equals_monais_inferer(
    axes: Shape, shape: Shape, overlap: float
) -> None:
    image, patch = torch.randn(2, *shape), (16, 12, 16)
    theirs = SlidingWindowInferer(patch, sw_batch_size=2, overlap=overlap, mode="gaussian")
    with torch.no_grad():
        wanted = theirs(image[None], network())[0]
    found = walked(image, patch, overlap=overlap, axes=axes, batch_size=3)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


@dataclass
class _Plans:
    patch_size: Shape


@dataclass
class _Labels:
    num_segmentation_heads: int


def nnunet_logits(image: torch.Tensor, patch: Shape, axes: Shape | None) -> torch.Tensor:
    """What nnU-Net's own predictor gives, in its float16."""
    predictor = peer.nnUNetPredictor(
        use_mirroring=axes is not None, device=torch.device("cpu"), allow_tqdm=False
    )
    predictor.network = network()
    predictor.configuration_manager = _Plans(patch)
    predictor.label_manager = _Labels(3)
    predictor.allowed_mirroring_axes = axes
    return predictor.predict_sliding_window_return_logits(image)


@pytest.mark.parametrize("shape", [(40, 33, 25), (16, 16, 16), (9, 40, 13)])
@pytest.mark.parametrize("axes", [None, (0, 1, 2)])
def test_with_nnunets_rule_and_rounding_a_walk_gives_its_labels(
    shape: Shape, axes: Shape | None
) -> None:
    image, patch = torch.randn(2, *shape), (16, 12, 16)
    theirs = nnunet_logits(image, patch, axes)
    assert theirs.dtype == torch.float16
    mirroring = Mirroring(axes or (), (0, 1, 2))
    ours = walked(image, patch, rule="nnunet", sums=torch.float16, mirroring=mirroring)
    apart = (ours - theirs.float()).abs()
    # A sum that lies between two float16 may be rounded to either; most are the same to the bit.
    assert (apart > 0).float().mean() < 1e-4
    assert apart.max() < 2e-3
    assert torch.equal(ours.argmax(0), theirs.argmax(0))


def test_float32_sums_keep_what_nnunets_float16_loses_at_corners() -> None:
    image, patch = torch.randn(2, 16, 12, 16), (16, 12, 16)
    theirs = nnunet_logits(image, patch, None).float()
    exact = walked(image, patch, rule="nnunet")
    with torch.no_grad():
        wanted = network()(image[None])[0]
    torch.testing.assert_close(exact, wanted)
    # The weight of a corner is the smallest float16, so a logit there is rounded to a whole number.
    assert theirs[:, 0, 0, 0].tolist() == theirs[:, 0, 0, 0].round().tolist()
    assert (theirs - wanted).abs().max() > 0.1


@pytest.mark.parametrize("patch", [(16, 16, 16), (5, 12, 128), (1, 40, 33)])
def test_the_weight_is_nnunets_to_the_bit(patch: Shape) -> None:
    wanted = peer.compute_gaussian(
        patch, sigma_scale=1 / 8, value_scaling_factor=10, device=torch.device("cpu")
    )
    assert torch.equal(gaussian_weight(patch, "nnunet"), wanted.float())


@pytest.mark.parametrize("rule", get_args(WindowRule))
@pytest.mark.parametrize("axes", ORDERS)
def test_float16_sums_stay_near_those_of_float32(rule: WindowRule, axes: Shape) -> None:
    image, patch = torch.randn(2, 30, 29, 41), (16, 12, 16)
    exact = walked(image, patch, rule=rule, axes=axes)
    half = walked(image, patch, rule=rule, axes=axes, sums=torch.float16)
    away = (exact - half).abs()
    assert away.mean() < 1e-3
    assert (exact.argmax(0) == half.argmax(0)).float().mean() > 0.99


def test_a_walk_in_bfloat16_sums_in_float32() -> None:
    image, patch = torch.randn(2, 30, 16, 16), (16, 16, 16)
    exact = walked(image, patch)
    coarse = walked(image, patch, autocast=torch.bfloat16)
    assert coarse.dtype == torch.float32
    assert 0 < (exact - coarse).abs().mean() < 0.01
