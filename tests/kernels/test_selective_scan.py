"""The chunked selective scan against the plain recurrence, forward and backward."""

import pytest
import torch
from torch import Tensor

from medseg_kernels.selective_scan import Backend, refuses, selective_scan

NAMES = ("x", "step", "decay", "write", "read", "skip")


def _given(
    tokens: int, *, channels: int = 6, states: int = 4, dtype: torch.dtype = torch.float64
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(tokens)
    shapes = [(2, channels, tokens)] * 2 + [(channels, states)] + [(2, states, tokens)] * 2
    drawn = [torch.randn(shape, generator=generator) for shape in (*shapes, (channels,))]
    drawn[1] = drawn[1].exp() / 4
    drawn[2] = -16 * drawn[2].abs()
    values = (one.to(dtype).requires_grad_() for one in drawn)
    return dict(zip(NAMES, values, strict=True))


def _gradients(output: Tensor, given: dict[str, Tensor]) -> tuple[Tensor, ...]:
    weight = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    return torch.autograd.grad((output * weight).sum(), list(given.values()))


@pytest.mark.parametrize("tokens", [1, 7, 8, 9, 63, 64, 65, 200])
@pytest.mark.parametrize("block", [16, 64, None])
def test_chunked_equals_the_recurrence_in_outputs_and_gradients(
    tokens: int, block: int | None
) -> None:
    given = _given(tokens)
    expected = selective_scan(**given, backend="reference")
    found = selective_scan(**given, backend="chunked", block=block)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        _gradients(found, given), _gradients(expected, given), rtol=1e-9, atol=1e-9
    )


def test_gradcheck() -> None:
    given = _given(11, channels=2, states=2)
    assert torch.autograd.gradcheck(
        lambda *args: selective_scan(**dict(zip(NAMES, args, strict=True)), block=8),
        tuple(given.values()),
    )


def test_single_precision_stays_near_double_over_many_tokens() -> None:
    given = _given(3000, states=16)
    expected = selective_scan(**given)
    found = selective_scan(**{name: one.float() for name, one in given.items()})
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


def test_half_precision_is_summed_in_float32() -> None:
    given = _given(300, dtype=torch.bfloat16)
    expected = selective_scan(**{name: one.float() for name, one in given.items()})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = selective_scan(**given)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=2e-2, atol=2e-2)


def test_large_steps_and_long_pauses_stay_finite() -> None:
    given = {name: one.detach().float() for name, one in _given(2000).items()}
    given["step"] = torch.where(torch.rand_like(given["step"]) < 0.1, 50.0, 1e-7)
    given = {name: one.requires_grad_() for name, one in given.items()}
    output = selective_scan(**given)
    assert output.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in _gradients(output, given))


def test_what_is_kept_for_the_backward_pass_grows_with_the_tokens_alone() -> None:
    kept = []
    for tokens in (256, 512):
        sizes: list[int] = []

        def count(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        given = _given(tokens, states=16)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            selective_scan(**given, block=64)
        kept.append(sum(sizes))
    assert kept[1] < 2 * kept[0]
    # The states of all tokens alone would be more.
    assert kept[1] < 2 * 6 * 16 * 512


def test_a_backend_that_cannot_run_says_why() -> None:
    given = _given(4)
    refusal = refuses(given["x"], backend="mamba_ssm")
    assert refusal is not None
    assert "CUDA" in refusal
    with pytest.raises(ValueError, match="CUDA"):
        selective_scan(**given, backend="mamba_ssm")
    strange: Backend = "fast"  # pyright: ignore[reportAssignmentType]
    with pytest.raises(ValueError, match="no such backend"):
        selective_scan(**given, backend=strange)


@pytest.mark.parametrize(
    ("name", "told"), [("step", "both are"), ("skip", r"\(d,\)"), ("read", "both are")]
)
def test_shapes_that_do_not_fit_are_refused(name: str, told: str) -> None:
    given = _given(4)
    given[name] = given[name][..., :-1]
    with pytest.raises(ValueError, match=told):
        selective_scan(**given)
    with pytest.raises(ValueError, match="block 0"):
        selective_scan(**_given(4), block=0)
