"""A trained nnU-Net v2 folder becomes a bundle that gives nnUNetv2_predict's labels.

nnU-Net: Isensee et al., Nature Methods 2021; the rules are those of nnunetv2 2.8.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.bundle.bundle import save_bundle
from medseg.bundle.imported.nnunet_folder import ModelFolder, Which, found_model
from medseg.bundle.imported.nnunet_plan import NnUNetPlan, plan_of
from medseg.fault import InputFault
from medseg.io.pickled import load_pickled
from medseg.models.planned_unet import (
    PlannedUNet,
    load_nnunet_weights,
    planned_unet,
    trained_with_batch_norm,
)
from medseg.progress import Listener, Progress, silent

# nnU-Net's own tile_step_size.
OVERLAP = 0.5
WEIGHTS, CONFIGURATION, TRAINER = "network_weights", "init_args.configuration", "trainer_name"
MIRRORING = "inference_allowed_mirroring_axes"
NAME_LENGTH = 100


@dataclass(frozen=True)
class Imported:
    """What became a bundle: the folds of a configuration, and of its first stage, if any."""

    bundle: Path
    model: ModelFolder
    configuration: str
    previous: "Imported | None" = None


@dataclass(frozen=True, eq=False)
class _Trained:
    """The checkpoints of one configuration."""

    weights: tuple[Mapping[str, Any], ...]
    configuration: str
    trainer: str
    mirroring: tuple[int, ...]


def import_nnunet(
    path: Path,
    bundle: Path,
    *,
    configuration: str | None = None,
    folds: Sequence[str] = (),
    which: Which = "final",
    listener: Listener = silent,
) -> Imported:
    """Write the bundle of the model in `path`, whole or not at all.

    A cascade's second stage brings its first one, which is looked for beside it, along.

    Raises:
        InputFault: no such model or fold (E_NNUNET, E_CONFIGURATION, E_FOLD, E_CASCADE), a file
            that is no checkpoint (E_PICKLE), plans that medseg has no equal for (E_PLANS), weights
            of another network (E_WEIGHTS), or a bundle that cannot be written.
    """
    model = found_model(path, configuration=configuration, folds=folds, which=which)
    return _import_model(model, bundle, listener=listener)


def _import_model(model: ModelFolder, bundle: Path, *, listener: Listener) -> Imported:
    trained = _read(model, listener)
    plans, dataset = model.plans, model.dataset
    plan = plan_of(plans, dataset, trained.configuration)
    section = plan.model_section(batch_norm=trained_with_batch_norm(trained.weights[0]))
    networks = [_network(section, plan, state) for state in trained.weights]
    recipe = {
        "name": _name(plans, plan),
        "model": section,
        "predict": {
            "overlap": OVERLAP,
            "mirror_axes": plan.model_axes(trained.mirroring),
            "batch_size": 1,
        },
    }
    training = {
        "imported_from": "nnunet",
        "trainer": trained.trainer,
        "plans": str(plans.get("plans_name", "")),
        "configuration": plan.configuration,
        "checkpoint": model.which,
        "folds": list(model.folds),
    }
    previous = None
    with tempfile.TemporaryDirectory(prefix="medseg-") as name:
        if plan.previous:
            first = model.sibling(plan.previous)
            previous = _import_model(first, Path(name) / "previous", listener=listener)
        save_bundle(
            bundle,
            model=networks[0],
            folds=networks[1:],
            previous=previous and previous.bundle,
            recipe=recipe,
            task=plan.task,
            preprocessing=plan.preprocessing,
            training=training,
        )
    return Imported(bundle, model, plan.configuration, previous)


def _read(model: ModelFolder, listener: Listener) -> _Trained:
    """The checkpoints; the first one tells configuration and mirroring, as in nnU-Net."""
    read = []
    for number, path in enumerate(model.checkpoints):
        read.append(load_pickled(path, keys=(WEIGHTS, CONFIGURATION, TRAINER, MIRRORING)))
        listener(Progress("folds", number + 1, len(model.checkpoints)))
    for path, one in zip(model.checkpoints, read, strict=True):
        _refuse_strange(path, one)
    first = read[0]
    return _Trained(
        weights=tuple(one[WEIGHTS] for one in read),
        configuration=str(first[CONFIGURATION]),
        trainer=str(first[TRAINER]),
        mirroring=tuple(first.get(MIRRORING) or ()),
    )


def _refuse_strange(path: Path, checkpoint: Mapping[str, Any]) -> None:
    kinds = {WEIGHTS: dict, CONFIGURATION: str, TRAINER: str, MIRRORING: (tuple, list, type(None))}
    strange = [key for key, kind in kinds.items() if not isinstance(checkpoint.get(key), kind)]
    mirroring = checkpoint.get(MIRRORING) or ()
    if not strange and not all(axis in (0, 1, 2) for axis in mirroring):
        strange = [MIRRORING]
    if strange:
        raise InputFault(
            f"{path}: its {', '.join(strange)} is missing or strange; it is no checkpoint of "
            "nnU-Net v2.",
            code="E_NNUNET",
        )


def _network(section: Mapping[str, Any], plan: NnUNetPlan, state: Mapping[str, Any]) -> PlannedUNet:
    network = planned_unet(
        architecture=section["architecture"],
        arguments=section["arguments"],
        in_channels=plan.task.in_channels,
        out_channels=plan.task.out_channels,
    )
    load_nnunet_weights(network, state)
    return network


def _name(plans: Mapping[str, Any], plan: NnUNetPlan) -> str:
    told = f"{plans.get('dataset_name', 'nnunet')}_{plan.configuration}"
    kept = "".join(one if one.isalnum() and one.isascii() else "_" for one in told)
    return kept[:NAME_LENGTH]
