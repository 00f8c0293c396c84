"""The cases that a run did not train on, found again by what its folder keeps."""

from dataclasses import dataclass
from pathlib import Path

from medseg.data.cases import Listing, open_listing
from medseg.data.splits import load_split
from medseg.fault import InputFault
from medseg.recipe import load_recipe
from medseg.volume import Target

RECIPE, SPLIT = "recipe.yaml", "split.json"


@dataclass(frozen=True, eq=False)
class HeldOut:
    """A run's data set, the names of the cases it was validated on, and what it learned."""

    listing: Listing
    names: tuple[str, ...]
    target: Target


def is_run(folder: Path) -> bool:
    """Whether `medseg train` works or worked in this folder."""
    return (folder / RECIPE).is_file() and (folder / SPLIT).is_file()


def held_out(folder: Path) -> HeldOut:
    """The held-out cases of the run in `folder`.

    Raises:
        InputFault: the data set is no longer where the run found it (E_NODATA), or lacks cases of
            the split (E_SPLIT); the run trained on every case (E_FOLD).
    """
    recipe = load_recipe(folder / RECIPE)
    root = Path(recipe.data.root)
    if not root.is_dir():
        there = "" if root.is_absolute() else "work in the folder where the run was started, or "
        raise InputFault(
            f"{folder}: the run's data set {root} is not there; {there}name the data set itself "
            "and its card (--card) in place of the run.",
            code="E_NODATA",
        )
    listing = open_listing(recipe.card, recipe.data.root)
    split = load_split(folder / SPLIT, listing.cases)
    if not split.validation:
        raise InputFault(
            f"{folder}: this run trained on every case (data.fold=all) and held none out; name "
            "other images, or a run of a numbered fold.",
            code="E_FOLD",
        )
    return HeldOut(listing, split.validation, listing.target(regions=recipe.wants_regions))
