"""What a comparison trains: recipes made alike in budget and folds, refused where they differ.

Nothing here needs torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt
from pathlib import Path

from medseg.data.card import Card
from medseg.data.splits import Fold
from medseg.fault import InputFault
from medseg.recipe import Recipe, load_recipe

LONGEST_EPOCH, SHORTEST_EPOCH = 250, 10
# A run that goes by the clock must not end by its steps before.
ENDLESS_EPOCHS = 100_000
IDENTITY = "identity"


@dataclass(frozen=True)
class Budget:
    """What every run may take: so many steps, or so many minutes."""

    steps: int | None = None
    minutes: float | None = None

    def settings(self) -> list[str]:
        """The overrides that keep a recipe to it.

        Whole cases are looked at once, after the last step: so no weights are chosen on them.
        """
        if self.steps is not None:
            epoch = _epoch_of(self.steps)
            epochs, most = self.steps // epoch, "null"
        else:
            epoch, epochs, most = LONGEST_EPOCH, ENDLESS_EPOCHS, f"{self.minutes:g}"
        return [
            f"trainer.epochs={epochs}",
            f"trainer.steps_per_epoch={epoch}",
            f"trainer.max_time={most}",
            f"trainer.validate_every={epochs}",
            f"trainer.picture_every={epochs}",
        ]

    def __str__(self) -> str:
        return f"{self.steps} steps" if self.steps is not None else f"{self.minutes:g} minutes"


@dataclass(frozen=True)
class Entry:
    """A row of the comparison: a recipe for each fold."""

    name: str
    recipes: tuple[Recipe, ...]

    @property
    def network(self) -> str:
        """The name of its network."""
        return self.recipes[0].model.name


def entries(
    recipes: Sequence[str],
    overrides: Sequence[str],
    *,
    budget: Budget,
    folds: Sequence[int] | None,
    identity: bool,
    cache: Path,
) -> tuple[Entry, ...]:
    """The rows, in the order of `recipes`, each followed by its twin where there is one.

    `folds` None takes that of the recipes. Prepared cases are shared in `cache`.

    Raises:
        InputFault: a mistake in a recipe (E_RECIPE), two of one name (E_USE), recipes that do not
            share data set, split and structures (E_COMPARE).
    """
    made = []
    for path in recipes:
        plain = load_recipe(path, overrides)
        common = [*overrides, *budget.settings()]
        if plain.data.cache is None:
            common.append(f"data.cache='{cache}'")
        made.append(_entry(path, plain, plain.name, common, folds))
        if identity and "mixing" in type(plain.model).model_fields:
            twin = [*common, f"name={plain.name}-{IDENTITY}", f"model.mixing={IDENTITY}"]
            made.append(_entry(path, plain, f"{plain.name}+{IDENTITY}", twin, folds))
    _refuse_doubles(made)
    for other in made[1:]:
        _refuse_unlike(made[0], other)
    for entry in made:
        _refuse_processes(entry)
    return tuple(made)


def _entry(
    path: str, plain: Recipe, name: str, settings: Sequence[str], folds: Sequence[int] | None
) -> Entry:
    chosen: Sequence[Fold] = (plain.data.fold,) if folds is None else folds
    if "all" in chosen:
        raise InputFault(
            f"{path}: with data.fold=all nothing is held out that networks could be compared on; "
            "give the number of a fold, or --folds.",
            code="E_COMPARE",
        )
    return Entry(
        name, tuple(load_recipe(path, [*settings, f"data.fold={fold}"]) for fold in chosen)
    )


def _epoch_of(steps: int) -> int:
    """A length of epochs, of which whole ones make `steps`."""
    divisors = [
        divisor
        for low in range(1, isqrt(steps) + 1)
        if steps % low == 0
        for divisor in (low, steps // low)
    ]
    fitting = max(divisor for divisor in divisors if divisor <= LONGEST_EPOCH)
    return fitting if fitting >= SHORTEST_EPOCH else steps


def _refuse_doubles(made: Sequence[Entry]) -> None:
    names = [entry.recipes[0].name for entry in made]
    doubles = sorted({name for name in names if names.count(name) > 1})
    if doubles:
        raise InputFault(
            f"several recipes are named {', '.join(doubles)}, and a name is a row and a run's "
            "folder; give each file a name of its own.",
            code="E_USE",
        )


def _refuse_unlike(first: Entry, other: Entry) -> None:
    one, two = _shared(first.recipes[0]), _shared(other.recipes[0])
    unlike = next((key for key in one if one[key] != two[key]), None)
    if unlike is not None:
        raise InputFault(
            f"{first.name} and {other.name} cannot be compared: they differ in {unlike} "
            f"({one[unlike]} and {two[unlike]}); give both the same, as an override for all "
            "recipes or in their files.",
            code="E_COMPARE",
        )


def _shared(recipe: Recipe) -> dict[str, str]:
    """What decides which cases are held out and what is scored in them."""
    data, card = recipe.data, recipe.card
    target = "regions" if recipe.wants_regions else "labels"
    return {
        "data.card": data.card if card.name == data.card else f"{card.name} of {data.card}",
        "data.root": str(Path(data.root).resolve()),
        "data.fold": str(data.fold),
        "data.folds": str(data.folds),
        "data.split_seed": str(data.split_seed),
        "data.splits": str(data.splits),
        "the label table": _labels(card),
        "what the loss asks for": target,
    }


def _labels(card: Card) -> str:
    if card.labels is None:
        return "that of dataset.json"
    return ", ".join(f"{label.value} {label.name}" for label in card.labels.labels)


def _refuse_processes(entry: Entry) -> None:
    devices = entry.recipes[0].trainer.devices
    if devices > 1:
        raise InputFault(
            f"{entry.name}: trainer.devices {devices}; each run of a comparison is one process, "
            "so that its memory can be told: give trainer.devices=1.",
            code="E_COMPARE",
        )
