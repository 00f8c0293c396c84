"""What a bundle's recipe says about network and prediction, without the data set it names.

The rest of the recipe is kept for the reader: a card or folder of the machine that trained need
not exist on the one that predicts.
"""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError
from torch import nn

from medseg.fault import InputFault
from medseg.inference.settings import WalkSettings
from medseg.models.planned_unet import planned_unet
from medseg.nn.kernels import Kernels, choose_kernels
from medseg.recipe.models import ModelSection
from medseg.recipe.parts import PredictSection
from medseg.volume import Task

IMPORTED = "nnunet_plan"


def build_model(recipe: Mapping[str, Any], task: Task) -> nn.Module:
    """The network of the recipe's model section, with fresh weights.

    Raises:
        InputFault: this version of medseg has no such network or setting (E_BUNDLE).
    """
    if is_nnunets(recipe):
        return _nnunets(recipe["model"], task)
    network = _section(TypeAdapter(ModelSection), recipe, "model").build(task)
    choose_kernels(
        network, _section(TypeAdapter(Kernels), {"kernels": "fast", **recipe}, "kernels")
    )
    return network


def walk_settings(recipe: Mapping[str, Any]) -> WalkSettings:
    """How the recipe says that its network is walked; one of nnU-Net's by nnU-Net's windows.

    nnU-Net mirrors in training without a change of left and right, so there is none here.
    """
    said = _section(TypeAdapter(PredictSection), {"predict": {}, **recipe}, "predict")
    theirs = is_nnunets(recipe)
    return WalkSettings(
        overlap=said.overlap,
        mirror_axes=said.mirror_axes,
        batch_size=said.batch_size,
        windows="nnunet" if theirs else "monai",
        swap_sides=not theirs,
    )


def is_nnunets(recipe: Mapping[str, Any]) -> bool:
    """Whether the network was imported from nnU-Net, not trained from a recipe."""
    model = recipe.get("model")
    return isinstance(model, Mapping) and model.get("name") == IMPORTED


def _nnunets(section: Mapping[str, Any], task: Task) -> nn.Module:
    try:
        return planned_unet(
            architecture=section["architecture"],
            arguments=section["arguments"],
            in_channels=task.in_channels,
            out_channels=task.out_channels,
        )
    except (KeyError, TypeError) as error:
        raise InputFault(
            f"the bundle's model section is not one of this medseg ({error!r}); use the version "
            "that wrote it.",
            code="E_BUNDLE",
        ) from error


def _section(adapter: TypeAdapter, recipe: Mapping[str, Any], name: str) -> Any:
    try:
        return adapter.validate_json(json.dumps(recipe.get(name)))
    except ValidationError as error:
        told = "; ".join(
            f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}"
            for fault in error.errors()
        )
        raise InputFault(
            f"the bundle's {name} section is not one of this medseg ({told}); use the version "
            "that wrote it.",
            code="E_BUNDLE",
        ) from error
