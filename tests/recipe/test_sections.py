"""Sections against what they build: equal settings and defaults, and every shipped recipe."""

import dataclasses
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import torch

from medseg.data.augment import Augmentation
from medseg.data.plan import plan
from medseg.data.splits import make_split
from medseg.fault import InputFault
from medseg.inference.settings import WalkSettings
from medseg.losses.dice_ce import DiceCELoss, RegionLoss
from medseg.models.catalog import CATALOG
from medseg.preprocess.normalise import Normalisation
from medseg.recipe import schema
from medseg.recipe.faults import _sections
from medseg.recipe.fitting import (
    AdamWSection,
    DiceCESection,
    PolySection,
    RegionsSection,
    SGDSection,
    TrainerSection,
    WarmupCosineSection,
)
from medseg.recipe.models import ModelSection
from medseg.recipe.networks.custom import CustomSection
from medseg.recipe.parts import (
    AugmentSection,
    DataSection,
    NormaliseSection,
    PlanSection,
    PredictSection,
)
from medseg.recipe.recipe import Recipe
from medseg.recipe.section import Section
from medseg.training.fit import Settings
from medseg.training.optimizer import adamw, sgd
from medseg.training.schedule import poly, warmup_cosine
from medseg.volume import LabelTable, Target, Task

NAMES = {
    get_args(section.model_fields["name"].annotation)[0]
    for section in get_args(get_args(ModelSection)[0])
}
FROM_TASK = {"self", "in_channels", "out_channels", "patch_size", "spacing_mm", "parameters"}
BUILT = [
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


# Settings that one section shares out over several callables.
SHARED = [
    (NormaliseSection, Normalisation, {}),
    (PredictSection, WalkSettings, {}),
    (PlanSection, plan, {"spacing_mm": None, "patch_size": None, "batch_size": None}
     | {"normalise": None, "crop": None}),
    (DataSection, make_split, {"card": None, "root": None, "cache": None, "split_seed": "seed"}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("section", "built", "other"), SHARED, ids=["norm", "pred", "plan", "data"]
)
def test_shared_settings_have_the_defaults_of_what_takes_them(
    section: type[Section], built: Callable, other: dict[str, str | None]
) -> None:
    taken = inspect.signature(built).parameters
    seen = 0
    for name, field in section.model_fields.items():
        theirs = other.get(name, name)
        if theirs is not None:
            default = taken[theirs].default
            assert default is inspect.Parameter.empty or default == field.default, name
            seen += 1
    assert seen >= 2


def test_the_trainer_hands_over_every_setting_of_a_run() -> None:
    elsewhere = {"gradient_clip", "foreground_share", "seed", "workers"}
    stated = set(TrainerSection.model_fields) - elsewhere
    taken = {field.name for field in dataclasses.fields(Settings)}
    assert {"max_time_s" if name == "max_time" else name for name in stated} == taken
    section = TrainerSection(max_time=1.5, precision="bf16-mixed", epochs=3, devices=2)
    built = section.build()
    assert (built.max_time_s, built.precision, built.epochs, built.devices) == (
        90.0,
        "bf16-mixed",
        3,
        2,
    )
    for name in stated - {"max_time"}:
        assert getattr(built, name) == getattr(section, name)


def test_every_setting_says_what_it_is() -> None:
    seen, waiting = 0, [Recipe]
    for section in waiting:
        for name, field in section.model_fields.items():
            assert field.description, f"{section.__name__}.{name}"
            assert field.description.endswith("."), f"{section.__name__}.{name}"
            seen += 1
            waiting += [found for found in _sections(field.annotation) if found not in waiting]
    assert seen > 100


def test_the_catalog_lists_what_a_recipe_can_name() -> None:
    assert {entry.name for entry in CATALOG} | {"custom"} == NAMES


def test_the_kept_schema_is_fresh() -> None:
    assert schema.is_fresh(), "run `python -m medseg.recipe.schema`"


def test_the_schema_is_written_and_a_stale_one_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(schema, "shipped_folder", lambda _kind: tmp_path)
    assert schema.main(["--check"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert schema.main([]) == 0
    assert schema.main(["--check"]) == 0
    (tmp_path / schema.NAME).write_text("{}\n")
    assert schema.main(["--check"]) == 1
    assert "python -m medseg.recipe.schema" in capsys.readouterr().err


def test_the_schema_describes_a_recipe_to_editors() -> None:
    made = json.loads(schema.schema())
    assert made["additionalProperties"] is False
    assert set(made["required"]) == {"name", "data", "model", "loss", "optimizer", "schedule"}
    assert set(made["properties"]["model"]["discriminator"]["mapping"]) == NAMES
    assert made["properties"]["plan"]["anyOf"][1] == {"const": "auto"}
    assert made["$defs"]["TrainerSection"]["properties"]["epochs"]["description"]


def test_a_custom_network_is_built_by_its_target() -> None:
    section = CustomSection(
        name="custom", target="medseg.models.segresnet:SegResNet", arguments={"base_features": 8}
    )
    task = Task(("a",), Target(LabelTable.from_names({1: "x"})), (1.0, 1.0, 1.0), (32, 32, 32))
    assert section.build(task)(torch.zeros(1, 1, 32, 32, 32)).shape == (1, 2, 32, 32, 32)
    with pytest.raises(InputFault, match="cannot be made"):
        CustomSection(name="custom", target="medseg.nowhere:Net").build(task)
