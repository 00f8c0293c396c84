"""The one module that reads and writes a pickle, and only of tensors and plain values."""

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
        reason = str(error).partition("\n")[0][:100] or type(error).__name__
        raise InputFault(
            f"{path}: it is damaged or no file of tensors ({reason}).",
            code="E_PICKLE",
        ) from error
    if not isinstance(content, dict):
        raise InputFault(
            f"{path}: it holds a {type(content).__name__}, no dictionary.", code="E_PICKLE"
        )
    return content


def write_pickled(path: Path, content: dict[str, Any]) -> None:
    """Write `content` as a torch file; what the system refuses is raised as its OSError."""
    try:
        with path.open("wb") as file:
            torch.save(content, file)
    except RuntimeError as error:
        # torch closes its archive even so, and that fault hides the one of a full disk.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from error
        raise


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
