"""The attention module's choice of window."""

import pytest
import torch

from medseg.nn.window_attention import WindowAttention


@pytest.mark.parametrize(
    ("size", "window", "shift"),
    [
        ((8, 8, 8), (7, 7, 7), (3, 3, 3)),
        ((7, 8, 3), (7, 7, 3), (0, 3, 0)),
        ((1, 2, 40), (1, 2, 7), (0, 0, 3)),
    ],
)
def test_an_axis_shorter_than_the_window_is_the_window_and_stays(size, window, shift) -> None:
    module = WindowAttention(channels=6, heads=3, window=(7, 7, 7), shift=(3, 3, 3))
    assert module.effective(size) == (window, shift)
    assert module(torch.randn(1, *size, 6)).shape == (1, *size, 6)


def test_tokens_of_different_windows_do_not_see_each_other() -> None:
    torch.manual_seed(0)
    module = WindowAttention(channels=4, heads=2, window=(2, 2, 2))
    tokens = torch.randn(1, 4, 2, 2, 4)
    changed = tokens.clone()
    changed[:, 2:] += 1
    with torch.no_grad():
        before, after = module(tokens), module(changed)
    assert torch.equal(before[:, :2], after[:, :2])
    assert not torch.allclose(before[:, 2:], after[:, 2:])
