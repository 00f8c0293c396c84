"""Which files of an nnU-Net v2 results folder make a model: configuration, folds, checkpoints."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from medseg.fault import InputFault

Which = Literal["final", "best"]
PLANS, DATASET = "plans.json", "dataset.json"


@dataclass(frozen=True)
class ModelFolder:
    """One trained configuration: `folder` is `TRAINER__PLANS__CONFIGURATION`."""

    folder: Path
    folds: tuple[str, ...]
    which: Which

    @property
    def plans(self) -> dict[str, Any]:
        """plans.json."""
        return read_json(self.folder / PLANS)

    @property
    def dataset(self) -> dict[str, Any]:
        """dataset.json."""
        return read_json(self.folder / DATASET)

    @property
    def checkpoints(self) -> tuple[Path, ...]:
        """The checkpoint of each fold."""
        return tuple(_checkpoint(self.folder, fold, self.which) for fold in self.folds)

    def sibling(self, configuration: str) -> "ModelFolder":
        """The same trainer's and plans' model of another configuration, beside this one.

        Raises:
            InputFault: it is not there (E_CASCADE).
        """
        trainer_and_plans = self.folder.resolve().name.rpartition("__")[0]
        beside = self.folder.resolve().with_name(f"{trainer_and_plans}__{configuration}")
        if not (beside / PLANS).is_file():
            raise InputFault(
                f"{self.folder}: it is a cascade's second stage and needs the first one, which is "
                f"expected in {beside}; copy that folder there.",
                code="E_CASCADE",
            )
        found = available_folds(beside, self.which)
        # The first stage is trained on the same folds; one of all cases serves where they differ.
        folds = tuple(fold for fold in self.folds if fold in found) or _usual(found)
        if not folds:
            raise _no_checkpoint(beside, self.which)
        return ModelFolder(beside, folds, self.which)


def found_model(
    path: Path, *, configuration: str | None, folds: Sequence[str], which: Which
) -> ModelFolder:
    """The model in `path`, a model's folder or the results folder of one data set above it.

    Without `folds` all numbered ones that have the checkpoint are taken, else `fold_all`.

    Raises:
        InputFault: there is none (E_NNUNET), several (E_CONFIGURATION), or a fold is not there
            (E_FOLD).
    """
    folder = _model_folder(path, configuration)
    found = available_folds(folder, which)
    missing = [fold for fold in folds if fold not in found]
    if missing:
        raise InputFault(
            f"{folder}: fold {', '.join(missing)} has no checkpoint_{which}.pth; there are "
            f"{', '.join(found) or 'none'}.",
            code="E_FOLD",
        )
    chosen = tuple(folds) or _usual(found)
    if not chosen:
        raise _no_checkpoint(folder, which)
    return ModelFolder(folder, chosen, which)


def available_folds(folder: Path, which: Which) -> tuple[str, ...]:
    """The names of the folds that have this checkpoint: numbers in their order, then `all`."""
    names = [
        one.name.removeprefix("fold_")
        for one in folder.glob("fold_*")
        if _checkpoint(folder, one.name.removeprefix("fold_"), which).is_file()
    ]
    numbers = sorted((name for name in names if name.isdecimal()), key=int)
    return (*numbers, *(name for name in names if name == "all"))


def read_json(path: Path) -> dict[str, Any]:
    """A file of JSON that holds a mapping.

    Raises:
        InputFault: it is missing or something else (E_NNUNET).
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputFault(
            f"{path}: it cannot be read ({error}); nnU-Net writes it beside its folds, copy it "
            "from there.",
            code="E_NNUNET",
        ) from error
    if not isinstance(content, dict):
        raise InputFault(f"{path}: it holds no mapping; copy it again.", code="E_NNUNET")
    return content


def _model_folder(path: Path, configuration: str | None) -> Path:
    if (path / PLANS).is_file() and any(path.glob("fold_*")):
        return path
    models = sorted(one.parent for one in path.glob(f"*__*__*/{PLANS}"))
    if configuration is not None:
        named = [one for one in models if configuration in (one.name, one.name.split("__")[-1])]
    else:
        named = models
    if len(named) == 1:
        return named[0]
    if not models:
        raise InputFault(
            f"{path}: it is no trained nnU-Net v2 model; that is a folder "
            "TRAINER__PLANS__CONFIGURATION with plans.json, dataset.json and fold_0, ..., or the "
            "data set's folder above it.",
            code="E_NNUNET",
        )
    there = ", ".join(one.name for one in models)
    asked = f" and {configuration} names {len(named)} of them" if configuration else ""
    raise InputFault(
        f"{path}: it holds {len(models)} models ({there}){asked}; choose one with --configuration.",
        code="E_CONFIGURATION",
    )


def _usual(found: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(fold for fold in found if fold != "all") or found


def _checkpoint(folder: Path, fold: str, which: Which) -> Path:
    return folder / f"fold_{fold}" / f"checkpoint_{which}.pth"


def _no_checkpoint(folder: Path, which: Which) -> InputFault:
    return InputFault(
        f"{folder}: no fold has a checkpoint_{which}.pth; the training did not end "
        "(--checkpoint best takes the best one so far), or it was not copied.",
        code="E_FOLD",
    )
