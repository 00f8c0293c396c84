"""Where the recipes and data set cards lie that come with medseg.

A wheel carries them inside the package; an editable install leaves them at the top of the checkout.
"""

from pathlib import Path
from typing import Literal

from medseg.fault import InputFault

Kind = Literal["recipes", "datasets"]


def shipped_folder(kind: Kind) -> Path:
    """The folder of the shipped `kind`, in a wheel and in a checkout alike."""
    package = Path(__file__).resolve().parent
    for folder in (package / "_shipped" / kind, package.parent / kind):
        if folder.is_dir():
            return folder
    raise InputFault(
        f"{package}: the shipped {kind} are missing from this installation; install medseg again.",
        code="E_INSTALL",
    )


def shipped_files(kind: Kind) -> list[Path]:
    """Every shipped YAML file of `kind`, sorted by name."""
    return sorted(shipped_folder(kind).rglob("*.yaml"))
