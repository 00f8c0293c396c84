"""A network that its authors' code trained, as a bundle of the recipe that describes it."""

import tempfile
from pathlib import Path

from medseg.bundle.bundle import save_bundle
from medseg.bundle.planned import Planned, settle, settle_from_card
from medseg.data.cases import open_listing
from medseg.fault import InputFault
from medseg.io.checkpoint_file import load_checkpoint_file
from medseg.models.checkpoints.filling import Loaded
from medseg.models.checkpoints.reference import reference
from medseg.progress import Listener, silent
from medseg.recipe.recipe import Recipe


def import_reference(
    path: Path, bundle: Path, *, model: str, recipe: Recipe, listener: Listener = silent
) -> Loaded:
    """Write the bundle of `recipe` with the weights in `path`, whole or not at all.

    The recipe tells what a checkpoint does not: channels, labels, spacing and intensities. Its
    data set is looked at only where the plan leaves something to it.

    Raises:
        InputFault: the recipe is of another network or its plan lacks values (E_USE), the file is
            no checkpoint (E_PICKLE), or one of another network, with all names (E_CHECKPOINT).
    """
    if recipe.model.name != model:
        raise InputFault(
            f"--model {model}: the recipe {recipe.name} is of {recipe.model.name}; give a recipe "
            f"of {model}, or model={model} behind it.",
            code="E_USE",
        )
    known = reference(model)
    state = load_checkpoint_file(path)
    planned = _planned(recipe, listener)
    network = recipe.build_network(planned.task)
    loaded = known.load(network, state)
    save_bundle(
        bundle,
        model=network,
        recipe=recipe,
        task=planned.task,
        preprocessing=planned.preprocessing,
        training={"imported_from": "reference", "checkpoint": path.name},
        channel_rules=recipe.card.channel_rules,
        postprocess=[rule.build() for rule in recipe.postprocess],
    )
    return loaded


def _planned(recipe: Recipe, listener: Listener) -> Planned:
    if not Path(recipe.data.root).is_dir():
        return settle_from_card(recipe)
    listing = open_listing(recipe.card, recipe.data.root)
    with tempfile.TemporaryDirectory(prefix="medseg-") as cache:
        return settle(recipe, listing, cache=Path(cache), listener=listener)
