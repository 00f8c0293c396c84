"""A file of somebody else's weights: torch's or safetensors'."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from medseg.fault import InputFault
from medseg.io.pickled import load_pickled

SAFE = ".safetensors"


def load_checkpoint_file(path: Path) -> dict[str, Any]:
    """The dictionary of tensors and plain values in it; no code in the file is run.

    Raises:
        InputFault: missing (E_NOTFILE), no such file (E_PICKLE) or a damaged one (E_CHECKPOINT).
    """
    if not path.is_file():
        raise InputFault(f"{path}: there is no such file.", code="E_NOTFILE")
    if path.suffix != SAFE:
        return load_pickled(path)
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise InputFault(
            f"{path}: it cannot be read ({error}); copy it again, whole.", code="E_CHECKPOINT"
        ) from error
