"""Features blended before the head give the logits that blending logits gives."""

import itertools

import pytest
import torch
from torch import nn

from medseg.inference.blend import (
    Blend,
    BlendFeatures,
    BlendLogits,
    Mirroring,
    blend_of,
    without_head,
)
from medseg.inference.walk import Walk, gathered
from medseg.inference.window import Windows
from medseg.models.mednext import MedNeXt
from medseg.models.nnunet import plain_unet, residual_unet
from medseg.models.segresnet import SegResNet
from medseg.models.swin_unetr import SwinUNETR

CLASSES = 20
SIDE = (1, 1, 64, 64, 64)


def network(seed: int = 0, *, classes: int = CLASSES) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, classes, 1, bias=seed == 0)
    )


SHIPPED = {
    "swin_unetr": lambda: SwinUNETR(in_channels=1, out_channels=CLASSES, feature_size=12),
    "segresnet": lambda: SegResNet(in_channels=1, out_channels=CLASSES, base_features=8),
    "mednext": lambda: MedNeXt(in_channels=1, out_channels=CLASSES, base_features=4),
    "nnunet": lambda: plain_unet(
        in_channels=1,
        out_channels=CLASSES,
        patch_size=(64, 64, 64),
        spacing_mm=(1, 1, 1),
        base_features=4,
    ),
    "nnunet_resenc": lambda: residual_unet(
        in_channels=1,
        out_channels=CLASSES,
        patch_size=(64, 64, 64),
        spacing_mm=(1, 1, 1),
        base_features=4,
    ),
}


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_network_is_cut_before_its_head(name: str) -> None:
    model = SHIPPED[name]().eval()
    parts = without_head(model, SIDE)
    assert parts is not None
    image = torch.randn(SIDE)
    with torch.no_grad():
        features = parts.trunk(image)
        logits = torch.einsum("of,bfijk->boijk", parts.weight, features)
        torch.testing.assert_close(logits + parts.bias[:, None, None, None], model(image))
    shared = {id(parameter) for parameter in model.parameters()}
    assert all(id(parameter) in shared for parameter in parts.trunk.parameters())


class Squashed(nn.Module):
    """The head's result, squashed where it lies: the head is not what comes last."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv3d(1, CLASSES, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(image).sigmoid_()


class KeepsATensor(nn.Module):
    """A network that holds a tensor which is neither parameter nor buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.ones(1, 1, 8, 8, 8)
        self.head = nn.Conv3d(1, CLASSES, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(image * self.scale)


@pytest.mark.parametrize(
    "model",
    [
        Squashed(),
        KeepsATensor(),
        nn.Sequential(nn.Conv3d(1, CLASSES, 3, padding=1)),
        nn.Sequential(nn.Conv3d(1, CLASSES, 1), nn.Softmax(dim=1)),
        nn.Sequential(nn.Conv3d(2, CLASSES, 1, groups=2)),
    ],
)
def test_what_does_not_end_in_a_linear_layer_is_not_cut(model: nn.Module) -> None:
    assert without_head(model, (1, 1, 8, 8, 8)) is None


ORDER = (0, 2, 1, *range(3, CLASSES))


@pytest.mark.parametrize("axes", [(), (1,), (0,), (0, 1, 2)])
@pytest.mark.parametrize("folds", [1, 2])
def test_features_of_folds_and_mirrorings_give_the_same_logits(
    axes: tuple[int, ...], folds: int
) -> None:
    models = [network(seed) for seed in range(folds)]
    mirroring = Mirroring(axes, ORDER)
    shape = (1, 1, 12, 12, 12)
    features = blend_of(models, mirroring, out_channels=CLASSES, input_shape=shape)
    assert isinstance(features, BlendFeatures)
    assert features.channels == 4 * folds * (2 if 0 in axes else 1)
    assert features.forwards == folds * 2 ** len(axes)
    logits = BlendLogits(models, mirroring, channels=CLASSES)
    torch.testing.assert_close(walked(features), walked(logits))


def walked(blend: Blend) -> torch.Tensor:
    torch.manual_seed(1)
    image = torch.randn(1, 30, 14, 13)
    windows = Windows.over((30, 14, 13), (12, 12, 12), overlap=0.5)
    return gathered(Walk(windows=windows, axes=(0, 1, 2)), blend, image)


@pytest.mark.parametrize(("classes", "folds"), [(3, 1), (7, 2)])
def test_logits_are_blended_where_they_are_fewer(classes: int, folds: int) -> None:
    models = [network(seed, classes=classes) for seed in range(folds)]
    blend = blend_of(models, Mirroring(), out_channels=classes, input_shape=(1, 1, 8, 8, 8))
    assert isinstance(blend, BlendLogits)


def test_what_a_network_keeps_is_not_written_to() -> None:
    kept = torch.randn(1, 3, 4, 4, 4)
    before = kept.clone()
    blend = BlendLogits([lambda _windows: kept] * 2, Mirroring((0, 1), (0, 2, 1)), channels=3)
    blend.run(torch.zeros(1, 1, 4, 4, 4))
    assert torch.equal(kept, before)


@pytest.mark.parametrize("axes", list(itertools.chain([()], [(0,), (2,), (0, 2)])))
def test_a_mirroring_without_pairs_swaps_nothing(axes: tuple[int, ...]) -> None:
    mirroring = Mirroring(axes, (0, 1, 2))
    assert not any(map(mirroring.swaps, mirroring.ways))
