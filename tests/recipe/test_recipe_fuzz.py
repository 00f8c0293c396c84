"""Whatever is written into a recipe, the answer is a recipe or sentences."""

import contextlib
import json
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medseg.fault import InputFault
from medseg.recipe import Recipe, load_recipe
from medseg.recipe.parts import PlanSection

GOOD = """\
name: small
data: {card: hippocampus, root: somewhere}
plan: {spacing_mm: [1, 1, 1], patch_size: [64, 64, 64], batch_size: 2, normalise: zscore}
model: {name: segresnet}
loss: {name: dice_ce}
optimizer: {name: adamw, lr: 1e-4}
schedule: {name: poly}
"""
WORDS = ["name", "kind", "card", "0", "segresnet", "lr", "", "blocks_up", "lower", "stages"]
KEYS = st.lists(
    st.sampled_from([*Recipe.model_fields, *PlanSection.model_fields, *WORDS]),
    min_size=1,
    max_size=3,
)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.just("auto")
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=3)
    ),
    max_leaves=8,
)
MARKS = st.text(alphabet="{}[]:,&*!|>'\"#-\n ~a1e%@`\t", max_size=4)
FAST = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@FAST
@given(keys=KEYS, value=VALUES, swap=st.sampled_from(["segresnet", "swin_unetr", "nnunet_plain"]))
def test_an_override_ends_in_a_recipe_that_can_be_kept_or_in_sentences(
    tmp_path: Path, keys: list[str], value: object, swap: str
) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(GOOD)
    told = ""
    try:
        recipe = load_recipe(path, [f"model={swap}", f"{'.'.join(keys)}={json.dumps(value)}"])
        path.write_text(recipe.to_yaml())
        assert load_recipe(path) == recipe
    except InputFault as fault:
        told = str(fault)
    assert all(line.endswith((".", "?")) for line in told.splitlines()[1:])


@FAST
@given(cut=st.integers(0, len(GOOD)), put=MARKS)
def test_damage_to_a_file_ends_in_a_recipe_or_in_sentences(
    tmp_path: Path, cut: int, put: str
) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(GOOD[:cut] + put + GOOD[cut + 1 :])
    with contextlib.suppress(InputFault):
        assert load_recipe(path).name
