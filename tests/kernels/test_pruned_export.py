"""Pruned export gives what interpolating every class everywhere gives, to the last voxel."""

import itertools
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape
from torch import Tensor

from medseg_kernels import native
from medseg_kernels.pruned_export import (
    Places,
    blocks,
    compiled,
    linear_places,
    nearest_places,
    pruned,
    pruned_argmax,
    pruned_regions,
)
from medseg_kernels.pruned_export.source import Source

Triple = tuple[int, int, int]
BACKENDS = ["compiled", "pruned"]
TYPES = [torch.float32, torch.bfloat16, torch.float16]


def noise(classes: int, shape: Triple, seed: int = 0) -> Tensor:
    """The worst case: nearly every cell has several winners."""
    return torch.randn(classes, *shape, generator=torch.Generator().manual_seed(seed))


def blobs(classes: int, shape: Triple, seed: int = 0) -> Tensor:
    """Like organs: most cells have one winner."""
    coarse = noise(classes, (3, 3, 3), seed)[None]
    return torch.nn.functional.interpolate(coarse, size=shape, mode="trilinear")[0] * 5


def places(source: Triple, target: Triple) -> tuple[Places, Places, Places]:
    i, j, k = (linear_places(a, b) for a, b in zip(source, target, strict=True))
    return i, j, k


@pytest.mark.parametrize("make", [noise, blobs])
@pytest.mark.parametrize("classes", [1, 2, 3, 25, 300])
@pytest.mark.parametrize(
    ("source", "target"),
    [
        ((9, 8, 7), (17, 21, 13)),
        ((9, 8, 7), (5, 8, 30)),
        ((9, 8, 7), (9, 8, 7)),
        ((1, 8, 7), (3, 4, 1)),
        ((2, 1, 1), (5, 1, 1)),
        ((12, 11, 10), (4, 3, 3)),
    ],
)
def test_argmax_is_the_references(make, classes: int, source: Triple, target: Triple) -> None:
    logits, where = make(classes, source), places(source, target)
    wanted = pruned_argmax(logits, where, backend="reference")
    for backend in BACKENDS:
        found = pruned_argmax(logits, where, backend=backend)
        assert found.shape == target
        assert found.dtype == wanted.dtype == (torch.uint8 if classes <= 256 else torch.int16)
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("kind", TYPES)
def test_coarse_logits_tie_as_in_the_reference(kind: torch.dtype) -> None:
    logits = blobs(6, (10, 9, 8)).mul(2).round().to(kind)
    where = places((10, 9, 8), (21, 18, 17))
    wanted = pruned_argmax(logits, where, backend="reference")
    for backend in BACKENDS:
        assert torch.equal(pruned_argmax(logits, where, backend=backend), wanted)


def test_of_equal_logits_the_first_class_is_taken() -> None:
    where = places((4, 4, 4), (9, 9, 9))
    assert pruned_argmax(torch.ones(5, 4, 4, 4), where).eq(0).all()


def test_a_third_class_that_wins_at_no_corner_is_found() -> None:
    # First here, last there: between them wins the one that is second at both.
    logits = torch.tensor([[9.0, 0.0], [0.0, 9.0], [8.0, 8.0]]).reshape(3, 2, 1, 1)
    for backend in BACKENDS:
        found = pruned_argmax(logits, places((2, 1, 1), (8, 1, 1)), backend=backend)
        assert found.flatten().tolist() == [0, 0, 2, 2, 2, 2, 1, 1]


@pytest.mark.parametrize("make", [noise, blobs])
@pytest.mark.parametrize("regions", [1, 3, 5])
def test_regions_are_the_references(make, regions: int) -> None:
    values = (2, 300, 7, 1, 9)[:regions]
    logits, where = make(regions, (9, 8, 7)), places((9, 8, 7), (17, 6, 13))
    wanted = pruned_regions(logits, where, values, backend="reference")
    for backend in BACKENDS:
        found = pruned_regions(logits, where, values, backend=backend)
        assert found.dtype == wanted.dtype
        assert torch.equal(found, wanted)
    assert set(wanted.unique().tolist()) <= {0, *values}


@pytest.mark.parametrize("make", [noise, blobs])
@pytest.mark.parametrize(
    ("source", "target"), [((16, 14, 12), (30, 21, 12)), ((9, 30, 8), (7, 45, 30))]
)
def test_labels_and_regions_are_those_of_nnunets_default_export(
    make, source: Triple, target: Triple
) -> None:
    logits, where = make(25, source), places(source, target)
    resampled = torch.from_numpy(
        resample_data_or_seg_to_shape(
            logits.numpy(), target, (1, 1, 1), (1, 1, 1), order=1, order_z=0, force_separate_z=False
        )
    )
    for backend in BACKENDS:
        found = pruned_argmax(logits, where, backend=backend)
        assert (found != resampled.argmax(0)).double().mean() < 1e-4
        regions = pruned_regions(logits[:3], where, (1, 2, 3), backend=backend)
        wanted = torch.zeros(target, dtype=torch.uint8)
        for value, channel in enumerate(resampled[:3], start=1):
            wanted[channel.sigmoid() > 0.5] = value
        assert (regions != wanted).double().mean() < 1e-4


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("make", [noise, blobs])
def test_the_result_does_not_depend_on_how_the_volume_is_cut(make, axis: int) -> None:
    source, target = (14, 12, 10), (29, 15, 23)
    logits, where = make(30, source), places(source, target)
    whole = pruned_argmax(logits, where)
    rows = target[axis]
    for low, high in itertools.pairwise((0, 1, 6, rows)):
        along = where[axis].part(low, high)
        first = int(along.left[0])
        last = min(int(along.left[-1]) + 2, source[axis])
        part = list(where)
        part[axis] = along.after(first)
        slab = logits.narrow(axis + 1, first, last - first)
        found = pruned_argmax(slab, (part[0], part[1], part[2]))
        assert torch.equal(found, whole.narrow(axis, low, high - low))


def test_thick_slices_are_taken_as_they_are() -> None:
    logits = noise(4, (6, 5, 5))
    where = (nearest_places(6, 17), linear_places(5, 9), linear_places(5, 9))
    assert not where[0].moves
    assert torch.equal(
        pruned_argmax(logits, where), pruned_argmax(logits, where, backend="reference")
    )


@pytest.mark.parametrize("kind", TYPES)
def test_any_strides_and_types_are_read(kind: torch.dtype) -> None:
    logits = noise(9, (9, 8, 7)).to(kind)
    where = places((7, 9, 8), (13, 17, 6))
    turned = logits.permute(0, 3, 1, 2)
    wanted = pruned_argmax(turned.float().contiguous(), where, backend="reference")
    assert not turned.is_contiguous()
    assert torch.equal(pruned_argmax(turned, where), wanted)


def test_small_blocks_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, where = blobs(20, (20, 18, 16)), places((20, 18, 16), (33, 30, 31))
    wanted = pruned_argmax(logits, where, backend="reference")
    sizes = (
        (pruned, "RUN", 100),
        (blocks, "BLOCK", 3000),
        (pruned, "CHUNK", 77),
        (blocks, "COPY", 9000),
        (pruned, "FEW", 2),
    )
    for module, name, size in sizes:
        monkeypatch.setattr(module, name, size)
        for backend in BACKENDS:
            assert torch.equal(pruned_argmax(logits, where, backend=backend), wanted)
        assert torch.equal(
            pruned_argmax(logits.half(), where),
            pruned_argmax(logits.half(), where, backend="reference"),
        )


@pytest.mark.parametrize("make", [noise, blobs])
@pytest.mark.parametrize(
    ("classes", "source", "target"),
    [
        (9, (70, 71, 72), (73, 75, 80)),
        (9, (70, 71, 72), (40, 51, 47)),
        (3, (5, 6, 1300), (7, 8, 1100)),
        (3, (5, 6, 600), (7, 9, 2000)),
    ],
)
def test_what_is_worked_out_in_many_boxes_is_the_same(
    make, classes: int, source: Triple, target: Triple
) -> None:
    """More source voxels than the compiled form holds at a time, and more in a row."""
    logits, where = make(classes, source), places(source, target)
    wanted = pruned_argmax(logits, where, backend="reference")
    assert torch.equal(pruned_argmax(logits, where, backend="compiled"), wanted)
    regions = pruned_regions(logits, where, range(1, classes + 1), backend="compiled")
    values = range(1, classes + 1)
    assert torch.equal(regions, pruned_regions(logits, where, values, backend="reference"))


def test_several_threads_give_the_same() -> None:
    logits, where = blobs(9, (20, 18, 16)), places((20, 18, 16), (33, 30, 31))
    alone = pruned_argmax(logits, where, backend="compiled")
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    together = pruned_argmax(logits, where, backend="compiled")
    torch.set_num_threads(before)
    assert torch.equal(alone, together)


def test_it_is_a_node_of_a_compiled_graph() -> None:
    where = places((4, 4, 5), (5, 6, 7))

    def labels(image: Tensor) -> Tensor:
        return pruned_argmax(torch.stack([image, image.tanh(), image.sin()]), where) + 1

    image = torch.randn(4, 4, 5)
    compiled_form = torch.compile(labels, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled_form(image), labels(image))


def test_a_kernel_is_imported_and_called_without_torchs_compiler() -> None:
    """It takes a second and 150 MB, which a process that only predicts need not pay."""
    code = (
        "import sys, torch; from medseg_kernels.pruned_export import *; p = linear_places(3, 5); "
        "from medseg_kernels.window_sum import add_window; x = torch.ones(2, 3, 3, 3); "
        "add_window(x, x[0], x.clone(), x[0].clone()); pruned_argmax(x, (p, p, p)); "
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("logits", "where", "told"),
    [
        (torch.zeros(2, 3, 4), places((3, 4, 5), (3, 4, 5)), "must be"),
        (torch.zeros(2, 3, 4, 5).long(), places((3, 4, 5), (3, 4, 5)), "float"),
        (torch.zeros(2, 3, 4, 5), places((4, 4, 5), (4, 4, 5)), "beyond the 3"),
        (torch.zeros(2, 3, 4, 5), (Places(torch.tensor([2, 1]), torch.zeros(2)),) * 3, "fall"),
    ],
)
def test_what_does_not_fit_is_refused(logits: Tensor, where: tuple, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        pruned_argmax(logits, where)


def test_without_a_compiler_torch_serves_and_the_reason_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    logits, where = blobs(9, (9, 8, 7)), places((9, 8, 7), (17, 15, 13))
    wanted = pruned_argmax(logits, where)
    monkeypatch.setattr(native, "CACHE", tmp_path)
    monkeypatch.setattr(native, "COMPILERS", ("no-such-compiler",))
    native.forget()
    with pytest.raises(ValueError, match="no-such-compiler is installed"):
        pruned_argmax(logits, where, backend="compiled")
    assert torch.equal(pruned_argmax(logits, where), wanted)
    native.forget()


def test_a_library_that_others_may_write_is_not_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tmp_path.chmod(0o777)
    monkeypatch.setattr(native, "CACHE", tmp_path)
    native.forget()
    with pytest.raises(native.NotCompiledError, match="written by others"):
        native.library(compiled.SOURCE)
    native.forget()


def test_a_source_that_does_not_compile_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(native, "CACHE", tmp_path / "cache")
    source = tmp_path / "broken.c"
    source.write_text("int broken(")
    with pytest.raises(native.NotCompiledError, match="failed"):
        native.library(source)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_compiler_that_fails_is_asked_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[Path] = []

    def failing(_compiler: str, source: Path, _target: Path) -> None:
        asked.append(source)
        raise native.NotCompiledError("no")

    monkeypatch.setattr(native, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(native, "_compile", failing)
    native.forget()
    for _ in range(3):
        assert compiled.refuses(Source(torch.zeros(2, 3, 3, 3))) == "no"
    assert len(asked) == 1
    native.forget()
