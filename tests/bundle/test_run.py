"""How a run begins: which process writes, and what a run without a checkpoint starts from."""

from pathlib import Path

import pytest

from medseg.bundle import run
from medseg.cli import main
from medseg.data.card import load_card
from medseg.data.phantom.dataset import make_phantom
from medseg.fault import InputFault
from medseg.recipe import load_recipe
from medseg.recipe.networks.network import NetworkSection
from medseg.training import trainer
from medseg.training.trainer import is_first_rank


class Reached(Exception):
    """Stands for the training."""


@pytest.mark.parametrize(("task", "first"), [("0", True), ("1", False)])
def test_slurm_says_which_of_its_tasks_writes(
    monkeypatch: pytest.MonkeyPatch, task: str, first: bool
) -> None:
    for name, value in {
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_JOB_NAME": "medseg",
        "SLURM_PROCID": task,
        "SLURM_LOCALID": task,
        "SLURM_NODEID": "0",
    }.items():
        monkeypatch.setenv(name, value)
    assert is_first_rank() == first


def test_a_run_that_kept_no_step_begins_with_the_pretrained_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []

    def train(*_args: object, **_options: object) -> None:
        raise Reached

    monkeypatch.setattr(run, "_fit", train)
    monkeypatch.setattr(NetworkSection, "load_pretrained", lambda *_: loaded.append(1))
    root = make_phantom(load_card("hippocampus"), tmp_path / "set", subjects=5, seed=0)
    small = ["model.base_features=4", "model.stages=3", "plan.patch_size=[24, 32, 24]"]
    recipe = load_recipe("hippocampus_resenc", [f"data.root={root}", *small])
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    for resume in (True, False):
        with pytest.raises(Reached):
            run.train_run(recipe, folder=folder, resume=resume)
    assert loaded == [1, 1]
    (folder / "checkpoints" / "last.ckpt").touch()
    with pytest.raises(Reached):
        run.train_run(recipe, folder=folder, resume=True)
    assert loaded == [1, 1]


def test_gpus_that_are_not_there_are_told_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer.CUDAAccelerator, "auto_device_count", lambda: 0)
    monkeypatch.setattr(trainer.MPSAccelerator, "is_available", lambda: False)
    recipe = load_recipe("hippocampus_resenc", ["trainer.accelerator=gpu", "data.root=nowhere"])
    with pytest.raises(InputFault, match="torch sees 0 GPUs here") as fault:
        run.train_run(recipe, folder=tmp_path / "run")
    assert fault.value.code == "E_DEVICE"


def test_settings_that_shape_the_weights_are_not_changed_by_a_resume(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_phantom(load_card("hippocampus"), tmp_path / "set", subjects=5, seed=0)
    settings = [
        "model.base_features=4",
        "model.stages=3",
        "plan.patch_size=[24, 32, 24]",
        "trainer.epochs=1",
        "trainer.steps_per_epoch=1",
        "trainer.accelerator=cpu",
    ]
    train = ["train", "hippocampus_resenc", f"data.root={root}", *settings, "-o", str(tmp_path)]
    assert main(train) == 0
    for change in ("gradient_clip=1", "average=0.5", "foreground_share=0"):
        assert main([*train, "--resume", f"trainer.{change}"]) == 2
        assert f"({change.split('=')[0]}:" in capsys.readouterr().err
    kept = tmp_path / "hippocampus_resenc" / "fold_0" / "recipe.yaml"
    assert "checkpoint_every: 100" in kept.read_text()
    assert main([*train, "--resume", "trainer.checkpoint_every=7"]) == 0
    assert "checkpoint_every: 7" in kept.read_text()
