"""The recipe: its sections, the rules between them, and its YAML form."""

from typing import TYPE_CHECKING, Annotated, Any, Self

import yaml
from pydantic import Field, model_validator

from medseg.data.card import Card, load_card
from medseg.data.located import Loader
from medseg.nn.kernels import Kernels, choose_kernels
from medseg.recipe.fitting import LossSection, OptimizerSection, ScheduleSection, TrainerSection
from medseg.recipe.models import ModelSection
from medseg.recipe.parts import AugmentSection, DataSection, PlanSection, PredictSection
from medseg.recipe.postprocess import RuleSection
from medseg.recipe.rules import contradictions
from medseg.recipe.section import Section
from medseg.volume import Task

if TYPE_CHECKING:
    from torch import nn


class Recipe(Section):
    """What to train, on what and how."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$")]
    """Names the run folder: letters, digits, and _ . - after the first."""
    data: DataSection
    """Which data set, where it lies, and who is held out."""
    plan: PlanSection = PlanSection()
    """The network's grid and batch; `auto` leaves it all to nnU-Net's rules."""
    model: ModelSection
    """The network, by its name (`medseg models`), and its settings."""
    kernels: Kernels = "fast"
    """reference: every layer in torch's own operations, to compare with."""
    augment: AugmentSection = AugmentSection()
    """What may happen to a training patch."""
    loss: LossSection
    """dice_ce over labels, or regions."""
    optimizer: OptimizerSection
    """adamw or sgd."""
    schedule: ScheduleSection
    """How the learning rate runs: warmup_cosine or poly."""
    trainer: TrainerSection = TrainerSection()
    """How long and how to train."""
    predict: PredictSection = PredictSection()
    """How the trained network predicts."""
    postprocess: tuple[RuleSection, ...] = ()
    """What its label maps go through: keep_largest, remove_small, fill_holes, in their order."""

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> Self:
        found = contradictions({name: getattr(self, name) for name in type(self).model_fields})
        if found:
            raise ValueError("; ".join(f"{'.'.join(one.path)}: {one.rule}" for one in found))
        return self

    @property
    def wants_regions(self) -> bool:
        """Whether the network is to put out regions rather than labels."""
        return self.loss.name == "regions"

    @property
    def card(self) -> Card:
        """The card of the data set."""
        return load_card(self.data.card)

    def build_network(self, task: Task) -> "nn.Module":
        """The network for `task`, with fresh weights and the kernels asked for."""
        from medseg.nn.small_maps import guard  # it needs torch

        network = self.model.build(task)
        guard(network)
        choose_kernels(network, self.kernels)
        return network

    def resolved(self) -> dict[str, Any]:
        """Every setting, defaults among them, as plain JSON values."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """The resolved recipe as YAML, loadable again."""
        return yaml.dump(self.resolved(), Dumper=_Dumper, sort_keys=False, default_flow_style=None)


class _Dumper(yaml.SafeDumper):
    """Quotes text that either of YAML 1.1 (as others read) and 1.2 (as we do) takes for more."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [*resolvers, *Loader.yaml_implicit_resolvers.get(first, ())]
        for first, resolvers in yaml.SafeDumper.yaml_implicit_resolvers.items()
    }
