"""Settings that are sound alone but not together."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from medseg.fault import InputFault
from medseg.recipe import Recipe, load_recipe
from medseg.recipe.rules import RULES

GOOD = """\
name: small
data: {card: hippocampus, root: somewhere}
plan: {spacing_mm: [1, 1, 1], patch_size: [64, 64, 64], batch_size: 2, normalise: zscore}
model: {name: segresnet}
loss: {name: dice_ce}
optimizer: {name: sgd}
schedule: {name: poly}
"""
CASES = [
    (["data.card=nowhere"], "data.card", "not among"),
    (["data.card=own.yaml"], "data.card", "not there"),
    (["data.fold=fixed"], "data.fold", "no fixed split"),
    (["data.fold=5"], "data.fold", "with 5 folds it is 0 to 4"),
    (["data.folds=2", "data.fold=3"], "data.fold", "with 2 folds it is 0 to 1"),
    (["loss=regions"], "loss.name", "the card hippocampus states none"),
    (
        ["postprocess=[{name: keep_largest, labels: [Anterior, Posteriour]}]"],
        "postprocess.0.labels",
        "did you mean Posterior",
    ),
    (["loss.dice_weight=0", "loss.ce_weight=0"], "loss.dice_weight", "nothing would be learned"),
    (["plan.normalise={kind: range, lower: 1}"], "plan.normalise", "needs upper"),
    (["plan.normalise={kind: range, lower: 1, upper: 1}"], "plan.normalise.lower", "not below"),
    (["plan.patch_size.1=60"], "plan.patch_size", "the nearest is 64x64x64"),
    (["model=swin_unetr", "plan.patch_size.1=40"], "plan.patch_size", "the nearest is 64x64x64"),
    (["model=nnunet_plain", "plan.patch_size=[4, 9, 4]"], "plan.patch_size", "even once"),
    (["model=nnunet_resenc", "plan.patch_size.1=65"], "plan.patch_size", "the nearest is"),
    (["model=mednext", "plan.patch_size.1=40"], "plan.patch_size", "the nearest is 64x48x64"),
    (["model=swin_unetr", "model.feature_size=32"], "model.heads.0", "a multiple of 12"),
    (["model.blocks_up=[1, 1]"], "model.blocks_down", "one stage more"),
    (["optimizer.momentum=0"], "optimizer.momentum", "nesterov needs a momentum"),
    (["augment.flip_axes=[0]", "predict.mirror_axes=[0, 2]"], "predict.mirror_axes", "axis 2"),
    (["trainer.strategy=fsdp"], "trainer.strategy", "write ddp"),
]


def written(folder: Path) -> Path:
    path = folder / "r.yaml"
    path.write_text(GOOD)
    return path


@pytest.mark.parametrize(("overrides", "key", "expected"), CASES, ids=str)
def test_a_contradiction_is_told_at_its_key_and_blamed_on_an_override(
    tmp_path: Path, overrides: list[str], key: str, expected: str
) -> None:
    with pytest.raises(InputFault) as caught:
        load_recipe(written(tmp_path), overrides)
    _, told = str(caught.value).splitlines()
    assert f"{key}: " in told
    assert expected in told
    assert any(told.startswith(f"  override {override}: ") for override in overrides)


def test_every_rule_has_a_case() -> None:
    # One more needs a card of its own: `test_a_region_of_one_side_is_not_mirrored`.
    assert len(CASES) + 1 >= len(RULES) == 12


def test_a_region_of_one_side_is_not_mirrored(tmp_path: Path) -> None:
    card = tmp_path / "sides.yaml"
    regions = ["{name: any, members: [1, 2], value: 1}", "{name: right, members: [2], value: 2}"]
    lines = [
        "name: sides",
        "title: Lesions of two sides",
        "layout: msd",
        "channels: [MR]",
        "labels: {1: left lesion, 2: right lesion}",
        "licence: none",
        "how_to_get: draw it",
    ]

    def contradiction(*names: str) -> str:
        card.write_text("\n".join([*lines, f"regions: [{', '.join(names)}]", ""]))
        overrides = [f"data.card={card}", "loss=regions"]
        try:
            load_recipe(written(tmp_path), [*overrides, "predict.mirror_axes=[0]"])
        except InputFault as fault:
            load_recipe(written(tmp_path), [*overrides, "predict.mirror_axes=[1]"])
            return str(fault)
        return ""

    assert "predict.mirror_axes: card sides: region right (labels [2])" in contradiction(*regions)
    assert contradiction(*regions, "{name: left, members: [1], value: 1}") == ""


@pytest.mark.parametrize(
    "overrides",
    [
        ["data.card=acdc", "data.fold=4"],
        ["data.card=synapse", "data.fold=fixed"],
        ["data.card=brats_2021", "loss=regions"],
        ["data.card=nnunet", "loss=regions"],
        ["plan.normalise={kind: ct}"],
        ["plan.patch_size=auto", "model=swin_unetr"],
        ["plan.spacing_mm=auto", "model=nnunet_plain"],
        ["model=swin_unetr", "model.feature_size=32", "model.heads=[2, 4, 8, 16]"],
        ["optimizer.momentum=0", "optimizer.nesterov=false"],
        ["predict.mirror_axes=[0, 1, 2]"],
    ],
)
def test_what_goes_together_is_taken(tmp_path: Path, overrides: list[str]) -> None:
    assert load_recipe(written(tmp_path), overrides).name == "small"


def test_contradictions_are_told_beside_mistakes_of_other_sections(tmp_path: Path) -> None:
    with pytest.raises(InputFault) as caught:
        load_recipe(written(tmp_path), ["data.fold=9", "loss.smoth=1", "plan.patch_size.0=63"])
    assert "3 mistakes" in str(caught.value)


def test_a_patch_of_the_file_is_blamed_on_the_file(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(GOOD.replace("64, 64, 64", "64, 64, 63"))
    with pytest.raises(InputFault, match=r"r\.yaml:3: plan\.patch_size: segresnet: 64x64x63"):
        load_recipe(path, ["model.dropout_rate=0.1"])


def test_a_recipe_made_in_code_obeys_the_rules_too(tmp_path: Path) -> None:
    settings = load_recipe(written(tmp_path)).model_dump()
    settings["data"]["fold"] = 5
    with pytest.raises(ValidationError, match=r"data\.fold: it is 5"):
        Recipe.model_validate(settings)
