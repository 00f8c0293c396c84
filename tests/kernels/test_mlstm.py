"""The three forms of the mLSTM cell against each other, forward and backward."""

import itertools

import pytest
import torch
from torch import Tensor

from medseg_kernels.mlstm import mlstm


def _given(
    tokens: int, *, size: int = 8, gates: float = 2.0, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(tokens)
    wide = [torch.randn(2, 3, tokens, size, generator=generator) for _ in range(3)]
    narrow = [gates * torch.randn(2, 3, tokens, generator=generator) for _ in range(2)]
    return [one.to(dtype).requires_grad_() for one in (*wide, *narrow)]


def _gradients(output: Tensor, given: list[Tensor]) -> tuple[Tensor, ...]:
    weight = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    return torch.autograd.grad((output * weight).sum(), given)


@pytest.mark.parametrize("tokens", [1, 7, 8, 9, 37])
@pytest.mark.parametrize("gates", [0.1, 2.0, 30.0])
def test_the_forms_agree_in_outputs_and_gradients(tokens: int, gates: float) -> None:
    given = _given(tokens, gates=gates)
    forms = ("parallel", "recurrent", "chunkwise")
    outputs = [mlstm(*given, form=form, chunk=8) for form in forms]
    for one, other in itertools.combinations(outputs, 2):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    gradients = [_gradients(output, given) for output in outputs]
    for one, other in itertools.combinations(gradients, 2):
        for ours, theirs in zip(one, other, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("chunk", [1, 5, 64, 1000])
def test_the_length_of_a_chunk_changes_nothing(chunk: int) -> None:
    given = _given(130)
    expected = mlstm(*given, form="parallel")
    torch.testing.assert_close(mlstm(*given, chunk=chunk), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        _gradients(mlstm(*given, chunk=chunk), given),
        _gradients(expected, given),
        rtol=1e-8,
        atol=1e-8,
    )


def test_gradcheck_of_the_chunkwise_form() -> None:
    given = _given(6, size=2, gates=0.5)
    assert torch.autograd.gradcheck(lambda *args: mlstm(*args, chunk=4), given)


def test_no_token_sees_a_later_one() -> None:
    given = _given(40)
    changed = [one.detach().clone() for one in given]
    for one in changed:
        one[:, :, 25:] = 5.0
    before, after = (mlstm(*one, chunk=16) for one in (given, changed))
    assert torch.equal(before[:, :, :25], after[:, :, :25])
    assert not torch.allclose(before[:, :, 25:], after[:, :, 25:])


def test_extreme_gates_over_many_tokens_stay_finite() -> None:
    for sign in (-1.0, 1.0):
        given = _given(2000, size=4, dtype=torch.float32)
        given[3] = (sign * 80 + given[3]).detach().requires_grad_()
        given[4] = (sign * 80 + given[4]).detach().requires_grad_()
        output = mlstm(*given)
        assert output.isfinite().all()
        assert all(gradient.isfinite().all() for gradient in _gradients(output, given))


def test_half_precision_is_summed_in_float32() -> None:
    given = _given(200, dtype=torch.bfloat16)
    expected = mlstm(*(one.float() for one in given), form="parallel")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = mlstm(*given)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=1e-2, atol=1e-2)


def test_what_is_kept_for_the_backward_pass_grows_with_the_tokens_alone() -> None:
    kept = []
    for tokens in (256, 512):
        sizes: list[int] = []

        def count(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            mlstm(*_given(tokens), chunk=32)
        kept.append(sum(sizes))
    assert kept[1] == 2 * kept[0]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({0: (2, 3, 5, 8)}, "query"),
        ({3: (2, 3, 4, 1)}, "input_gate"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(change: dict, told: str) -> None:
    given = [torch.zeros(change.get(n, one.shape)) for n, one in enumerate(_given(4))]
    with pytest.raises(ValueError, match=told):
        mlstm(*given)
    with pytest.raises(ValueError, match="chunk 0"):
        mlstm(*_given(4), chunk=0)
    with pytest.raises(ValueError, match="there is no form"):
        mlstm(*_given(4), form="quick")  # pyright: ignore[reportArgumentType]
