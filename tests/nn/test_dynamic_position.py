"""Position that tokens read off their neighborhood."""

import torch

from medseg.nn.dynamic_position import DynamicPosition


def test_only_the_neighborhood_of_a_token_counts() -> None:
    torch.manual_seed(0)
    module, tokens = DynamicPosition(channels=3), torch.randn(1, 5, 6, 7, 3)
    changed = tokens.clone()
    changed[:, 0, 0, 0] += 1
    with torch.no_grad():
        moved = (module(changed) - module(tokens)).abs().amax(dim=-1)[0] > 1e-6
    assert moved[:2, :2, :2].all()
    assert moved.sum() == 8


def test_equal_tokens_differ_at_the_rim_only() -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        found = DynamicPosition(channels=2)(torch.ones(1, 5, 5, 5, 2))[0]
    assert torch.allclose(found[1:-1, 1:-1, 1:-1], found[2, 2, 2])
    assert not torch.allclose(found[0, 2, 2], found[2, 2, 2])
