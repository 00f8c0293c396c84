"""`bundle.json`: what stands in it, and how it is read without trust."""

import hashlib
import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from medseg.fault import InputFault

FORMAT = 1
WEIGHTS, MANIFEST, LABELS = "weights.safetensors", "bundle.json", "labels.csv"
# A cascade's first stage: a bundle of its own within.
PREVIOUS = "previous"
KEYS = (
    "versions",
    "files",
    "recipe",
    "task",
    "preprocessing",
    "model",
    "training",
    "self_test",
)
PACKAGES = ("medseg", "torch", "monai", "dynamic-network-architectures", "numpy", "scipy")


def weights_name(fold: int) -> str:
    """The file of the weights of a fold, counted from 0."""
    return f"weights_{fold}.safetensors" if fold else WEIGHTS


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """`content` as plain JSON values with its format, and a digest of it all.

    Numbers that are not finite become null: JSON has none.
    """
    plain = json.loads(json.dumps({"format": FORMAT, **content}), parse_constant=lambda _name: None)
    return {**plain, "digest": _digest(plain)}


def read_manifest(folder: Path) -> dict[str, Any]:
    """The contents of `bundle.json`.

    Raises:
        InputFault: `folder` is no bundle, or one of another format, incomplete or changed
            (E_BUNDLE).
    """
    manifest = _read(folder)
    place = folder / MANIFEST
    found = manifest.get("format")
    if found != FORMAT:
        newer = isinstance(found, int) and found > FORMAT
        raise InputFault(
            f"{place}: it has format {found!r} and this medseg reads format {FORMAT}; "
            f"{'update medseg' if newer else 'it was not written by medseg, or was edited'}.",
            code="E_FORMAT",
        )
    missing = [key for key in KEYS if not isinstance(manifest.get(key), dict)]
    if missing:
        raise InputFault(
            f"{place}: {', '.join(missing)} missing; copy the bundle again.", code="E_BUNDLE"
        )
    stored = manifest.pop("digest", None)
    if stored != _digest(manifest):
        raise InputFault(
            f"{place}: it was changed after it was written (its digest differs); copy the bundle "
            "again, whole.",
            code="E_SHA256",
        )
    return manifest


def _read(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputFault(
            f"{folder}: it is no bundle (there is no {MANIFEST} in it); a run writes one to "
            f"runs/NAME/fold_N/bundle.{_left_aside(folder)}",
            code="E_BUNDLE",
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputFault(
            f"{path}: it is no JSON ({error}); copy the bundle again.", code="E_BUNDLE"
        ) from error
    if not isinstance(manifest, dict):
        raise InputFault(f"{path}: it is no mapping; copy the bundle again.", code="E_BUNDLE")
    return manifest


def aside(folder: Path) -> Path:
    """Where an older bundle lies while a new one takes its place."""
    return folder.with_name(f".{folder.name}.old")


def _left_aside(folder: Path) -> str:
    old = aside(folder)
    return f" An older one was moved to {old} when saving was cut off." if old.is_dir() else ""


def _digest(manifest: Mapping[str, Any]) -> str:
    canonical = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
