"""The weights of a network as a safetensors file: every tensor once, and read back strictly."""

import errno
import re
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from medseg.fault import InputFault
from medseg.io.atomic import atomic_path

SHOWN = 6


def save_weights(path: Path, model: nn.Module) -> None:
    """Write the weights; a tensor that has several names in the network is written under one.

    Raises:
        InputFault: the disk is full (E_DISKFULL) or the folder cannot be written (E_WRITE).
    """
    state = model.state_dict()
    kept = {
        name: state[name].detach().cpu().contiguous()
        for name, first in first_names(state).items()
        if name == first
    }
    with atomic_path(path) as temporary:
        mode = temporary.stat().st_mode
        try:
            save_file(kept, temporary)
        except SafetensorError as error:
            raise _as_os_error(error) from error
        # safetensors makes a file of its own that nobody else may read.
        temporary.chmod(mode)


def load_weights(path: Path, model: nn.Module) -> None:
    """Load the weights into `model`; each one must be there, fit, and none may be left over.

    Raises:
        InputFault: the file is damaged, or is of another network (E_BUNDLE).
    """
    try:
        found = load_file(path)
    except SafetensorError as error:
        raise InputFault(
            f"{path}: it is damaged ({error}); copy the bundle again, whole.", code="E_BUNDLE"
        ) from error
    state = model.state_dict()
    first = first_names(state)
    _refuse_others(path, {name: state[name] for name in first.values()}, found)
    model.load_state_dict({name: found[origin] for name, origin in first.items()}, strict=True)


def first_names(state: dict[str, Tensor]) -> dict[str, str]:
    """For each name the first one of the same tensor.

    nnU-Net's networks, for one, hold each convolution under two names and the encoder twice.
    """
    seen: dict[object, str] = {}
    first = {}
    for name, tensor in state.items():
        place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        key = place if tensor.numel() else name
        first[name] = seen.setdefault(key, name)
    return first


def _refuse_others(path: Path, wanted: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    faults = {
        "missing": [name for name in wanted if name not in found],
        "left over": [name for name in found if name not in wanted],
        "of another shape": [
            f"{name} {tuple(found[name].shape)} for {tuple(wanted[name].shape)}"
            for name in wanted
            if name in found and found[name].shape != wanted[name].shape
        ],
    }
    told = [f"{len(names)} {what} ({_listed(names)})" for what, names in faults.items() if names]
    if told:
        raise InputFault(
            f"{path}: these are not the weights of the network that the bundle's recipe builds: "
            f"{'; '.join(told)}. The bundle was put together from two, or another version of the "
            "network is installed here.",
            code="E_BUNDLE",
        )


def _listed(names: list[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _as_os_error(error: SafetensorError) -> OSError:
    # safetensors tells of a full disk in words alone.
    number = re.search(r"os error (\d+)", str(error))
    return OSError(int(number.group(1)) if number else errno.EIO, str(error))
