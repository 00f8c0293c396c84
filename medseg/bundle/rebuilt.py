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
from medseg.recipe.models import ModelSection
from medseg.recipe.parts import PredictSection
from medseg.volume import Task


def build_model(recipe: Mapping[str, Any], task: Task) -> nn.Module:
    """The network of the recipe's model section, with fresh weights.

    Raises:
        InputFault: this version of medseg has no such network or setting (E_BUNDLE).
    """
    return _section(TypeAdapter(ModelSection), recipe, "model").build(task)


def predict_settings(recipe: Mapping[str, Any]) -> PredictSection:
    """How the recipe says that its network predicts."""
    return _section(TypeAdapter(PredictSection), {"predict": {}, **recipe}, "predict")


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
