"""A network as ONNX, for onnxruntime, TensorRT, OpenVINO and the like."""

import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medseg.export.network import plain_network, refuse_other_logits
from medseg.fault import InputFault
from medseg.io.atomic import atomic_path

INPUT, OUTPUT, FACTS = "image", "logits", "medseg"
# A protobuf ends at two gigabytes.
MOST_BYTES = 1_900_000_000


def write_onnx(
    path: Path, models: Sequence[nn.Module], windows: Sequence[Tensor], facts: Mapping[str, Any]
) -> float:
    """Write the mean of `models` for any number of windows of their size; the largest difference.

    `windows` (b, c, i, j, k) are what it is compared on by onnxruntime. `facts` are JSON in the
    metadata entry `medseg`.

    Raises:
        InputFault: a package is missing (E_EXTRA), the weights are more than ONNX holds in one file
            (E_SIZE), it computes something else (E_SELFTEST), or cannot be written.
    """
    _refuse_without_packages()
    network = plain_network(models)
    size = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    if size > MOST_BYTES:
        raise InputFault(
            f"{path}: the weights are {size / 1e9:.1f} GB and one ONNX file holds less than 2; "
            "export fewer folds, or --to torch-export.",
            code="E_SIZE",
        )
    with atomic_path(path) as temporary:
        temporary.write_bytes(_serialized(network, windows[0], facts))
        return refuse_other_logits(models, _session(temporary), windows, place=str(path))


def _serialized(network: nn.Module, window: Tensor, facts: Mapping[str, Any]) -> bytes:
    several = torch.cat([window, window])
    loud = logging.getLogger("torch.onnx")
    level = loud.level
    loud.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                network,
                (several,),
                dynamo=True,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
    finally:
        loud.setLevel(level)
    assert program is not None
    model = program.model_proto
    entry = model.metadata_props.add()
    entry.key, entry.value = FACTS, json.dumps(facts)
    return model.SerializeToString()


def _session(path: Path) -> Any:
    onnxruntime = import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        path.read_bytes(), options, providers=["CPUExecutionProvider"]
    )

    def run(window: Tensor) -> Tensor:
        (logits,) = session.run([OUTPUT], {INPUT: window.numpy()})
        return torch.from_numpy(logits)

    return run


def _refuse_without_packages() -> None:
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise InputFault(
            f"ONNX needs {', '.join(missing)}: pip install 'medseg[export]'.", code="E_EXTRA"
        )
