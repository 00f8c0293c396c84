"""Every recipe that comes with medseg: found, loaded, built, and one step trained."""

from pathlib import Path

import pytest
import torch

from medseg.recipe import Recipe, load_recipe
from medseg.recipe.demo import demo_recipe
from medseg.shipped import shipped_files, shipped_folder
from medseg.volume import LabelTable, Target, Task

ALL = shipped_files("recipes")
HOW_MANY = 25


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


def test_all_of_them_are_seen() -> None:
    on_disk = [path for path in shipped_folder("recipes").rglob("*.y*ml") if path.is_file()]
    assert sorted(on_disk) == ALL
    assert len({path.stem for path in ALL}) == len(ALL) == HOW_MANY


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_it_opens_with_its_command_and_its_source(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert lines[0].startswith(f"# medseg train recipes/{path.stem}.yaml data.root=")
    said = lines.index("# yaml-language-server: $schema=recipe.schema.json")
    assert said >= 2
    assert lines[said + 1] == f"name: {path.stem}"
    assert load_recipe(path).name == path.stem


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_it_builds(path: Path) -> None:
    recipe = load_recipe(path)
    task = task_of(recipe)
    with torch.device("meta"):
        model = recipe.build_network(task)
    # torch's own convolution has wrong gradients in bfloat16 (medseg.nn.small_maps).
    assert torch.nn.Conv3d not in {type(module) for module in model.modules()}
    assert sum(p.numel() for p in model.parameters()) > 100_000
    policy = recipe.model.shape_policy(task.patch_size, task.spacing_mm)
    assert policy == model.shape_policy
    assert policy.refuses(task.patch_size) is None
    assert recipe.schedule.build()(0.5) > 0
    recipe.augment.build()
    recipe.trainer.build()
    recipe.optimizer.build()(model.parameters())


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_its_demo_is_small_and_takes_a_step(path: Path) -> None:
    demo = demo_recipe(load_recipe(path), root="somewhere")
    task = task_of(demo)
    if demo.plan.is_fixed:
        assert task.patch_size[0] * task.patch_size[1] * task.patch_size[2] <= 48 * 64 * 48
    torch.manual_seed(0)
    model = demo.model.build(task).train()
    assert sum(p.numel() for p in model.parameters()) < 5_000_000
    policy = demo.model.shape_policy(task.patch_size, task.spacing_mm)
    side = policy.nearest(policy.divisor)
    image = torch.randn(1, task.in_channels, *side)
    labels = torch.randint(len(task.target.labels.labels) + 1, side).numpy()
    target = torch.from_numpy(task.target.encode(labels.astype("uint8")))[None]
    optimizer = demo.optimizer.build()(model.parameters())
    loss = demo.loss.build()(model(image), target)
    loss.backward()
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.step()
    moved = [not torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True)]
    assert torch.isfinite(loss)
    # A residual branch begins at 0: what stands before its last norm moves from the next step on.
    assert sum(moved) > 0.7 * len(moved)
