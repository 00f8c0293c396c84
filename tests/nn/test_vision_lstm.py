"""Vision-LSTM blocks: direction, precision, first weights, and training that stays finite."""

import pytest
import torch
from torch import nn

from medseg.nn.kernels import choose_kernels
from medseg.nn.vision_lstm import VisionLSTMBlock, heads_of

CHANNELS = 16


def _blocks(count: int, *, depth: int = 1) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        *(
            VisionLSTMBlock(channels=CHANNELS, backward=n % 2 == 1, depth=depth)
            for n in range(count)
        )
    )


def test_backward_is_forward_over_the_tokens_turned_round() -> None:
    torch.manual_seed(2)
    forward = VisionLSTMBlock(channels=CHANNELS).double()
    backward = VisionLSTMBlock(channels=CHANNELS, backward=True).double()
    backward.load_state_dict(forward.state_dict())
    tokens = torch.randn(2, 150, CHANNELS, dtype=torch.float64)
    with torch.no_grad():
        expected = forward(tokens.flip(1)).flip(1)
        torch.testing.assert_close(backward(tokens), expected, rtol=1e-9, atol=1e-9)
        assert not torch.allclose(forward(tokens), expected)


def test_torch_s_own_operations_give_the_same() -> None:
    block = VisionLSTMBlock(channels=CHANNELS, backward=True).double()
    tokens = torch.randn(2, 70, CHANNELS, dtype=torch.float64)
    with torch.no_grad():
        expected = block(tokens)
        choose_kernels(block, "reference")
        torch.testing.assert_close(block(tokens), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("backward", [False, True])
def test_a_token_sees_those_before_it_in_reading_order_and_no_other(backward: bool) -> None:
    torch.manual_seed(1)
    block = VisionLSTMBlock(channels=CHANNELS, backward=backward).double()
    tokens = torch.randn(1, 30, CHANNELS, dtype=torch.float64)
    changed = tokens.clone()
    changed[:, 12, 0] += 1
    with torch.no_grad():
        apart = (block(changed) - block(tokens)).abs().amax((0, 2))
    seen, unseen = (apart[:13], apart[13:]) if backward else (apart[12:], apart[:12])
    assert (seen > 0).all()
    assert not unseen.any()


@pytest.mark.parametrize(("channels", "heads"), [(8, 4), (6, 2), (210, 2), (5, 2)])
def test_heads_divide_any_number_of_channels(channels: int, heads: int) -> None:
    assert heads_of(channels) == heads
    tokens = torch.randn(1, 7, channels)
    assert VisionLSTMBlock(channels=channels)(tokens).shape == tokens.shape


def test_deep_stacks_start_as_calm_as_one_block() -> None:
    """Without the number of blocks, which the authors' code leaves out, their sum grows with it."""
    tokens = torch.randn(2, 64, CHANNELS)
    with torch.no_grad():
        told, untold = (_blocks(24, depth=depth)(tokens).std() for depth in (24, 1))
    assert told < 1.5 * tokens.std()
    assert untold > 3 * tokens.std()


def test_gates_far_out_are_the_same_in_bf16() -> None:
    """A bf16 gate near 300 is off by one, and its exponential by a factor of e."""
    block = VisionLSTMBlock(channels=CHANNELS).eval()
    with torch.no_grad():
        block.layer.input_gate.weight.normal_(std=2)
        block.layer.input_gate.bias.fill_(300)
        block.layer.forget_gate.weight.normal_(std=2)
        tokens = torch.randn(2, 200, CHANNELS)
        expected = block(tokens)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = block(tokens)
    assert found.isfinite().all()
    apart = (found - expected).abs().mean() / (expected - tokens).std()
    assert apart < 0.1


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_run_that_diverges_stays_finite(precision: torch.dtype) -> None:
    """At such a rate weights grow without end, and gates with them."""
    losses = _run(precision, rate=0.1, steps=250)
    # Where it lands in the end is up to the last bit of each product, so up to the machine.
    assert max(losses) > 100 * losses[0]


def _run(precision: torch.dtype, *, rate: float, steps: int) -> list[float]:
    """The losses of a run to sum all tokens so far; the norm of its gradients is finite."""
    blocks, head = _blocks(2, depth=2), nn.Linear(CHANNELS, CHANNELS)
    weights = [*blocks.parameters(), *head.parameters()]
    optimizer = torch.optim.SGD(weights, lr=rate, momentum=0.99, nesterov=True)
    losses = []
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        tokens = 3 * torch.randn(2, 48, CHANNELS, generator=generator)
        with torch.autocast("cpu", dtype=precision, enabled=precision != torch.float32):
            found = head(blocks(tokens))
        loss = nn.functional.mse_loss(found.float(), tokens.cumsum(1) / 48**0.5)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 12.0, error_if_nonfinite=True)
        optimizer.step()
        losses.append(loss.item())
    return losses
