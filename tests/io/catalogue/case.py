"""One input of the catalogue, and what a reader makes of it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from tests.io.catalogue.phantom import Truth
from tests.io.catalogued import READ

Kind = Literal["image", "labels", "pair"]
TOLERANCE_MM = 1e-3


@dataclass(frozen=True, eq=False)
class Case:
    """An input: how it is made in an empty folder, and how reading it must end.

    `expected` is READ or the code of the refusal. `truth` is what the file was made of before it
    was damaged; None where nothing that comes of it can be right. `channels` are those asked for.
    A pair is an image and its labels. `files` are those that are read together.
    """

    name: str
    expected: str
    build: Callable[[Path], tuple[Path, ...]]
    truth: Truth | None = None
    kind: Kind = "image"
    channels: int = 1
    files: int = 1


def told(
    case: Case, found: Truth, *, relative: float = 0.0, tolerance_mm: float = TOLERANCE_MM
) -> str:
    """READ where `found` is the truth, else in what it is wrong."""
    if case.truth is None:
        return "wrong: it gave voxels"
    if found.array.shape != case.truth.array.shape:
        return f"wrong: shape {found.array.shape}"
    true = case.truth.array.astype(found.array.dtype)
    if not np.allclose(found.array, true, rtol=relative, atol=0, equal_nan=True):
        return "wrong: voxels"
    corners = np.array([[a, b, c, 1] for a in (0, 1) for b in (0, 1) for c in (0, 1)], float)
    corners[:, :3] *= np.asarray(found.array.shape[1:]) - 1
    apart_mm = np.abs(corners @ (found.affine - case.truth.affine).T).max()
    return READ if apart_mm < tolerance_mm else f"wrong: {apart_mm:.3g} mm off"
