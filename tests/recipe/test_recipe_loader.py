"""Recipes as users write them: mistakes with their lines, overrides, and what they resolve to."""

from pathlib import Path

import pytest

from medseg.fault import InputFault
from medseg.recipe import load_recipe

GOOD = """\
name: small
data: {card: hippocampus, root: somewhere}
plan: {spacing_mm: [1, 1, 1], patch_size: [40, 56, 40], batch_size: 2, normalise: zscore}
model: {name: segresnet}
loss: {name: dice_ce}
optimizer: {name: adamw, lr: 1e-4}
schedule: {name: poly}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "r.yaml"
    path.write_text(text)
    return path


def faults(path: Path, *overrides: str) -> str:
    with pytest.raises(InputFault) as caught:
        load_recipe(path, overrides)
    return str(caught.value)


def test_1e_4_is_a_number(tmp_path: Path) -> None:
    assert load_recipe(written(tmp_path, GOOD)).optimizer.lr == 1e-4


def test_all_mistakes_are_told_at_once_with_line_and_nearest_name(tmp_path: Path) -> None:
    text = GOOD.replace("{name: segresnet}", "{name: segresnet, base_featurs: 16}")
    text = text.replace("lr: 1e-4", "lr: -1").replace("schedule:", "shedule:")
    told = faults(written(tmp_path, text))
    assert "4 mistakes" in told
    assert (
        ":4: model.base_featurs is not a setting of segresnet; did you mean base_features?" in told
    )
    assert ":6: optimizer.lr is -1: input should be greater than 0." in told
    assert ":7: shedule is not a setting of a recipe; did you mean schedule?" in told
    assert "lacks schedule" in told


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("model.drop=1", "override model.drop=1: model.drop is not a setting of segresnet"),
        ("model=segresnett", "did you mean segresnet?"),
        ("optimizer.lr", "it is no key=value"),
        ("plan.patch_size.3=8", "plan.patch_size has items 0 to 2, no 3"),
        ("data.card=hippocampos", "hippocampus"),
        ("data.fold=7", "with 5 folds it is 0 to 4"),
        ("data.fold=fixed", "has no fixed split"),
        ("loss=regions", "regions are asked for, but the card hippocampus states none"),
        ("model=swin_unetr", "the nearest is"),
        ("trainer.epochs=many", "input should be a valid integer"),
    ],
)
def test_an_override_is_blamed_as_an_override(tmp_path: Path, override: str, expected: str) -> None:
    told = faults(written(tmp_path, GOOD), override)
    assert expected in told
    if "." in override.partition("=")[0] and "patch_size" not in override:
        assert f"override {override}" in told


def test_overrides_reach_sections_lists_and_absent_sections(tmp_path: Path) -> None:
    recipe = load_recipe(
        written(tmp_path, GOOD),
        ["plan.patch_size.0=48", "trainer.epochs=3", "optimizer=sgd", "data.root=a=b=c"],
    )
    assert recipe.plan.patch_size == (48, 56, 40)
    assert recipe.trainer.epochs == 3
    assert recipe.optimizer.name == "sgd"
    assert recipe.optimizer.lr == 1e-2
    assert recipe.data.root == "a=b=c"


def test_a_swapped_model_has_its_own_defaults(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, GOOD), ["model=nnunet_resenc", "model.size=s"])
    assert recipe.model.name == "nnunet_resenc"
    assert recipe.model.size == "s"


def test_plan_auto_leaves_everything_to_the_planner(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, GOOD), ["plan=auto"])
    assert not recipe.plan.is_fixed
    assert recipe.plan.patch_size == "auto"


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    told = faults(written(tmp_path, GOOD + "loss: {name: dice_ce}\n"))
    assert "loss stands twice (first in line 5)" in told


@pytest.mark.parametrize(
    "text", ["!!python/object/apply:os.system ['true']", "a: &a [1]\n" + "b: [*a]\n" * 3, "[1, 2]"]
)
def test_what_is_no_plain_recipe_is_refused(tmp_path: Path, text: str) -> None:
    assert faults(written(tmp_path, text))


def test_an_alias_bomb_is_refused_before_it_grows(tmp_path: Path) -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 8)}]" for n in range(1, 10)]
    assert "written out" in faults(written(tmp_path, "\n".join(lines)))


def test_the_resolved_recipe_loads_as_the_same_recipe(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, GOOD))
    again = load_recipe(written(tmp_path, recipe.to_yaml()))
    assert again == recipe


def test_a_missing_recipe_names_the_nearest_shipped_one() -> None:
    with pytest.raises(InputFault, match="did you mean hippocampus_resenc"):
        load_recipe("hippocampus_resen")
