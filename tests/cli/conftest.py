"""A small synthetic set, and how it is trained on in a second."""

from collections.abc import Callable
from pathlib import Path

import pytest

from medseg.cli import main
from medseg.data.card import load_card
from medseg.data.phantom.dataset import make_phantom

Arguments = Callable[..., list[str]]
SMALL = [
    "model.base_features=4",
    "model.stages=3",
    "plan.patch_size=[24, 32, 24]",
    "trainer.epochs=2",
    "trainer.steps_per_epoch=3",
    "trainer.validate_every=1",
    "trainer.picture_every=1",
    "trainer.accelerator=cpu",
]


@pytest.fixture(scope="session")
def hippocampi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    return make_phantom(load_card("hippocampus"), folder, subjects=6, seed=3)


@pytest.fixture(scope="session")
def training() -> Arguments:
    """Arguments that train a small network on `root` into `output`."""

    def arguments(root: Path, output: Path, *more: str) -> list[str]:
        settings = [f"data.root={root}", *SMALL, *more]
        return ["train", "hippocampus_resenc", *settings, "-o", str(output)]

    return arguments


@pytest.fixture(scope="session")
def run(hippocampi: Path, training: Arguments, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    output = tmp_path_factory.mktemp("runs")
    assert main(training(hippocampi, output)) == 0
    return output / "hippocampus_resenc" / "fold_0"
