"""The channels-last instance norm against torch's."""

import pytest
import torch
from torch import Tensor

from medseg_kernels.instance_norm import instance_norm, refuses

SIZES = [(2, 3, 4, 5, 7), (1, 5, 1, 1, 2), (3, 1, 3, 2, 2), (1, 24, 33, 31, 29)]


def _map(size, seed: int = 1, dtype=torch.float64, offset: float = 0.0) -> Tensor:
    drawn = torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (drawn * 3 + offset).to(dtype).contiguous(memory_format=torch.channels_last_3d)


def _run(backend: str, x: Tensor, residual: Tensor | None, *, slope, overwrite=False):
    leaves = [t if t is None else t.clone().requires_grad_() for t in (x, residual)]
    given = leaves[0] * 1  # not a leaf, so that it may be overwritten
    y = instance_norm(given, residual=leaves[1], slope=slope, overwrite=overwrite, backend=backend)
    (y * torch.linspace(0, 9, y.numel(), dtype=y.dtype).view_as(y).sin()).sum().backward()
    return y.detach(), *(t.grad for t in leaves if t is not None)


@pytest.mark.parametrize("overwrite", [False, True], ids=["new memory", "overwritten"])
@pytest.mark.parametrize("slope", [None, 0.01])
@pytest.mark.parametrize("added", [False, True], ids=["alone", "residual"])
@pytest.mark.parametrize("size", SIZES)
def test_output_and_gradients_equal_torch(size, added, slope, overwrite) -> None:
    x, residual = _map(size, offset=5), _map(size, seed=2) if added else None
    found = _run("channels_last", x, residual, slope=slope, overwrite=overwrite)
    expected = _run("reference", x, residual, slope=slope)
    assert len(found) == 2 + added
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    assert found[0].is_contiguous(memory_format=torch.channels_last_3d)


def _needs(backend: str) -> None:
    told = refuses(_map((1, 3, 2, 2, 2), dtype=torch.float32), None, slope=None, backend=backend)
    if told is not None:
        pytest.skip(told)


@pytest.mark.parametrize("overwrite", [False, True], ids=["new memory", "overwritten"])
@pytest.mark.parametrize("slope", [None, 0.01])
@pytest.mark.parametrize("added", [False, True], ids=["alone", "residual"])
@pytest.mark.parametrize("size", SIZES)
def test_compiled_steps_equal_torch(size, added, slope, overwrite) -> None:
    _needs("compiled")
    drawn = [_map(size, seed=seed, offset=5, dtype=torch.float32) for seed in (1, 2)]
    x, residual = drawn[0], drawn[1] if added else None
    found = _run("compiled", x, residual, slope=slope, overwrite=overwrite)
    wide = None if residual is None else residual.double()
    expected = _run("reference", x.double(), wide, slope=slope)
    for ours, truth in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.double(), truth, rtol=1e-4, atol=1e-4)
    assert found[0].is_contiguous(memory_format=torch.channels_last_3d)


# The second are so large that the norm can be undone.
GAINS = ([1.0, -2.0, 0.0, 0.5, 1e-4], [1.0, -2.0, 0.3, 0.5, 0.05])


@pytest.mark.parametrize("slope", [None, 0.01])
@pytest.mark.parametrize("added", [False, True], ids=["alone", "residual"])
@pytest.mark.parametrize("given", ["gain", "shift", "both"])
@pytest.mark.parametrize("overwrite", [False, True], ids=["new memory", "overwritten"])
@pytest.mark.parametrize("gains", GAINS, ids=["small gains", "large gains"])
def test_gain_and_shift(gains, overwrite, given, added, slope) -> None:
    _needs("compiled")
    drawn = [_map((2, 5, 6, 7, 4), seed=seed, offset=5, dtype=torch.float32) for seed in (1, 2)]
    affine = {"gain": torch.tensor(gains), "shift": torch.linspace(-1, 1, 5)}
    affine = {name: one for name, one in affine.items() if given in (name, "both")}

    def run(backend: str, dtype: torch.dtype) -> list[Tensor]:
        x, residual, *rest = (
            one.to(dtype).clone().requires_grad_() for one in (*drawn, *affine.values())
        )
        options = dict(zip(affine, rest, strict=True)) | ({"residual": residual} if added else {})
        given = x * 1  # not a leaf, so that it may be overwritten
        y = instance_norm(given, slope=slope, overwrite=overwrite, backend=backend, **options)
        (y * torch.linspace(0, 9, y.numel(), dtype=dtype).view_as(y).sin()).sum().backward()
        return [y.detach(), x.grad, *(one.grad for one in options.values())]

    found, expected = run("compiled", torch.float32), run("reference", torch.float64)
    assert len(found) == 2 + len(affine) + added
    for ours, truth in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.double(), truth, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("gain", "keeps"), [(0.5, "result"), (0.001, "map")])
def test_the_map_is_kept_only_where_the_norm_cannot_be_undone(gain, keeps) -> None:
    _needs("compiled")
    x = _map((1, 4, 6, 5, 4), dtype=torch.float32).requires_grad_()
    kept: set[int] = set()
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.add(tensor.data_ptr()) or tensor, lambda tensor: tensor
    ):
        y = instance_norm(x, gain=torch.full((4,), gain), slope=0.01, backend="compiled")
    assert {"result": y.data_ptr() in kept, "map": x.data_ptr() in kept}[keeps]
    assert (y.data_ptr() in kept) != (x.data_ptr() in kept)


def test_threads_change_nothing_and_rows_of_a_gradient_may_lie_apart() -> None:
    _needs("compiled")
    x = _map((2, 5, 6, 7, 8), dtype=torch.float32).requires_grad_()

    def slopes(backend: str) -> Tensor:
        y = instance_norm(x, slope=0.1, backend=backend)
        joined = torch.cat([y, y * 2], dim=1)  # the gradient of its half is a part of the whole's
        return torch.autograd.grad((joined * joined.detach().sin()).sum(), x)[0]

    one = slopes("compiled")
    torch.set_num_threads(3)
    three = slopes("compiled")
    torch.set_num_threads(1)
    assert torch.equal(one, three)
    torch.testing.assert_close(one, slopes("reference"), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("backend", ["compiled", "channels_last"])
@pytest.mark.parametrize("offset", [0.0, 30.0, 3000.0])
def test_single_precision_is_as_near_the_truth_as_torch(offset, backend) -> None:
    _needs(backend)
    x = _map((1, 4, 64, 64, 48), dtype=torch.float32, offset=offset)
    truth = instance_norm(x.double(), backend="reference")
    ours = (instance_norm(x, backend=backend) - truth).abs().max()
    theirs = (instance_norm(x, backend="reference") - truth).abs().max()
    assert ours <= 2 * theirs + 1e-6


def test_bfloat16_is_as_near_the_truth_as_torch() -> None:
    x = _map((2, 3, 9, 8, 7), dtype=torch.bfloat16)
    truth = _run("reference", x.double(), None, slope=0.01)
    ours = _run("channels_last", x, None, slope=0.01)
    theirs = _run("reference", x, None, slope=0.01)
    for exact, found, expected in zip(truth, ours, theirs, strict=True):
        assert found.dtype == torch.bfloat16
        limit = (expected.double() - exact).abs().mean()
        assert (found.double() - exact).abs().mean() <= 1.5 * limit


def test_the_memory_of_a_convolution_is_used_again() -> None:
    convolved = torch.nn.functional.conv3d(
        _map((1, 2, 5, 5, 5)), torch.ones(3, 2, 1, 1, 1).double()
    )
    convolved = convolved.contiguous(memory_format=torch.channels_last_3d)
    assert instance_norm(convolved, overwrite=True).data_ptr() == convolved.data_ptr()


def test_other_layouts_and_slopes_go_to_the_reference_and_are_refused_by_name() -> None:
    x = torch.randn(1, 3, 4, 4, 4)
    expected = torch.nn.functional.instance_norm(x)
    assert torch.equal(instance_norm(x), expected)
    with pytest.raises(ValueError, match="does not lie channels last"):
        instance_norm(x, backend="channels_last")
    with pytest.raises(ValueError, match="slope 0 cannot be undone"):
        instance_norm(_map((1, 3, 4, 4, 4)), slope=0, backend="channels_last")


def test_one_voxel_is_refused() -> None:
    with pytest.raises(ValueError, match="two voxels"):
        instance_norm(torch.zeros(1, 3, 1, 1, 1))
    with pytest.raises(ValueError, match="shape"):
        instance_norm(torch.zeros(1, 3, 2, 1, 1), residual=torch.zeros(1, 3, 1, 1, 1))
    with pytest.raises(ValueError, match="gain"):
        instance_norm(torch.zeros(1, 3, 2, 1, 1), gain=torch.ones(2))
    with pytest.raises(ValueError, match="no gain"):
        instance_norm(_map((1, 3, 2, 2, 2)), gain=torch.ones(3), backend="channels_last")
