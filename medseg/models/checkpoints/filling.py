"""A network filled from a checkpoint, strict on both sides: all of it, or nothing."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from medseg.fault import all_at_once

# A pattern of a name, and what takes its place; rules are applied one after the other.
Rule = tuple[str, str | Callable[[re.Match[str]], str]]


@dataclass(frozen=True)
class Loaded:
    """What became of a state: tensors loaded, index buffers compared, names left out."""

    tensors: int
    indices: int = 0
    left_out: tuple[str, ...] = ()


def tensors_of(state: Mapping[str, object]) -> dict[str, Tensor]:
    """The tensors by their names, also from inside {"state_dict": ...}, without "module.".

    Raises:
        InputFault: E_CHECKPOINT where there is no table of tensors.
    """
    for key in ("state_dict", "network_weights", "model"):
        inner = state.get(key)
        if isinstance(inner, Mapping):
            state = inner
            break
    tensors = {
        name.removeprefix("module."): value
        for name, value in state.items()
        if isinstance(value, Tensor)
    }
    if len(tensors) < len(state) or not tensors:
        raise all_at_once(
            [
                f"{name}: {type(value).__name__}"
                for name, value in state.items()
                if not isinstance(value, Tensor)
            ],
            summary="The checkpoint holds no table of tensors, nor one under 'state_dict':",
            code="E_CHECKPOINT",
        )
    return tensors


def our_name(name: str, rules: Sequence[Rule]) -> str:
    """A checkpoint's name of a tensor in the network's words."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def renamed(tensors: Mapping[str, Tensor], rules: Sequence[Rule]) -> dict[str, Tensor]:
    """The tensors by the network's names.

    Raises:
        InputFault: E_CHECKPOINT where two of them come to have one name.
    """
    named = [(our_name(name, rules), tensor) for name, tensor in tensors.items()]
    result = dict(named)
    twice = [f"{name} is given twice" for name, tensor in named if result[name] is not tensor]
    if twice:
        raise all_at_once(twice, summary="The checkpoint is ambiguous:", code="E_CHECKPOINT")
    return result


def fill(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    wanted: Collection[str] | None = None,
    left_out: tuple[str, ...] = (),
    faults: Collection[str] = (),
) -> Loaded:
    """Load `tensors`, named as the network names them, into `model`.

    Every tensor of either side has its partner of the same shape, or nothing is loaded. `wanted`
    are the names of the network that the checkpoint is to fill (all of them), `left_out` the
    checkpoint's names that were put aside on purpose, `faults` what the caller found wrong beside.

    Raises:
        InputFault: E_CHECKPOINT with all names that are missing, unknown or of another shape.
    """
    own = model.state_dict()
    wanted = set(own if wanted is None else wanted)
    found = [f"{name}: missing" for name in own if name in wanted and name not in tensors]
    found += [f"{name}: not part of this network" for name in tensors if name not in wanted]
    found += [
        f"{name}: shape {tuple(tensors[name].shape)}, this network has {tuple(own[name].shape)}"
        for name in own
        if name in wanted and name in tensors and tensors[name].shape != own[name].shape
    ]
    found += faults
    if found:
        matching = sum(name in tensors for name in wanted)
        raise all_at_once(
            found,
            summary=(
                f"The checkpoint is of another network: {matching} of {len(wanted)} tensors have a "
                "partner, and nothing was loaded. Build the network with the settings that the "
                "checkpoint was trained with:"
            ),
            code="E_CHECKPOINT",
        )
    model.load_state_dict(dict(tensors), strict=len(wanted) == len(own))
    return Loaded(len(tensors), left_out=left_out)
