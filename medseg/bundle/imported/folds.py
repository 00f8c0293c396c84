"""Several bundles of one recipe, trained on other cases each, become one that averages them."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg.bundle.bundle import Bundle, load_bundle, save_bundle
from medseg.bundle.manifest import PREVIOUS, read_manifest
from medseg.fault import InputFault
from medseg.io.dicom.channels import rules_from_json

SHOWN = 3


def import_folds(folders: Sequence[Path], bundle: Path, *, trust_code: bool = False) -> Bundle:
    """Write the bundle of the networks in `folders`, whole or not at all, and return it.

    Recipe, DICOM rules and first stage are those of the first one.

    Raises:
        InputFault: fewer than two bundles, or one twice (E_FOLD), one that cannot be loaded, or
            bundles that differ in what a prediction depends on (E_FOLD).
    """
    if len(folders) < 2:
        raise InputFault(
            f"{len(folders)} bundle given; an ensemble is made of two or more.", code="E_FOLD"
        )
    loaded = [load_bundle(folder, trust_code=trust_code) for folder in folders]
    manifests = [read_manifest(folder) for folder in folders]
    _refuse_copies(folders, loaded)
    for folder, manifest in zip(folders[1:], manifests[1:], strict=True):
        _refuse_other(folders[0], manifests[0], folder, manifest)
    first, manifest = loaded[0], manifests[0]
    models = [model for one in loaded for model in one.models]
    save_bundle(
        bundle,
        model=models[0],
        folds=models[1:],
        previous=folders[0] / PREVIOUS if first.previous else None,
        recipe=first.recipe,
        task=first.task,
        preprocessing=first.preprocessing,
        training={"folds": [dict(one.training) for one in loaded]},
        channel_rules=rules_from_json(manifest.get("dicom", {})),
        postprocess=first.postprocess,
    )
    return load_bundle(bundle, verify=False, trust_code=trust_code)


def _refuse_copies(folders: Sequence[Path], loaded: Sequence[Bundle]) -> None:
    seen: dict[str, Path] = {}
    for folder, one in zip(folders, loaded, strict=True):
        if one.sha256 in seen:
            raise InputFault(
                f"{folder}: its weights are those of {seen[one.sha256]}; give each fold once.",
                code="E_FOLD",
            )
        seen[one.sha256] = folder


# What a prediction depends on; names and numbers of the training may differ.
PARTS: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "network": lambda manifest: manifest["recipe"].get("model"),
    "prediction": lambda manifest: manifest["recipe"].get("predict"),
    "task": lambda manifest: manifest["task"],
    "preprocessing": lambda manifest: manifest["preprocessing"],
    "first stage": lambda manifest: [
        sha256 for name, sha256 in manifest["files"].items() if name.startswith(PREVIOUS)
    ],
    "postprocessing": lambda manifest: manifest.get("postprocess"),
}


def _refuse_other(
    first: Path, theirs: Mapping[str, Any], folder: Path, ours: Mapping[str, Any]
) -> None:
    for name, part in PARTS.items():
        one, other = _leaves(part(theirs)), _leaves(part(ours))
        apart = [key for key in sorted(one.keys() | other.keys()) if one.get(key) != other.get(key)]
        if apart:
            told = "; ".join(
                f"{key or name} {other.get(key, 'none')} against {one.get(key, 'none')}"
                for key in apart[:SHOWN]
            )
            raise InputFault(
                f"{folder}: its {name} is not that of {first} ({told}); an ensemble averages "
                "networks that were trained by one recipe on the same plan.",
                code="E_FOLD",
            )


def _leaves(value: Any, path: str = "") -> dict[str, str]:
    """Each plain value within, by its path."""
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list) and any(isinstance(one, (Mapping, list)) for one in value):
        items = enumerate(value)
    else:
        return {path: json.dumps(value)}
    found: dict[str, str] = {}
    for key, one in items:
        found.update(_leaves(one, f"{path}.{key}" if path else str(key)))
    return found
