"""Stochastic depth."""

import torch

from medseg.nn.drop_path import DropPath


def test_items_are_left_out_whole_and_the_mean_is_kept() -> None:
    torch.manual_seed(0)
    out = DropPath(rate=0.25)(torch.ones(4000, 3, 2))
    assert set(out.unique().tolist()) == {0.0, (1 / torch.tensor(0.75)).item()}
    assert torch.equal(out.amin((1, 2)), out.amax((1, 2)))
    assert abs(out.mean().item() - 1) < 0.03


def test_evaluation_and_rate_zero_change_nothing() -> None:
    x = torch.randn(3, 4)
    assert DropPath(rate=0.0)(x) is x
    assert DropPath(rate=0.9).eval()(x) is x


def test_everything_can_be_left_out() -> None:
    assert not DropPath(rate=1.0)(torch.ones(5, 2)).any()
