import itertools
from typing import get_args

import pytest
import torch
from monai.inferers import SlidingWindowInferer
from torch import nn

from medseg.inference.blend import BlendLogits, Mirroring, Network
from medseg.inference.settings import WindowRule
from medseg.inference.walk import Walk, sliding_window
from medseg.inference.window import Windows
from medseg.progress import Progress


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 3, 3, padding=1))


def blend_logits(model: Network, mirroring: Mirroring | None = None) -> BlendLogits:
    return BlendLogits([model], mirroring or Mirroring(), channels=3)


@pytest.mark.parametrize("shape", [(40, 33, 25), (16, 16, 16), (9, 40, 13)])
@pytest.mark.parametrize("overlap", [0.25, 0.5, 0.75])
def test_logits_equal_monais_inferer(shape: tuple[int, int, int], overlap: float) -> None:
    model = network()
    image = torch.randn(2, *shape)
    patch = (16, 12, 16)
    peer = SlidingWindowInferer(patch, sw_batch_size=2, overlap=overlap, mode="gaussian")
    with torch.inference_mode():
        theirs = peer(image[None], model)[0]
    ours = sliding_window(model, image, patch_size=patch, overlap=overlap, batch_size=3)
    assert ours.shape == theirs.shape
    assert not ours.requires_grad
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rule", get_args(WindowRule))
def test_windows_cover_every_voxel_and_stay_inside(rule: WindowRule) -> None:
    shape, patch = (50, 17, 16), (16, 16, 16)
    seen = torch.zeros(shape)
    windows = Windows.over(shape, patch, overlap=0.5, rule=rule)
    for i, j, k in itertools.product(*windows.starts):
        assert i + 16 <= 50
        assert j + 16 <= 17
        seen[i : i + 16, j : j + 16, k : k + 16] += 1
    assert seen.min() >= 1


def test_progress_counts_windows_to_the_end() -> None:
    events: list[Progress] = []
    image = torch.randn(2, 40, 16, 16)
    windows = Windows.over((40, 16, 16), (16, 16, 16), overlap=0.5)
    walk = Walk(windows=windows, axes=(1, 0, 2), batch_size=3)
    list(walk.boxes(blend_logits(network()), image, listener=events.append))
    assert [(event.done, event.total) for event in events] == [(3, 4), (4, 4)]


def test_sums_are_float32_whatever_the_network_gives() -> None:
    half = network().to(torch.bfloat16)
    image = torch.randn(2, 24, 16, 16)
    ours = sliding_window(
        lambda windows: half(windows.to(torch.bfloat16)), image, patch_size=(16, 16, 16)
    )
    assert ours.dtype == torch.float32


def test_a_network_can_train_after_it_walked() -> None:
    model = network()
    kept: list[torch.Tensor] = []

    def caching(windows: torch.Tensor) -> torch.Tensor:
        if not kept:
            kept.append(torch.full((1,), 2.0))
        return model(windows) * kept[0]

    sliding_window(caching, torch.randn(2, 16, 16, 16), patch_size=(16, 16, 16))
    caching(torch.randn(1, 2, 16, 16, 16)).sum().backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None for gradient in gradients)


def left_and_right(windows: torch.Tensor) -> torch.Tensor:
    """Channel 1 is the image left of the middle, channel 2 right of it."""
    half = windows.shape[2] // 2
    logits = torch.zeros(windows.shape[0], 3, *windows.shape[2:])
    logits[:, 1, :half] = windows[:, 0, :half]
    logits[:, 2, half:] = windows[:, 0, half:]
    return logits


def test_mirroring_swaps_left_and_right_channels() -> None:
    image = torch.rand(2, 1, 8, 4, 4)
    both = blend_logits(left_and_right, Mirroring((0, 2), (0, 2, 1)))
    torch.testing.assert_close(both.run(image), left_and_right(image))
    unswapped = blend_logits(left_and_right, Mirroring((0, 2), (0, 1, 2)))
    assert not torch.allclose(unswapped.run(image), left_and_right(image))


def test_mirroring_is_the_mean_over_all_combinations_of_axes() -> None:
    model, image = network(), torch.randn(1, 2, 8, 8, 8)
    mean = torch.zeros(1, 3, 8, 8, 8)
    for flips in ([], [2], [4], [2, 4]):
        mean += model(image.flip(flips)).flip(flips) / 4
    found = blend_logits(model, Mirroring((0, 2), (0, 1, 2))).run(image)
    torch.testing.assert_close(found, mean)
