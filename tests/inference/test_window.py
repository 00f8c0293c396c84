import pytest
import torch
from monai.inferers import SlidingWindowInferer
from torch import nn

from medseg.inference.window import mirrored, sliding_window, window_starts


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 3, 3, padding=1))


@pytest.mark.parametrize("shape", [(40, 33, 25), (16, 16, 16), (9, 40, 13)])
@pytest.mark.parametrize("overlap", [0.25, 0.5, 0.75])
def test_logits_equal_monais_inferer(shape: tuple[int, int, int], overlap: float) -> None:
    model = network()
    image = torch.randn(2, *shape)
    patch = (16, 16, 16)
    peer = SlidingWindowInferer(patch, sw_batch_size=2, overlap=overlap, mode="gaussian")
    with torch.inference_mode():
        theirs = peer(image[None], model)[0]
        ours = sliding_window(model, image, patch_size=patch, overlap=overlap, batch_size=3)
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_windows_cover_every_voxel_and_stay_inside() -> None:
    shape, patch = (50, 17, 16), (16, 16, 16)
    seen = torch.zeros(shape)
    for i, j, k in window_starts(shape, patch, 0.5):
        assert i + 16 <= 50
        assert j + 16 <= 17
        seen[i : i + 16, j : j + 16, k : k + 16] += 1
    assert seen.min() >= 1


def test_mirroring_swaps_left_and_right_channels() -> None:
    def left_is_one_right_is_two(image: torch.Tensor) -> torch.Tensor:
        half = image.shape[1] // 2
        logits = torch.zeros(3, *image.shape[1:])
        logits[1, :half] = image[0, :half]
        logits[2, half:] = image[0, half:]
        return logits

    image = torch.rand(1, 8, 4, 4)
    plain = left_is_one_right_is_two(image)
    both = mirrored(left_is_one_right_is_two, image, axes=(0, 2), channels=(0, 2, 1))
    torch.testing.assert_close(both, plain)
