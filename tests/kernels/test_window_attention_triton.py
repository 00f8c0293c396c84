"""The Triton form against the plain one: in the interpreter, as binaries, and on a GPU."""

import importlib
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from medseg_kernels.window_attention import refuses, window_attention
from medseg_kernels.window_attention.request import Request
from tests.kernels.binaries import TARGETS
from tests.kernels.launches import Call, Launch, launched
from tests.kernels.test_window_attention import drawn, run

pytest.importorskip("triton")

CASES = {
    "shifted odd sizes": {"size": (5, 3, 2), "window": (4, 2, 2), "shift": (2, 1, 0)},
    "dilated and shifted": {
        "size": (5, 2, 3),
        "window": (2, 2, 2),
        "dilation": (2, 1, 1),
        "shift": (3, 0, 1),
    },
    "rolled padding": {"size": (2, 2, 3), "window": (4, 2, 2), "shift": (3, 0, 1)},
}
MODULE = "medseg_kernels.window_attention.triton"
KERNELS = ("attend", "down_queries", "down_keys", "down_table", "sum_offsets")
interpreted = pytest.mark.skipif(
    torch.cuda.is_available(), reason="the interpreter is for machines without a GPU"
)


@pytest.fixture
def poisoned(monkeypatch):
    """Memory holds NaN before it is written."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(mode=True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(mode=False)


def _cast(inputs, **to) -> dict[str, Tensor | None]:
    """The inputs of another type or device; the table stays in float32, as under autocast."""
    cast = {name: None if x is None else x.to(**to) for name, x in inputs.items()}
    if cast["table"] is not None:
        cast["table"] = cast["table"].float()
    return cast


def _differences(inputs, **options) -> dict[str, float]:
    """Of output and gradients to the plain form in float64, relative to their size."""
    found = run("triton", inputs, **options)
    exact = {name: None if x is None else x.double() for name, x in inputs.items()}
    truth = run("reference", exact, **options)
    assert found["output"].dtype == inputs["qkv"].dtype
    assert all(right.norm() > 0 for right in truth.values())
    return {
        name: ((found[name].double() - right).norm() / right.norm()).item()
        for name, right in truth.items()
    }


@interpreted
@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("padded", [False, True], ids=["padding masked", "padding attends"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_in_the_interpreter_it_equals_the_reference(case, padded) -> None:
    options = dict(case)
    inputs = drawn(options.pop("size"), options["window"], padded=padded, tabled=True)
    inputs = _cast(inputs, dtype=torch.float32)
    inputs["qkv"] = inputs["qkv"].mT.contiguous().mT
    assert not inputs["qkv"].is_contiguous()
    found = _differences(inputs, **options)
    assert len(found) == 3 + padded
    assert max(found.values()) < 1e-6, found


@interpreted
@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("tabled", [False, True], ids=["no table", "table"])
def test_groups_of_several_blocks_of_rows(tabled) -> None:
    inputs = drawn((3, 5, 4), (3, 5, 5), padded=True, tabled=tabled, heads=1, channels=5)
    inputs["qkv"] = inputs["qkv"][:1]
    options = {"window": (3, 5, 5), "shift": (1, 0, 2), "heads": 1}
    found = _differences(_cast(inputs, dtype=torch.float32), **options)
    assert len(found) == 3 + tabled
    assert max(found.values()) < 1e-6, found


@interpreted
@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("padded", [False, True], ids=["padding masked", "padding attends"])
def test_half_precision_and_two_groups_a_program_of_which_the_last_has_one(
    padded, monkeypatch
) -> None:
    monkeypatch.setattr(importlib.import_module(MODULE), "_PROGRAMS", 1)
    inputs = drawn((5, 2, 3), (2, 2, 3), padded=padded, tabled=True, heads=1, channels=5)
    inputs["qkv"] = inputs["qkv"][:1]
    options = {"window": (2, 2, 3), "shift": (0, 1, 0), "heads": 1}
    found = _differences(_cast(inputs, dtype=torch.float16), **options)
    assert len(found) == 3 + padded
    assert max(found.values()) < 2e-3, found


@interpreted
@pytest.mark.parametrize("position", ["geometric", "prefix"])
def test_a_table_of_a_larger_window_is_read_alike(position) -> None:
    inputs = drawn((2, 3, 3), (2, 3, 2), padded=True, tabled=True, extra=1)
    options = {"window": (2, 3, 2), "position": position}
    found = _differences(_cast(inputs, dtype=torch.float32), **options)
    assert len(found) == 4
    assert max(found.values()) < 1e-6, found


@interpreted
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("padded", [False, True])
def test_the_operators_keep_the_promises_of_torch_library(padded) -> None:
    inputs = _cast(
        drawn((3, 2, 2), (2, 2, 2), padded=padded, tabled=True, heads=1), dtype=torch.float32
    )
    leaves = [None if x is None else x.requires_grad_() for x in inputs.values()]
    arguments = (*leaves, 1, (2, 2, 2), (1, 0, 1), (1, 1, 1), False, "triton")
    torch.library.opcheck(torch.ops.medseg.window_attention.default, arguments)


class _Attended(nn.Module):
    def forward(self, qkv: Tensor, table: Tensor, padding: Tensor) -> Tensor:
        options = {"window": (2, 2, 2), "shift": (1, 0, 1), "table": table, "padding": padding}
        return window_attention(qkv, heads=1, backend="triton", **options).sin()


@interpreted
def test_it_is_compiled_as_a_whole_with_its_gradients_and_exported() -> None:
    inputs = drawn((3, 2, 2), (2, 2, 2), padded=True, tabled=True, heads=1)
    inputs = _cast(inputs, dtype=torch.float32)
    results = []
    for module in (_Attended(), torch.compile(_Attended(), backend="aot_eager", fullgraph=True)):
        leaves = [tensor.clone().requires_grad_() for tensor in inputs.values()]
        out = module(*leaves)
        out.square().sum().backward()
        results.append([out, *(leaf.grad for leaf in leaves)])
    for plain, compiled in zip(*results, strict=True):
        assert torch.equal(compiled, plain)
    exported = torch.export.export(_Attended(), tuple(inputs.values()))
    assert torch.equal(exported.module()(*inputs.values()), results[0][0])


@interpreted
def test_where_there_is_no_item_nothing_comes_out() -> None:
    inputs = _cast(drawn((3, 2, 2), (2, 2, 2), padded=True, tabled=True), dtype=torch.float32)
    inputs["qkv"] = inputs["qkv"][:0]
    found = run("triton", inputs, window=(2, 2, 2))
    assert found["output"].shape == (0, 3, 2, 2, 6)
    assert not found["table"].any()
    assert not found["padding"].any()


@interpreted
def test_the_interpreter_is_not_chosen_where_it_is_not_asked_for(caplog) -> None:
    qkv = torch.zeros(1, 2, 2, 2, 12)
    with caplog.at_level(logging.DEBUG, logger="medseg_kernels.window_attention"):
        window_attention(qkv, heads=2, window=(2, 2, 2))
    assert [r.getMessage() for r in caplog.records] == [
        "window_attention: backend 'triton' refuses: its interpreter is for tests, which ask for "
        "it by name"
    ]


@pytest.mark.parametrize(
    ("shape", "window", "dtype", "words"),
    [
        ((1, 4, 4, 4, 3 * 129), (3, 3, 3), torch.float16, "up to 128 channels, not 129"),
        ((1, 4, 4, 4, 3 * 65), (3, 3, 3), torch.float32, "up to 64 channels, not 65"),
        ((1, 600, 1, 1, 24), (513, 1, 1), torch.float32, "up to 512, not 513"),
        ((1, 4, 4, 4, 24), (3, 3, 3), torch.float64, "no float64"),
        ((1, 4, 4, 4, 24), (3, 3, 3), torch.float16, "CUDA devices alone"),
    ],
)
def test_what_it_cannot_do_it_says(shape, window, dtype, words) -> None:
    qkv = torch.empty(shape, dtype=dtype, device="meta")
    assert words in str(refuses("triton", qkv, request=Request(1, window)))
    assert refuses("grouped", qkv, request=Request(1, window)) is None
    assert "dropout" in str(refuses("triton", qkv, request=Request(1, window), dropout=0.1))


def train(size, window, heads: int, channels: int, dtype: str, *, tabled=True, padded=True) -> None:
    """A call of both passes whose results nobody reads: a child compiles what it launches."""
    forms = importlib.import_module(MODULE)
    request = Request(heads, tuple(window), tuple(w // 2 for w in window))
    qkv = torch.zeros((1, *size, 3 * heads * channels), dtype=getattr(torch, dtype))
    table = torch.zeros((*(2 * w - 1 for w in window), heads)) if tabled else None
    padding = torch.zeros(3 * heads * channels) if padded else None
    out, sums = forms.forward(qkv, table, padding, request=request)
    forms.backward(out, out, sums, qkv, table, padding, request=request)


def _check(launch: Launch, capability: int, *, rows: int = 64, parked: int = 32) -> None:
    """Lean; ptxas may park a few numbers of the prologue to fit one program more."""
    binary, place = launch.binary, f"{launch.kernel} {capability} {launch.binary}"
    assert binary.registers <= 255, place
    assert binary.stack <= parked, place
    assert binary.shared <= 99 << 10, place  # what a program of any GPU since 2020 may have
    matrices = TARGETS[capability if rows == 64 else 80]
    assert (matrices in binary.instructions) == (launch.kernel != "sum_offsets"), place


def test_a_stage_of_swin_unetr_is_lean_binaries() -> None:
    stage = {"size": (48, 48, 48), "window": (7, 7, 7), "heads": 3, "channels": 16}
    calls = [Call(__name__, "train", {**stage, "dtype": "bfloat16"}, target) for target in TARGETS]
    for call, launches in zip(calls, launched(calls), strict=True):
        assert tuple(launch.kernel for launch in launches) == KERNELS
        for launch in launches:
            _check(launch, call.capability)
            assert launch.programs >= (507 if launch.kernel == "sum_offsets" else 1024)
        # Three programs of 128 threads share the 65536 registers of a multiprocessor.
        assert all(launch.binary.registers <= 168 for launch in launches[:3])


@pytest.mark.slow
def test_heads_of_every_size_are_lean_binaries() -> None:
    shape = {"size": (48, 48, 48), "window": (7, 7, 7), "heads": 2}
    heads = [
        *(("bfloat16", size, target) for size in (8, 20, 32, 64, 128) for target in TARGETS),
        *(("float16", size, 90) for size in (16, 32, 128)),
        *(("float32", 16, target) for target in TARGETS),
        *(("float32", size, 90) for size in (32, 64)),
    ]
    calls = [
        Call(__name__, "train", {**shape, "dtype": dtype, "channels": size}, target)
        for dtype, size, target in heads
    ]
    for call, launches in zip(calls, launched(calls), strict=True):
        assert tuple(launch.kernel for launch in launches) == KERNELS
        large = call.arguments["channels"] == 128 and call.capability == 80
        for launch in launches:
            _check(launch, call.capability, parked=96 if large else 32)


@pytest.mark.slow
def test_groups_of_few_tokens_without_table_or_padding_take_small_programs() -> None:
    shape = {"size": (8, 8, 8), "window": (2, 4, 4), "heads": 2, "channels": 32}
    given = {**shape, "dtype": "float16", "tabled": False, "padded": False}
    (launches,) = launched([Call(__name__, "train", given, 90)])
    assert tuple(launch.kernel for launch in launches) == KERNELS[:3]
    for launch in launches:
        _check(launch, 90, rows=32)


GPU_CASES = [
    ((15, 17, 14), 8, {"window": (7, 7, 7), "shift": (3, 3, 3)}),
    ((15, 17, 14), 16, {"window": (7, 7, 7), "shift": (3, 3, 3)}),
    ((48, 48, 48), 16, {"window": (7, 7, 7)}),
    ((13, 9, 10), 20, {"window": (4, 5, 6), "shift": (2, 0, 5), "dilation": (1, 2, 1)}),
    ((13, 9, 10), 32, {"window": (2, 4, 4), "dilation": (7, 3, 3)}),
    ((9, 10, 11), 64, {"window": (9, 10, 11)}),
    ((9, 10, 11), 128, {"window": (3, 3, 3), "shift": (1, 1, 1)}),
]
TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("padded", [False, True], ids=["padding masked", "padding attends"])
@pytest.mark.parametrize("tabled", [False, True], ids=["no table", "table"])
@pytest.mark.parametrize(("size", "channels", "options"), GPU_CASES)
def test_on_a_gpu_it_equals_the_reference(size, channels, options, tabled, padded, dtype) -> None:
    if dtype == torch.float32 and channels > 64:
        pytest.skip("such heads are refused in float32")
    given = {"heads": 3, "channels": 3 * channels}
    inputs = drawn(size, options["window"], padded=padded, tabled=tabled, **given)
    found = _differences(_cast(inputs, device="cuda", dtype=dtype), heads=3, **options)
    assert len(found) == 2 + tabled + padded
    assert max(found.values()) < TOLERANCE[dtype], found


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["triton", "grouped"])
def test_on_a_gpu_gradients_are_the_same_every_time(backend) -> None:
    inputs = drawn((24, 23, 22), (7, 7, 7), padded=True, tabled=True, heads=3, channels=48)
    inputs = _cast(inputs, device="cuda", dtype=torch.bfloat16)
    options = {"window": (7, 7, 7), "shift": (3, 3, 3), "heads": 3}
    first, again = (run(backend, inputs, **options) for _ in range(2))
    assert len(first) == 4
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.gpu
def test_on_a_gpu_it_is_chosen_compiled_and_captured_in_a_graph() -> None:
    inputs = drawn((24, 24, 24), (7, 7, 7), padded=True, tabled=True, heads=3, channels=48)
    inputs = _cast(inputs, device="cuda", dtype=torch.bfloat16)
    options = {name: x for name, x in inputs.items() if name != "qkv"} | {"window": (7, 7, 7)}
    wanted = window_attention(inputs["qkv"], heads=3, backend="triton", **options)

    def chosen(qkv: Tensor) -> Tensor:
        return window_attention(qkv, heads=3, **options)

    assert torch.equal(chosen(inputs["qkv"]), wanted)
    assert torch.equal(torch.compile(chosen, fullgraph=True)(inputs["qkv"]), wanted)
    graph, qkv = torch.cuda.CUDAGraph(), torch.zeros_like(inputs["qkv"])
    with torch.cuda.graph(graph):
        out = chosen(qkv)
    qkv.copy_(inputs["qkv"])
    graph.replay()
    assert torch.equal(out, wanted)


CHECKED = """
import torch
from medseg_kernels.window_attention import window_attention

for channels, dtype in ((16, torch.bfloat16), (20, torch.float16), (32, torch.float32)):
    qkv = torch.randn(1, 9, 8, 10, 9 * channels, device="cuda", dtype=dtype, requires_grad=True)
    table = torch.randn(13, 13, 13, 3, device="cuda", requires_grad=True)
    row = torch.randn(9 * channels, device="cuda", requires_grad=True)
    for padding in (None, row):
        out = window_attention(
            qkv, heads=3, window=(7, 7, 7), shift=(3, 3, 3), table=table, padding=padding,
            backend="triton",
        )
        out.square().sum().backward()
torch.cuda.synchronize()
"""


@pytest.mark.gpu
@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_on_a_gpu_no_access_is_out_of_bounds_or_raced(tool, tmp_path) -> None:
    program = shutil.which("compute-sanitizer")
    if program is None:
        pytest.skip("compute-sanitizer, which comes with CUDA's toolkit, is not installed")
    script = Path(tmp_path / "checked.py")
    script.write_text(CHECKED)
    done = subprocess.run(
        [program, "--tool", tool, "--error-exitcode", "9", sys.executable, script],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
