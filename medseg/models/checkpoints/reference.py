"""The networks whose authors' weights can be loaded, and the fixtures they are held to.

A fixture is an .npz file with what a reference class computed once: its weights as `w/NAME`, its
inputs, its outputs (`y`, `y0`, `y1`, ..., `h`), and `config`, a JSON text that says what it is:
{"model": the network, "unit": which part of it, "settings": that part's arguments}.
"""

import importlib
import json
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medseg.fault import InputFault
from medseg.models.checkpoints.filling import Loaded
from medseg.nn.kernels import choose_kernels

_HERE = "medseg.models.checkpoints"
MODULES: Mapping[str, str] = {
    "d_former": f"{_HERE}.d_former",
    "swin_unetr": f"{_HERE}.monai_swin_unetr",
    "xlstm_unet": f"{_HERE}.xlstm_unet",
    "seg_mamba": f"{_HERE}.seg_mamba",
    "u_mamba": f"{_HERE}.u_mamba",
    "trans_dae": f"{_HERE}.trans_dae",
    "para_trans_cnn": f"{_HERE}.para_trans_cnn",
}
_OUTPUT = re.compile(r"y\d*|h")


@dataclass(frozen=True)
class Unit:
    """A part of a network that a fixture can be of, or the whole: made, filled and run.

    `run` gives its outputs by their names in the fixture; they may differ from the reference's by
    `tolerance`, relative to the value and absolute.
    """

    build: Callable[[Mapping[str, Any]], nn.Module]
    load: Callable[[nn.Module, Mapping[str, Tensor]], Loaded]
    run: Callable[[nn.Module, Mapping[str, Tensor]], Mapping[str, Tensor]]
    tolerance: float = 1e-5


@dataclass(frozen=True)
class Reference:
    """How the authors' weights of one network are read."""

    load: Callable[[nn.Module, Mapping[str, object]], Loaded]
    units: Mapping[str, Unit]


@dataclass(frozen=True)
class Parity:
    """What a fixture showed: tensors loaded, values compared, and how far they are apart.

    `excess` is the largest difference in terms of what is allowed there; up to 1 is equal.
    """

    unit: str
    loaded: Loaded
    values: int
    difference: float
    excess: float
    tolerance: float


@dataclass(frozen=True, eq=False)
class Fixture:
    """What a reference class computed."""

    model: str
    unit: str
    settings: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]


def reference(model: str) -> Reference:
    """How the authors' weights of `model` are read.

    Raises:
        InputFault: E_USE where there are none that medseg knows.
    """
    if model not in MODULES:
        raise InputFault(
            f"{model}: there is no reference for it; there is one for {', '.join(MODULES)}.",
            code="E_USE",
        )
    module = importlib.import_module(MODULES[model])
    return Reference(module.load_reference, module.UNITS)


def compare(fixture: Fixture) -> Parity:
    """Our network, or part of it, on the fixture's weights and inputs, in torch's own operations.

    Raises:
        InputFault: E_CHECKPOINT where weights do not fit, E_FIXTURE where outputs do not.
    """
    units = reference(fixture.model).units
    if fixture.unit not in units:
        raise InputFault(
            f"unit {fixture.unit}: {fixture.model} has the units {', '.join(units)}.",
            code="E_FIXTURE",
        )
    unit = units[fixture.unit]
    module = unit.build(fixture.settings).eval()
    choose_kernels(module, "reference")
    loaded = unit.load(module, fixture.weights)
    with torch.no_grad():
        outputs = unit.run(module, fixture.inputs)
    apart = {name: _apart(name, outputs, fixture, unit.tolerance) for name in fixture.outputs}
    return Parity(
        unit=fixture.unit,
        loaded=loaded,
        values=sum(output.numel() for output in fixture.outputs.values()),
        difference=max(difference for difference, _ in apart.values()),
        excess=max(excess for _, excess in apart.values()),
        tolerance=unit.tolerance,
    )


def read_fixture(path: Path) -> Fixture:
    """The fixture in an .npz file; no code in it is run.

    Raises:
        InputFault: E_FIXTURE where it is none.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        config = json.loads(str(arrays.pop("config")))
        model, unit, settings = config["model"], config["unit"], config["settings"]
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise InputFault(
            f"{path}: it is no fixture ({error}); one is an .npz file with weights w/NAME, inputs, "
            "outputs and a JSON text `config` that names model, unit and settings.",
            code="E_FIXTURE",
        ) from error
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    outputs = {name: tensor for name, tensor in tensors.items() if _OUTPUT.fullmatch(name)}
    if not outputs:
        raise InputFault(f"{path}: it has no outputs (y, y0, ..., h).", code="E_FIXTURE")
    weights = {name[2:]: tensor for name, tensor in tensors.items() if name.startswith("w/")}
    inputs = {
        name: tensor
        for name, tensor in tensors.items()
        if name not in outputs and not name.startswith("w/")
    }
    return Fixture(model, unit, settings, weights, inputs, outputs)


def _apart(
    name: str, outputs: Mapping[str, Tensor], fixture: Fixture, tolerance: float
) -> tuple[float, float]:
    """The largest difference of an output, and the largest in terms of what is allowed."""
    expected = fixture.outputs[name]
    found = outputs.get(name)
    if found is None or found.shape != expected.shape:
        raise InputFault(
            f"output {name}: it is {tuple(expected.shape)} in the fixture and "
            f"{'missing' if found is None else tuple(found.shape)} here.",
            code="E_FIXTURE",
        )
    difference = (found.double() - expected.double()).abs()
    allowed = tolerance * (1 + expected.double().abs())
    return difference.max().item(), (difference / allowed).max().item()
