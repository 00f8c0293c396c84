"""Sections against what they build: equal settings and defaults, and every shipped recipe."""

import inspect
from collections.abc import Callable

import pytest
import torch

from medseg.data.augment import Augmentation
from medseg.fault import InputFault
from medseg.losses.dice_ce import DiceCELoss, RegionLoss
from medseg.models.catalog import CATALOG
from medseg.models.mednext import MedNeXt
from medseg.models.nnunet import plain_unet, residual_unet
from medseg.models.segresnet import SegResNet
from medseg.models.swin_unetr import SwinUNETR
from medseg.recipe import load_recipe, schema
from medseg.recipe.demo import SMALL_MODELS, demo_recipe
from medseg.recipe.models import (
    CustomSection,
    MedNeXtSection,
    NnUNetPlainSection,
    NnUNetResEncSection,
    SegResNetSection,
    SwinUNETRSection,
)
from medseg.recipe.parts import (
    AdamWSection,
    AugmentSection,
    DiceCESection,
    PolySection,
    RegionsSection,
    SGDSection,
    WarmupCosineSection,
)
from medseg.recipe.recipe import Recipe
from medseg.recipe.section import Section
from medseg.shipped import shipped_files
from medseg.training.optimizer import adamw, sgd
from medseg.training.schedule import poly, warmup_cosine
from medseg.volume import LabelTable, Target, Task

FROM_TASK = {"self", "in_channels", "out_channels", "patch_size", "spacing_mm", "parameters"}
BUILT = [
    (SwinUNETRSection, SwinUNETR),
    (NnUNetPlainSection, plain_unet),
    (NnUNetResEncSection, residual_unet),
    (MedNeXtSection, MedNeXt),
    (SegResNetSection, SegResNet),
    (AugmentSection, Augmentation),
    (DiceCESection, DiceCELoss),
    (RegionsSection, RegionLoss),
    (AdamWSection, adamw),
    (SGDSection, sgd),
    (WarmupCosineSection, warmup_cosine),
    (PolySection, poly),
]


@pytest.mark.parametrize(("section", "built"), BUILT, ids=lambda part: part.__name__)
def test_settings_and_defaults_are_those_of_what_is_built(
    section: type[Section], built: Callable
) -> None:
    taken = {
        name: parameter.default
        for name, parameter in inspect.signature(built).parameters.items()
        if name not in FROM_TASK
    }
    stated = {name: field.default for name, field in section.model_fields.items() if name != "name"}
    assert stated == taken


def task_of(recipe: Recipe) -> Task:
    """The recipe's task; where dataset.json would tell it, that of the card's phantom."""
    card = recipe.card
    labels = card.labels or LabelTable.from_names(card.phantom.labels)
    target = Target(labels, card.regions if recipe.wants_regions else ())
    patch, spacing = recipe.plan.patch_size, recipe.plan.spacing_mm
    return Task(
        card.channels or card.phantom.channels,
        target,
        (1.0, 1.0, 1.0) if isinstance(spacing, str) else spacing,
        (64, 64, 64) if isinstance(patch, str) else patch,
    )


def test_every_shipped_recipe_builds() -> None:
    names = []
    for path in shipped_files("recipes"):
        recipe = load_recipe(path)
        task = task_of(recipe)
        with torch.device("meta"):
            model = recipe.model.build(task)
        assert sum(p.numel() for p in model.parameters()) > 100_000
        assert model.shape_policy.refuses(task.patch_size) is None
        policy = recipe.model.shape_policy(task.patch_size, task.spacing_mm)
        assert policy == model.shape_policy
        recipe.loss.build()
        recipe.schedule.build()
        recipe.augment.build()
        recipe.trainer.build()
        recipe.optimizer.build()(model.parameters())
        names.append(path.stem)
    assert len(names) == 11, names
    assert len(set(names)) == 11


def test_every_shipped_recipe_has_a_small_demo() -> None:
    seen = 0
    for path in shipped_files("recipes"):
        demo = demo_recipe(load_recipe(path), root="somewhere")
        task = task_of(demo)
        with torch.device("meta"):
            model = demo.model.build(task)
        assert sum(p.numel() for p in model.parameters()) < 5_000_000
        if demo.plan.is_fixed:
            assert task.patch_size[0] * task.patch_size[1] * task.patch_size[2] <= 48 * 64 * 48
        seen += 1
    assert seen == 11


def test_the_catalog_lists_what_a_recipe_can_name() -> None:
    assert {entry.name for entry in CATALOG} | {"custom"} == set(SMALL_MODELS)


def test_the_kept_schema_is_fresh() -> None:
    assert schema.is_fresh(), "run `python -m medseg.recipe.schema`"


def test_a_custom_network_is_built_by_its_target() -> None:
    section = CustomSection(
        name="custom", target="medseg.models.segresnet:SegResNet", arguments={"base_features": 8}
    )
    task = Task(("a",), Target(LabelTable.from_names({1: "x"})), (1.0, 1.0, 1.0), (32, 32, 32))
    assert section.build(task)(torch.zeros(1, 1, 32, 32, 32)).shape == (1, 2, 32, 32, 32)
    with pytest.raises(InputFault, match="cannot be made"):
        CustomSection(name="custom", target="medseg.nowhere:Net").build(task)
