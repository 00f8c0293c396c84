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


@pytest.mark.parametrize(
    ("text", "value"), [("1e-4", 1e-4), ("1E+1", 10.0), (".5", 0.5), ("1.", 1.0), ("010", 10.0)]
)
def test_numbers_are_those_of_yaml_1_2(tmp_path: Path, text: str, value: float) -> None:
    assert load_recipe(written(tmp_path, GOOD.replace("1e-4", text))).optimizer.lr == value


@pytest.mark.parametrize("text", ["0x10", "1_000", "yes", "1:30", ".inf", "'1e-4'", "1e400", "~"])
def test_what_other_readers_take_for_numbers_is_none(tmp_path: Path, text: str) -> None:
    told = faults(written(tmp_path, GOOD.replace("1e-4", text)))
    assert "number is needed" in told
    assert ":6: optimizer.lr is " in told


@pytest.mark.parametrize("text", ["no", "on", "2020-01-01", "1e3x", "0o17"])
def test_words_stay_words(tmp_path: Path, text: str) -> None:
    assert load_recipe(written(tmp_path, GOOD.replace("somewhere", text))).data.root == text


def test_all_mistakes_are_told_at_once_with_line_and_nearest_name(tmp_path: Path) -> None:
    text = GOOD.replace("{name: segresnet}", "{name: segresnet, base_featurs: 16}")
    text = text.replace("lr: 1e-4", "lr: -1").replace("schedule:", "shedule:")
    told = faults(written(tmp_path, text))
    assert "4 mistakes" in told
    assert (
        ":4: model.base_featurs is not a setting of segresnet; did you mean base_features?" in told
    )
    assert ":6: optimizer.lr is -1: it must be above 0.0." in told
    assert ":7: shedule is not a setting of a recipe; did you mean schedule?" in told
    assert "lacks schedule, which must be said, such as schedule: {name: warmup_cosine}." in told


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
        ("data={card: synapse, root: x, fold: fixed, splits: s.json}", "data.splits names folds"),
        ("loss=regions", "regions are asked for, but the card hippocampus states none"),
        ("model=swin_unetr", "the nearest is"),
        ("plan.patch_size=[8, 8]", "plan.patch_size has 2 items: 3 are needed."),
        ("plan.patch_size=atuo", "a list is needed, or it must be auto; did you mean auto?"),
        ("plan.normalise={kind: rnge}", "plan.normalise.kind is 'rnge': it must be zscore, "),
        ("plan.normalise={kind: ct, loer: 3}", "plan.normalise.loer is not a setting of plan."),
        ("plan=atuo", "plan is 'atuo': a section is needed, or auto."),
        ("model=null", "model is null: a section (`key: value`) is needed."),
        ("model=[segresnet]", "a section (`key: value`) is needed."),
        ("model={}", "model lacks its name, one of swin_unetr, "),
        ("data={}", "data lacks card, root, which must be said."),
        ("trainer.lr=1", "trainer.lr is not a setting of trainer; there is optimizer.lr."),
        ("data.root.x=1", "data.root is the single value 'somewhere' and has no x"),
        ("model.x.y.z=1", "override model.x.y.z=1: model.x is not a setting of segresnet."),
        ("name=a/b", "name is 'a/b', which does not fit. Names the run folder: letters"),
        ("model.blocks_up=[]", "at least 1 items are needed"),
        ("plan.patch_size=[8, 8, 8, 8]", "at most 3 items are taken"),
        ("trainer.epochs=999999999999999999999", "a number of more than 18 digits"),
        ("data.root=[a", "Put the value in quotes."),
        ("data.root=!!python/name:os.system", "leave out the tag"),
        ("=3", "it is no key=value"),
        ("a..b=3", "it is no key=value"),
        ("augment.scale=[2, 1]", "the range [2.0, 1.0] falls"),
        ("augment.flip_axes=[0, 0]", "name one twice"),
        ("trainer.epochs=many", "a whole number is needed"),
    ],
)
def test_an_override_is_blamed_as_an_override(tmp_path: Path, override: str, expected: str) -> None:
    told = faults(written(tmp_path, GOOD), override)
    assert "1 mistake " in told
    assert expected in told
    assert f"\n  override {override}: " in told


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


def test_all_keys_that_stand_twice_are_told(tmp_path: Path) -> None:
    told = faults(written(tmp_path, GOOD + "loss: {}\nmodel: {name: a, name: b}\nname: x\n"))
    assert [line.partition(": ")[2] for line in told.splitlines()] == [
        "loss stands twice (first in line 5); keep one.",
        "model stands twice (first in line 4); keep one.",
        "name stands twice (first in line 1); keep one.",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"!!python/object/apply:os.system ['true']", ":1: not YAML of plain values"),
        (b"a: 1\nb: !!float x", ":2: not YAML of plain values"),
        (b"a: &a [1]\nb: [" + b"*a, " * 101 + b"]", "101 aliases; at most 100"),
        (b"a: " + b"[" * 33 + b"]" * 33, "deeper than 32 levels"),
        (b"a: &a [*a]", "deeper than 32 levels"),
        (b"a: [1,\nb: 2", ":2: not YAML"),
        (b"[1, 2]", "no `key: value` lines"),
        (b"", "no `key: value` lines"),
        (b"a: \xff", "no UTF-8 text"),
        (b"a: \x00", "not YAML"),
        (b"a: 1\n---\nb: 2", "not YAML"),
    ],
)
def test_what_is_no_plain_recipe_is_refused(tmp_path: Path, text: bytes, expected: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(text)
    assert expected in faults(path)


def test_file_and_overrides_are_told_in_their_order(tmp_path: Path) -> None:
    text = GOOD.replace("lr: 1e-4", "lr: no").replace("hippocampus", "hipocampus")
    path = written(tmp_path, text.replace("56", "57"))
    told = faults(path, "trainer.epochs=x", "nonsense", "predict.overlap=1")
    places = [line.strip().removeprefix(str(path)) for line in told.splitlines()[1:]]
    for place, start in zip(
        places,
        (
            ":2: data.card",
            ":3: plan.patch_size",
            ":6: optimizer.lr",
            "override trainer.epochs",
            "override predict.overlap",
            "override nonsense",
        ),
        strict=True,
    ):
        assert place.startswith(start)


def test_a_later_override_wins(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    assert load_recipe(path, ["model.base_features=3", "model=nnunet_plain"]).model.blocks == (2,)
    assert load_recipe(path, ["plan.batch_size=7", "plan=auto"]).plan.batch_size == "auto"
    assert load_recipe(path, ["plan=auto", "plan.batch_size=7"]).plan.batch_size == 7


def test_an_alias_bomb_is_refused_before_it_grows(tmp_path: Path) -> None:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 8)}]" for n in range(1, 10)]
    assert "written out" in faults(written(tmp_path, "\n".join(lines)))


@pytest.mark.parametrize(
    "root",
    ["somewhere", "1e3", "0o17", "010", "yes", "1:30", "~", "null", "", " x", "a: b", "#", "<<"],
)
def test_the_resolved_recipe_loads_as_the_same_recipe(tmp_path: Path, root: str) -> None:
    recipe = load_recipe(written(tmp_path, GOOD), [f"data.root='{root}'"])
    assert recipe.data.root == root
    again = load_recipe(written(tmp_path, recipe.to_yaml()))
    assert again == recipe


def test_a_missing_recipe_names_the_nearest_shipped_one() -> None:
    with pytest.raises(InputFault, match="did you mean hippocampus_resenc"):
        load_recipe("hippocampus_resen")
