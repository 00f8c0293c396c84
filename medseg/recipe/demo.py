"""A recipe scaled down for `--demo`: minutes on two cores, on a synthetic set."""

import math
from collections.abc import Sequence
from typing import Any

from medseg.recipe.loader import settings_of
from medseg.recipe.networks.network import Patch, Spacing
from medseg.recipe.recipe import Recipe

# Patch sides above this are worked on at half the resolution.
LARGEST_SIDE = 64
DEMO_SIDE = 48
MOST_VOXELS = 40 * 56 * 40
# Of patches that are single slices: a batch of two would show too little of a case.
SLICES = 16
# Planned patches are large: few steps take as long there as many small ones.
STEPS_IF_PLANNED = 300
STEPS, STEPS_PER_STRUCTURE = 400, 60
EPOCHS = 4
TRAINER = {
    "max_time": None,
    "precision": "32-true",
    "validate_every": 2,
    "checkpoint_every": 75,
    "picture_every": 2,
    "foreground_share": 0.5,
    "devices": 1,
    "strategy": "auto",
    "workers": 0,
}
AUGMENT = {
    "rotation_probability": 0.0,
    "scale_probability": 0.0,
    "blur_probability": 0.0,
    "low_resolution_probability": 0.0,
}


def demo_recipe(recipe: Recipe, *, root: str) -> Recipe:
    """`recipe` on the data set at `root`: its channels, labels and kind of network and loss.

    The network is narrow, the patch small, the schedule some hundred steps of AdamW at 3e-3, more
    where there is more to tell apart. What the plan leaves to the planner stays planned.
    """
    settings = recipe.resolved()
    settings["name"] = f"{recipe.name}_demo"
    settings["data"] |= {"root": root, "fold": 0, "folds": 5, "splits": None, "cache": None}
    settings["model"] |= recipe.model.demo_settings
    settings["plan"] |= {"batch_size": 2}
    settings["augment"] |= AUGMENT
    settings["optimizer"] = {"name": "adamw", "lr": 3e-3}
    settings["schedule"] = {"name": "warmup_cosine", "warmup": 0.05}
    settings["trainer"] |= TRAINER | {"epochs": EPOCHS, "steps_per_epoch": _steps(recipe) // EPOCHS}
    settings["predict"] |= {"overlap": 0.25, "mirror_axes": []}
    patch, spacing = recipe.plan.patch_size, recipe.plan.spacing_mm
    if not isinstance(patch, str) and not isinstance(spacing, str):
        settings["plan"] |= _smaller(recipe, patch, spacing)
        if 1 in patch:
            settings["plan"]["batch_size"] = settings["predict"]["batch_size"] = SLICES
    return settings_of(settings)


def _steps(recipe: Recipe) -> int:
    if not recipe.plan.is_fixed:
        return STEPS_IF_PLANNED
    card = recipe.card
    structures = card.regions if recipe.wants_regions else card.labels and card.labels.labels
    return STEPS + STEPS_PER_STRUCTURE * len(structures or card.phantom.labels)


def _smaller(recipe: Recipe, patch: Patch, spacing: Spacing) -> dict[str, Any]:
    """Half the resolution along long sides, and the largest patch of at most MOST_VOXELS."""
    coarse = [side > LARGEST_SIDE for side in patch]
    i_mm, j_mm, k_mm = (mm * 2 if c else mm for mm, c in zip(spacing, coarse, strict=True))
    sides = [min(side, DEMO_SIDE) if c else side for side, c in zip(patch, coarse, strict=True)]
    fitting = _fitting(recipe, sides, (i_mm, j_mm, k_mm))
    while math.prod(fitting) > MOST_VOXELS:
        longest = fitting.index(max(fitting))
        sides = list(fitting)
        sides[longest] = sides[longest] * 2 // 3 if sides[longest] > 64 else sides[longest] // 2
        smaller = _fitting(recipe, sides, (i_mm, j_mm, k_mm))
        if math.prod(smaller) >= math.prod(fitting):
            break
        fitting = smaller
    return {"patch_size": list(fitting), "spacing_mm": [i_mm, j_mm, k_mm]}


def _fitting(recipe: Recipe, sides: Sequence[int], spacing: Spacing) -> Patch:
    patch = (sides[0], sides[1], sides[2])
    return recipe.model.shape_policy(patch, spacing).nearest(patch)
