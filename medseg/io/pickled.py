"""The one module that reads a pickle, and only as tensors and plain values."""

import hashlib
import pickle
from pathlib import Path
from typing import Any

import torch

from medseg.fault import InputFault


def load_pickled(path: Path) -> dict[str, Any]:
    """The dictionary of tensors and plain values in a torch file, on the CPU.

    Beside it `<name>.sha256` is checked where it exists. No code in the file is run.

    Raises:
        InputFault: missing, changed since it was written (E_SHA256), or no such file (E_PICKLE).
    """
    expected = checksum_path(path)
    if expected.is_file() and expected.read_text().split()[:1] != [file_sha256(path)]:
        raise InputFault(
            f"{path}: its sha256 is not the one in {expected.name}; it was changed or damaged "
            "after it was written.",
            code="E_SHA256",
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251
    except FileNotFoundError as error:
        raise InputFault(f"{path}: there is no such file.", code="E_NOTFILE") from error
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError) as error:
        raise InputFault(
            f"{path}: it is damaged or no file of tensors ({str(error).splitlines()[0][:100]}).",
            code="E_PICKLE",
        ) from error
    if not isinstance(content, dict):
        raise InputFault(
            f"{path}: it holds a {type(content).__name__}, no dictionary.", code="E_PICKLE"
        )
    return content


def checksum_path(path: Path) -> Path:
    """Where the sha256 of `path` stands."""
    return path.with_name(f"{path.name}.sha256")


def file_sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal.

    Raises:
        InputFault: there is no such file (E_NOTFILE).
    """
    try:
        with path.open("rb") as source:
            return hashlib.file_digest(source, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise InputFault(f"{path}: there is no such file.", code="E_NOTFILE") from error
