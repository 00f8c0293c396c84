"""The grouped backend against the plain one, and the plain one against attention by hand."""


import pytest
import torch
from torch import Tensor

from medseg_kernels.window_attention import window_attention

CASES = {
    "one window": {"size": (4, 3, 2), "window": (4, 3, 2)},
    "windows that fit": {"size": (4, 6, 4), "window": (2, 3, 2)},
    "odd sizes": {"size": (5, 7, 3), "window": (2, 3, 2)},
    "shifted": {"size": (6, 6, 4), "window": (3, 3, 2), "shift": (1, 1, 1)},
    "shifted odd sizes": {"size": (7, 5, 3), "window": (3, 2, 3), "shift": (1, 1, 0)},
    "padding reaches two windows": {"size": (5, 4, 4), "window": (4, 2, 2), "shift": (2, 0, 0)},
    "dilated": {"size": (4, 6, 4), "window": (2, 3, 2), "dilation": (2, 2, 1)},
    "dilated odd sizes": {"size": (5, 7, 3), "window": (2, 2, 2), "dilation": (2, 3, 1)},
    "dilated and shifted": {
        "size": (5, 6, 4),
        "window": (2, 2, 2),
        "dilation": (2, 1, 2),
        "shift": (1, 1, 3),
    },
}
HEADS, CHANNELS = 2, 6


def _inputs(size, window, *, padded: bool, tabled: bool, extra: int = 0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(7)

    def draw(*shape: int) -> Tensor:
        return (
            torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        )

    return {
        "qkv": draw(2, *size, 3 * CHANNELS),
        "table": draw(*(2 * (w + extra) - 1 for w in window), HEADS) if tabled else None,
        "padding": draw(3 * CHANNELS) if padded else None,
    }


def _run(backend: str, inputs, **options):
    leaves = {
        n: None if x is None else x.detach().clone().requires_grad_() for n, x in inputs.items()
    }
    out = window_attention(**leaves, heads=HEADS, backend=backend, **options)
    weight = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out).cos()
    (out.double() * weight).sum().backward()
    return out, {n: x.grad for n, x in leaves.items() if x is not None}


@pytest.mark.parametrize("padded", [False, True], ids=["padding masked", "padding attends"])
@pytest.mark.parametrize("tabled", [False, True], ids=["no table", "table"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_grouped_backend_equals_reference_forward_and_backward(case, tabled, padded) -> None:
    options = dict(case)
    inputs = _inputs(options.pop("size"), options["window"], padded=padded, tabled=tabled)
    out, grads = _run("grouped", inputs, **options)
    truth, true_grads = _run("reference", inputs, **options)
    torch.testing.assert_close(out, truth, rtol=1e-9, atol=1e-10)
    assert len(grads) == 1 + padded + tabled
    for name, grad in true_grads.items():
        torch.testing.assert_close(grads[name], grad, rtol=1e-9, atol=1e-10, msg=name)
