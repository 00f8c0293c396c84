"""The recipe: its sections, the rules between them, and its YAML form."""

import json
from typing import Annotated, Any, Self

import yaml
from pydantic import Field, model_validator

from medseg.data.card import Card, load_card
from medseg.fault import InputFault
from medseg.recipe.models import ModelSection
from medseg.recipe.parts import (
    AugmentSection,
    DataSection,
    LossSection,
    OptimizerSection,
    PlanSection,
    PredictSection,
    ScheduleSection,
    TrainerSection,
)
from medseg.recipe.section import Section


class Recipe(Section):
    """What to train, on what and how."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$", description="Names the run folder.")]
    data: DataSection
    plan: PlanSection = PlanSection()
    model: ModelSection
    augment: AugmentSection = AugmentSection()
    loss: LossSection
    optimizer: OptimizerSection
    schedule: ScheduleSection
    trainer: TrainerSection = TrainerSection()
    predict: PredictSection = PredictSection()

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> Self:
        try:
            card = load_card(self.data.card)
        except InputFault as fault:
            raise ValueError(f"data.card: {fault}") from fault
        if self.wants_regions and card.layout != "nnunet" and not card.regions:
            raise ValueError(
                f"loss.name: regions are asked for, but the card {card.name} states none; "
                "write `loss: {name: dice_ce}`, or a card with regions"
            )
        if self.data.fold == "fixed" and card.split is None:
            raise ValueError(
                f"data.fold: the card {card.name} has no fixed split; give a number from 0 to "
                f"{self.data.folds - 1}"
            )
        if isinstance(self.data.fold, int) and self.data.fold >= self.data.folds:
            raise ValueError(
                f"data.fold: it is {self.data.fold}, but with {self.data.folds} folds it is 0 to "
                f"{self.data.folds - 1}"
            )
        self._refuse_patch()
        return self

    @property
    def wants_regions(self) -> bool:
        """Whether the network is to put out regions rather than labels."""
        return self.loss.name == "regions"

    @property
    def card(self) -> Card:
        """The card of the data set."""
        return load_card(self.data.card)

    def resolved(self) -> dict[str, Any]:
        """Every setting, defaults among them, as plain JSON values."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """The resolved recipe as YAML, loadable again."""
        return yaml.safe_dump(self.resolved(), sort_keys=False, default_flow_style=None)

    def replaced(self, **sections: dict[str, Any]) -> "Recipe":
        """The recipe with some settings of some sections replaced, checked again."""
        settings = self.resolved()
        for section, changes in sections.items():
            settings[section] = {**settings[section], **changes}
        return Recipe.model_validate_json(json.dumps(settings))

    def _refuse_patch(self) -> None:
        patch, spacing = self.plan.patch_size, self.plan.spacing_mm
        if isinstance(patch, str):
            return
        # Where the spacing is planned, it is taken as even: that decides how deep a UNet goes.
        even = (1.0, 1.0, 1.0) if isinstance(spacing, str) else spacing
        try:
            refusal = self.model.shape_policy(patch, even).refuses(patch)
        except InputFault as fault:
            refusal = str(fault)
        if refusal:
            raise ValueError(f"plan.patch_size: {self.model.name}: {refusal}")
