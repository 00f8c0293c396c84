"""The bundle: a folder with `weights.safetensors`, `bundle.json` and `labels.csv`.

It holds all that prediction needs: resolved recipe, task, preprocessing, label table, the sha256 of
each file, and a self-test. An ensemble has the weights of its other folds beside the first ones, a
cascade its first stage as a bundle within. Nothing in it is code; a network of the user's own is
imported only where the caller says so.
"""

import copy
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medseg.bundle.manifest import (
    LABELS,
    MANIFEST,
    PREVIOUS,
    WEIGHTS,
    aside,
    read_manifest,
    sealed,
    versions,
    weights_name,
)
from medseg.bundle.rebuilt import build_model, walk_settings
from medseg.bundle.self_test import refuse_other_logits, run_self_test, shape_policy_of
from medseg.bundle.weights import load_weights, save_weights
from medseg.fault import InputFault
from medseg.inference.postprocess import Rule, refuse_rules
from medseg.inference.postprocess import rules_from_json as postprocess_from_json
from medseg.inference.postprocess import rules_to_json as postprocess_to_json
from medseg.inference.predictor import Predictor, refuse_nonfinite_weights
from medseg.inference.settings import WalkSettings
from medseg.io.atomic import write_json, write_text
from medseg.io.dicom.channels import ChannelRules, rules_to_json
from medseg.io.pickled import file_sha256
from medseg.preprocess.record import Preprocessing
from medseg.recipe.recipe import Recipe
from medseg.volume import Task

Build = Callable[[Mapping[str, Any], Task], nn.Module]


@dataclass(frozen=True, eq=False)
class Bundle:
    """A loaded bundle: networks with their weights, and what they were trained for and how.

    Several `models` are folds of one recipe, averaged in prediction; the labels of `previous`, a
    cascade's first stage, are channels of theirs. `recipe` is the resolved recipe as plain values,
    `training` the facts of the run, `sha256` that of the weights. `postprocess` are the rules that
    label maps go through.
    """

    folder: Path
    models: tuple[nn.Module, ...]
    recipe: Mapping[str, Any]
    task: Task
    preprocessing: Preprocessing
    training: Mapping[str, Any]
    versions: Mapping[str, str]
    sha256: str
    previous: "Bundle | None" = None
    postprocess: tuple[Rule, ...] = ()

    def walk_settings(self) -> WalkSettings:
        """How the recipe says that the network is walked over a volume."""
        return walk_settings(self.recipe)

    def predictor(
        self,
        *,
        device: torch.device | str = "cpu",
        settings: WalkSettings | None = None,
    ) -> Predictor:
        """A predictor on `device`; without `settings` it is as the recipe says.

        A first stage is walked with the same settings, but mirrored along its own axes.
        """
        settings = settings or self.walk_settings()
        previous = None
        if self.previous is not None:
            own = self.previous.walk_settings()
            axes = own.mirror_axes if settings.mirror_axes else ()
            previous = self.previous.predictor(
                device=device, settings=replace(settings, mirror_axes=axes)
            )
        return Predictor(
            models=self.models,
            task=self.task,
            preprocessing=self.preprocessing,
            settings=settings,
            device=device,
            shape_policy=shape_policy_of(self.models[0]),
            previous=previous,
        )


def save_bundle(
    folder: Path,
    *,
    model: nn.Module,
    recipe: Recipe | Mapping[str, Any],
    task: Task,
    preprocessing: Preprocessing,
    training: Mapping[str, Any],
    channel_rules: ChannelRules | None = None,
    build: Build = build_model,
    folds: Sequence[nn.Module] = (),
    previous: Path | None = None,
    postprocess: Sequence[Rule] = (),
) -> None:
    """Write a bundle to `folder`, whole or not at all; an older one there is replaced.

    It is loaded and tested before it gets its name, so one that is there can be used. `training`
    holds facts of the run (steps, fold, validation Dice), kept as they are; `channel_rules` tell
    which DICOM series is which channel. `folds` are further networks of the recipe, to be averaged
    with `model`; `previous` is the bundle of a cascade's first stage, which is copied into this.
    `postprocess` are the rules that label maps go through.

    Raises:
        InputFault: a weight is not finite (E_WEIGHTS), the recipe does not build this network
            (E_BUNDLE, E_SELFTEST), the folder holds something else (E_EXISTS), or it cannot be
            written (E_DISKFULL, E_WRITE).
    """
    for one in (model, *folds):
        refuse_nonfinite_weights(one)
    _refuse_something_else(folder)
    made = _temporary_beside(folder)
    try:
        on_cpu = _saved(made, model, WEIGHTS)
        further = [_saved(made, one, weights_name(1 + n)) for n, one in enumerate(folds)]
        write_text(made / LABELS, task.target.labels.to_csv())
        names = [weights_name(n) for n in range(1 + len(folds))] + [LABELS]
        if previous is not None:
            shutil.copytree(previous, made / PREVIOUS)
            names.append(f"{PREVIOUS}/{MANIFEST}")
        content = {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": versions(),
            "files": {name: file_sha256(made / name) for name in names},
            "recipe": recipe.resolved() if isinstance(recipe, Recipe) else dict(recipe),
            "task": task.to_json(),
            "preprocessing": preprocessing.to_json(),
            "model": _signature(on_cpu, task),
            "training": dict(training),
            "dicom": rules_to_json(channel_rules or {}),
            "postprocess": postprocess_to_json(postprocess),
            "self_test": run_self_test(on_cpu, task),
            "fold_self_tests": [run_self_test(one, task) for one in further],
        }
        write_json(made / MANIFEST, sealed(content))
        load_bundle(made, trust_code=True, build=build)
        _put_in_place(made, folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def load_bundle(
    folder: Path,
    *,
    verify: bool = True,
    trust_code: bool = False,
    build: Build = build_model,
) -> Bundle:
    """The bundle in `folder`, on the CPU; `verify` runs its self-test.

    `trust_code` allows a `custom` network, whose code is imported from this machine.

    Raises:
        InputFault: a file is missing or changed (E_BUNDLE, E_SHA256), of a newer format
            (E_FORMAT), weights are missing, left over or not finite (E_BUNDLE, E_WEIGHTS), the
            network is code of its own (E_CUSTOM), or computes something else (E_SELFTEST).
    """
    manifest = read_manifest(folder)
    _refuse_changed_files(folder, manifest["files"])
    task, preprocessing = _parts(folder, manifest)
    recipe = manifest["recipe"]
    _refuse_code(folder, recipe, trust_code=trust_code)
    self_tests = [manifest["self_test"], *_further_self_tests(folder, manifest)]
    models = []
    for fold, stored in enumerate(self_tests):
        # Building draws initial weights; the caller's random numbers are left as they were.
        with torch.random.fork_rng(devices=[]):
            model = build(recipe, task)
        load_weights(folder / weights_name(fold), model)
        refuse_nonfinite_weights(model)
        model.eval()
        if verify:
            refuse_other_logits(model, task, {**manifest, "self_test": stored}, folder)
        models.append(model)
    return Bundle(
        folder=folder,
        models=tuple(models),
        recipe=recipe,
        task=task,
        preprocessing=preprocessing,
        training=manifest["training"],
        versions=manifest["versions"],
        sha256=_weights_sha256(manifest["files"], len(models)),
        previous=_previous(folder, manifest, task, verify=verify, trust_code=trust_code),
        postprocess=_postprocess(folder, manifest, task),
    )


def _postprocess(folder: Path, manifest: Mapping[str, Any], task: Task) -> tuple[Rule, ...]:
    try:
        rules = postprocess_from_json(manifest.get("postprocess", []))
        refuse_rules(rules, task.target.labels)
    except InputFault as fault:
        raise InputFault(f"{folder / MANIFEST}: {fault}", code=fault.code) from fault
    return rules


def _further_self_tests(folder: Path, manifest: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Those of the folds after the first, each of which has a file of weights."""
    told = manifest.get("fold_self_tests", [])
    if not isinstance(told, list) or any(
        not isinstance(one, dict) or weights_name(1 + n) not in manifest["files"]
        for n, one in enumerate(told)
    ):
        raise InputFault(
            f"{folder / MANIFEST}: its folds and their files of weights do not belong together; "
            "copy the bundle again, whole.",
            code="E_BUNDLE",
        )
    return told


def _saved(folder: Path, model: nn.Module, name: str) -> nn.Module:
    """A copy of `model` on the CPU, whose weights are written to `folder / name`."""
    on_cpu = copy.deepcopy(model).cpu().float().eval()
    save_weights(folder / name, on_cpu)
    return on_cpu


def _weights_sha256(files: Mapping[str, str], folds: int) -> str:
    """That of the weights; of several folds that of all theirs, one after another."""
    every = [files[weights_name(fold)] for fold in range(folds)]
    return every[0] if folds == 1 else hashlib.sha256("".join(every).encode()).hexdigest()


def _previous(
    folder: Path, manifest: Mapping[str, Any], task: Task, *, verify: bool, trust_code: bool
) -> Bundle | None:
    """The first stage within, if the manifest has one."""
    if not task.stage_labels:
        return None
    if f"{PREVIOUS}/{MANIFEST}" not in manifest["files"]:
        raise InputFault(
            f"{folder}: it is a cascade's second stage and there is no first one in it; copy the "
            "bundle again, whole.",
            code="E_BUNDLE",
        )
    return load_bundle(folder / PREVIOUS, verify=verify, trust_code=trust_code)


def _signature(model: nn.Module, task: Task) -> dict[str, Any]:
    policy = shape_policy_of(model)
    return {
        "class": f"{type(model).__module__}.{type(model).__qualname__}",
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "input": ["b", task.in_channels, *task.patch_size],
        "output": ["b", task.out_channels, *task.patch_size],
        "side_multiples": list(policy.divisor) if policy else None,
        "smallest_size": list(policy.nearest(policy.minimum)) if policy else None,
    }


def _parts(folder: Path, manifest: Mapping[str, Any]) -> tuple[Task, Preprocessing]:
    try:
        return (
            Task.from_json(manifest["task"]),
            Preprocessing.from_json(manifest["preprocessing"]),
        )
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise InputFault(
            f"{folder / MANIFEST}: task or preprocessing cannot be read ({error!r}); copy the "
            "bundle again.",
            code="E_BUNDLE",
        ) from error


def _refuse_changed_files(folder: Path, files: Mapping[str, str]) -> None:
    for name in dict.fromkeys((WEIGHTS, LABELS, *files)):
        if not (folder / name).is_file():
            raise InputFault(
                f"{folder / name}: it is missing; copy the bundle again, whole.", code="E_BUNDLE"
            )
        if file_sha256(folder / name) != files.get(name):
            raise InputFault(
                f"{folder / name}: it is not the file that {MANIFEST} was written for (sha256 "
                "differs); copy the bundle again, whole.",
                code="E_SHA256",
            )


def _refuse_code(folder: Path, recipe: Mapping[str, Any], *, trust_code: bool) -> None:
    model = recipe.get("model", {})
    if model.get("name") == "custom" and not trust_code:
        raise InputFault(
            f"{folder}: its network is code of somebody's own ({model.get('target')}), which "
            "would be imported and run; allow that (--trust-code) if you know that code.",
            code="E_CUSTOM",
        )


def _refuse_something_else(folder: Path) -> None:
    if folder.exists() and not (folder / MANIFEST).is_file() and _is_filled(folder):
        raise InputFault(
            f"{folder}: there is something here that is no bundle; choose another folder.",
            code="E_EXISTS",
        )


def _is_filled(folder: Path) -> bool:
    return not folder.is_dir() or any(folder.iterdir())


def _temporary_beside(folder: Path) -> Path:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        made.chmod(folder.parent.stat().st_mode & 0o777)
    except OSError as error:
        raise InputFault(
            f"{folder}: cannot be written ({error.strerror or error}); choose another folder.",
            code="E_WRITE",
        ) from error
    return made


def _put_in_place(made: Path, folder: Path) -> None:
    """Rename the finished folder; an older bundle is moved aside first and removed last."""
    old = aside(folder)
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.replace(old)
    try:
        made.replace(folder)
    except OSError:
        if old.exists():
            old.replace(folder)
        raise
    _sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def _sync(folder: Path) -> None:
    """Wait until the names in `folder` are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
