"""Attention inside groups against attention over all tokens with a mask."""

import pytest
import torch
from torch import Tensor

from medseg.nn.group_attention import GroupAttention
from medseg.nn.token_groups import GlobalScope, IntervalScope, LocalScope, Scope


def _attention(scope: Scope) -> GroupAttention:
    torch.manual_seed(0)
    return GroupAttention(channels=12, heads=3, scope=scope).double()


def _tokens(*size: int) -> Tensor:
    return torch.randn(
        2, *size, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )


def _over_all(module: GroupAttention, x: Tensor, together: Tensor) -> Tensor:
    """Every token looks at every token; pairs that are not `together` (n, n) count nothing."""
    query, key, value = module.qkv(x.flatten(1, 3)).unflatten(-1, (3, 3, 4)).permute(2, 0, 3, 1, 4)
    scores = (query @ key.mT) / 2
    weights = scores.masked_fill(~together, -torch.inf).softmax(-1)
    return module.proj((weights @ value).transpose(1, 2).flatten(2)).view_as(x)


def _same(labels: Tensor) -> Tensor:
    return (labels[:, None] == labels[None]).all(-1)


def _places(size: tuple[int, ...]) -> Tensor:
    return torch.cartesian_prod(*(torch.arange(side) for side in size))


@pytest.mark.parametrize("size", [(4, 8, 8), (5, 9, 6), (2, 4, 7), (3, 4, 4)])
def test_near_tokens_see_those_of_their_box_and_never_padding(size) -> None:
    module = _attention(LocalScope((2, 4, 4)))
    together = _same(_places(size) // torch.tensor((2, 4, 4)))
    torch.testing.assert_close(
        module(_tokens(*size)), _over_all(module, _tokens(*size), together), rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize("size", [(4, 8, 8), (5, 9, 6), (2, 4, 7), (7, 5, 11)])
def test_far_tokens_see_those_evenly_apart_and_never_padding(size) -> None:
    module = _attention(GlobalScope((2, 4, 4)))
    steps = torch.tensor([-(-side // group) for side, group in zip(size, (2, 4, 4), strict=True)])
    together = _same(_places(size) % steps)
    torch.testing.assert_close(
        module(_tokens(*size)), _over_all(module, _tokens(*size), together), rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize("scope", [LocalScope((2, 4, 4)), GlobalScope((2, 4, 4))])
def test_a_short_grid_is_seen_as_a_whole(scope) -> None:
    module, tokens = _attention(scope), _tokens(5, 3, 6)
    together = torch.ones(90, 90, dtype=torch.bool)
    torch.testing.assert_close(
        module(tokens), _over_all(module, tokens, together), rtol=1e-10, atol=1e-10
    )


def test_the_reference_s_unmasked_depth_takes_part_as_zero_tokens() -> None:
    module, tokens = _attention(IntervalScope((2, 4, 4), 4)), _tokens(6, 8, 8)
    padded = torch.cat([tokens, tokens.new_zeros(2, 2, 8, 8, 12)], dim=1)
    together = _same(_places((8, 8, 8)) % torch.tensor((4, 2, 2)))
    expected = _over_all(module, padded, together)[:, :6]
    torch.testing.assert_close(module(tokens), expected, rtol=1e-10, atol=1e-10)
    masked = _attention(GlobalScope((2, 4, 4)))(tokens)
    assert not torch.allclose(masked, expected, atol=1e-3)


def test_the_fast_kernel_and_torch_s_own_agree_in_gradients() -> None:
    module = _attention(GlobalScope((2, 4, 4)))
    gradients = []
    for kernels in ("fast", "reference"):
        module.kernels = kernels
        tokens = _tokens(5, 6, 7).requires_grad_()
        module(tokens).sin().sum().backward()
        gradients.append(tokens.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-10, atol=1e-10)


def test_dropped_attention_weights_change_training_and_not_evaluation() -> None:
    torch.manual_seed(0)
    module = GroupAttention(
        channels=12, heads=3, scope=LocalScope((2, 4, 4)), attention_drop_rate=0.5
    ).double()
    tokens = _tokens(4, 4, 4)
    assert not torch.allclose(module.train()(tokens), module(tokens))
    assert torch.equal(module.eval()(tokens), module(tokens))
