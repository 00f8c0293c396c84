"""Nested plain values with tensors among them, as a folder of JSON and safetensors.

Neither file can hold code, so what a process that is not trusted found can be handed on by them.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

STRUCTURE, TENSORS = "structure.json", "tensors.safetensors"


def save_plain(folder: Path, content: Any) -> None:
    """Write `content` into an empty folder.

    Raises:
        TypeError: a value that is neither plain nor a dense tensor, by its type.
    """
    tensors: dict[str, Tensor] = {}
    structure = _packed(content, tensors)
    save_file(tensors, folder / TENSORS)
    (folder / STRUCTURE).write_text(json.dumps(structure))


def load_plain(folder: Path) -> Any:
    """What `save_plain` wrote: equal values of the same types; tensors share no memory."""
    tensors = load_file(folder / TENSORS)
    return _unpacked(json.loads((folder / STRUCTURE).read_text()), tensors)


def _packed(value: Any, tensors: dict[str, Tensor]) -> Any:
    """A value as JSON: numbers, text and None as they are, all else as [kind, what it holds]."""
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized:
        name = str(len(tensors))
        tensors[name] = value.detach().clone(memory_format=torch.contiguous_format)
        return ["tensor", name]
    if isinstance(value, dict):
        return ["dict", [[_packed(k, tensors), _packed(v, tensors)] for k, v in value.items()]]
    if kind in (list, tuple, set, torch.Size):
        return [kind.__name__, [_packed(part, tensors) for part in value]]
    if isinstance(value, bytes):
        return ["bytes", value.hex()]
    if kind is torch.dtype:
        return ["dtype", str(value).removeprefix("torch.")]
    raise TypeError(f"a {kind.__name__} is neither a plain value nor a tensor")


def _unpacked(value: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(value, list):
        return value
    kind, held = value
    if kind == "tensor":
        return tensors[held]
    if kind == "dict":
        return {_unpacked(k, tensors): _unpacked(v, tensors) for k, v in held}
    if kind in COLLECTIONS:
        return COLLECTIONS[kind](_unpacked(part, tensors) for part in held)
    return SCALARS[kind](held)


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name)
    assert isinstance(found, torch.dtype)
    return found


COLLECTIONS: dict[str, Callable[..., Any]] = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "Size": lambda parts: torch.Size(list(parts)),
}
SCALARS: dict[str, Callable[[str], Any]] = {"bytes": bytes.fromhex, "dtype": _dtype}
