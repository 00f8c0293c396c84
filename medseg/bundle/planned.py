"""The plan of a run: what the recipe fixes, and the planner's word where it says `auto`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.data.cases import Listing
from medseg.data.fingerprint import fingerprint
from medseg.data.plan import Plan, plan
from medseg.fault import InputFault
from medseg.preprocess.normalise import Normalisation
from medseg.preprocess.record import Preprocessing
from medseg.progress import Listener
from medseg.recipe.parts import NormaliseSection, PlanSection
from medseg.recipe.recipe import Recipe
from medseg.volume import Target, Task


@dataclass(frozen=True, eq=False)
class Planned:
    """The settled facts of a run."""

    task: Task
    preprocessing: Preprocessing
    batch_size: int

    def to_json(self) -> dict[str, Any]:
        """The plan as plain JSON values."""
        return {
            "task": self.task.to_json(),
            "preprocessing": self.preprocessing.to_json(),
            "batch_size": self.batch_size,
        }


def settle(recipe: Recipe, listing: Listing, *, cache: Path, listener: Listener) -> Planned:
    """Every value of the recipe's plan; the data set is looked at only where one is missing.

    Raises:
        InputFault: the planned patch does not fit the network and no patch near it does, or a
            region is none in the mirror in which it is to be predicted (E_MIRROR).
    """
    section = recipe.plan
    target = listing.target(regions=recipe.wants_regions)
    planned = (
        _plan(section, listing, target.output_channels, cache, listener)
        if _needs_data(section)
        else None
    )
    return _settled(recipe, listing.channels, target, planned)


def settle_from_card(recipe: Recipe) -> Planned:
    """Every value of the recipe's plan without a look at the data set, which may not be there.

    Raises:
        InputFault: the plan or the card leaves something to the data set (E_NODATA).
    """
    card = recipe.card
    if _needs_data(recipe.plan) or card.labels is None or card.channels is None:
        raise InputFault(
            f"the recipe {recipe.name} leaves its plan, or the card {card.name} its channels and "
            f"labels, to the data set, and {recipe.data.root} is not there; give data.root=..., or "
            "a plan with all values.",
            code="E_NODATA",
        )
    return _settled(recipe, card.channels, card.target(regions=recipe.wants_regions), None)


def _settled(
    recipe: Recipe, channels: tuple[str, ...], target: Target, planned: Plan | None
) -> Planned:
    if 0 in recipe.predict.mirror_axes:
        # For its refusal, before the training: a dataset.json is not read when a recipe is checked.
        target.mirrored_channels()
    section = recipe.plan
    spacing = _said(section.spacing_mm, planned and planned.spacing_mm)
    patch = _said(section.patch_size, planned and planned.patch_size)
    if section.patch_size == "auto":
        patch = recipe.model.shape_policy(patch, spacing).nearest(patch)
    task = Task(channels, target, spacing, patch)
    return Planned(
        task=task,
        preprocessing=Preprocessing(
            spacing_mm=spacing,
            normalisation=_normalisation(section, len(channels), planned),
            crop=_said(section.crop, planned and planned.crop),
        ),
        batch_size=_said(section.batch_size, planned and planned.batch_size),
    )


def _plan(
    section: PlanSection, listing: Listing, outputs: int, cache: Path, listener: Listener
) -> Plan:
    facts = fingerprint(listing, cache=cache / "fingerprint.json", listener=listener)
    return plan(
        facts,
        network=section.network,
        memory_gb=section.memory_gb,
        spacing_mm=None if isinstance(section.spacing_mm, str) else section.spacing_mm,
        out_channels=outputs,
    )


def _said(said: Any, planned: Any) -> Any:
    return planned if said == "auto" else said


def _needs_data(section: PlanSection) -> bool:
    return not section.is_fixed or _lacks_numbers(section)


def _lacks_numbers(section: PlanSection) -> bool:
    asked = section.normalise
    if isinstance(asked, str):
        return asked in ("ct", "auto")
    return asked.kind == "ct" and None in (asked.lower, asked.upper, asked.mean, asked.std)


def _normalisation(
    section: PlanSection, channels: int, planned: Plan | None
) -> tuple[Normalisation, ...]:
    asked = section.normalise
    if isinstance(asked, NormaliseSection):
        return (_with_numbers(asked, planned),) * channels
    if asked == "auto" or asked == "ct":
        assert planned is not None
        found = tuple(Normalisation.from_json(step) for step in planned.normalisation)
        if asked == "ct" and any(step.kind != "ct" for step in found):
            raise InputFault(
                "plan.normalise ct: the data set's channel is not named CT, so its foreground "
                "statistics were not taken; name the channel CT in the card, or state "
                "lower, upper, mean and std.",
                code="E_NORMALISE",
            )
        return found
    return (Normalisation(asked),) * channels


def _with_numbers(asked: NormaliseSection, planned: Plan | None) -> Normalisation:
    given = asked.model_dump()
    if asked.kind == "ct" and planned is not None:
        found = planned.normalisation[0]
        given = {key: found.get(key) if value is None else value for key, value in given.items()}
    return Normalisation(**given)
