"""The demo of every recipe: trained on synthetic subjects, it finds what is in others."""

from pathlib import Path

import pytest

from medseg.bundle.demo import run_demo
from medseg.recipe import demo, load_recipe
from medseg.shipped import shipped_files

RECIPES = [path.stem for path in shipped_files("recipes")]


def test_a_demo_leaves_a_bundle_scores_and_a_picture_and_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "STEPS", 8)
    monkeypatch.setattr(demo, "STEPS_PER_STRUCTURE", 0)
    scores = run_demo(load_recipe("hippocampus_resenc"), output=tmp_path)
    assert list(scores.trained) == list(scores.untrained) == ["Anterior", "Posterior"]
    for made in (scores.bundle / "bundle.json", scores.report, scores.picture):
        assert made.is_file()
    data = scores.unseen.parent / "data"
    for folder in (data, scores.unseen):
        assert "SYNTHETIC" in (folder / "SYNTHETIC.txt").read_text()
    trained_on = {path.read_bytes() for path in (data / "imagesTr").iterdir()}
    scored_on = {path.read_bytes() for path in (scores.unseen / "imagesTr").iterdir()}
    assert (len(trained_on), len(scored_on)) == (24, 3)
    assert trained_on.isdisjoint(scored_on)
    again = run_demo(load_recipe("hippocampus_resenc"), output=tmp_path)
    assert again.trained == scores.trained
    assert (scores.bundle.parent / "log.csv").read_text().count("\n") == 5


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_it_ends_well_above_an_untrained_network(name: str, tmp_path: Path) -> None:
    scores = run_demo(load_recipe(name), output=tmp_path)
    assert scores.trained_mean > 0.5
    assert scores.trained_mean > scores.untrained_mean + 0.3
