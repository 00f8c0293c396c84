"""What a run does besides its steps: stopping, logging, choosing the best, keeping time."""

import csv
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from medseg.fault import InputFault
from medseg.progress import Progress
from medseg.training.checkpoints import load_checkpoint
from medseg.training.schedule import poly, warmup_cosine
from medseg.training.state import RunState


def test_training_learns(runner: ModuleType, tmp_path: Path) -> None:
    result, _ = runner.train(tmp_path, steps=60, checkpoint_every=100, validate_every=5)
    rows = list(csv.DictReader((tmp_path / "log.csv").read_text().splitlines()))
    assert float(rows[-1]["loss"]) < 0.8 * float(rows[0]["loss"])
    assert result.steps == 60
    assert result.best_score > 0


def test_a_loss_that_is_no_number_stops_with_the_cases(runner: ModuleType, tmp_path: Path) -> None:
    samples = runner.Samples(spoiled=13)
    with pytest.raises(InputFault, match="case5, case6"):
        runner.train(tmp_path, data=runner.Data(samples=samples))
    content = load_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    assert content["state"]["step"] == 6
    assert all(torch.isfinite(value).all() for value in content["model"].values())


def test_a_time_limit_ends_the_run_with_its_schedule(runner: ModuleType, tmp_path: Path) -> None:
    rates = []

    class Rated(runner.Data):
        def on_after_batch_transfer(self, batch: dict, dataloader_idx: int) -> dict:  # noqa: ARG002
            rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
            return batch

    result, _ = runner.train(
        tmp_path, max_time_s=1.0, epochs=10**4, data=Rated(steps=6 * 10**4), checkpoint_every=10**4
    )
    assert 0.8 < result.seconds < 6.0  # up to the last step that still fits
    assert result.steps < 6 * 10**4
    assert rates[-1] < 0.05 * max(rates)


def test_progress_tells_rate_and_time_left(runner: ModuleType, tmp_path: Path) -> None:
    events: list[Progress] = []
    runner.train(tmp_path, epochs=1, listener=events.append)
    steps = [event.done for event in events if event.stage == "training"]
    assert steps == [1, 2, 3, 4, 5, 6]
    assert events[-1].detail["rate"] > 0
    assert events[-1].detail["seconds_left"] == 0


def test_bf16_trains_with_the_loss_in_float32(runner: ModuleType, tmp_path: Path) -> None:
    result, model = runner.train(tmp_path, epochs=2, precision="bf16-mixed")
    assert result.steps == 12
    assert all(value.dtype == torch.float32 for value in model.state_dict().values())


def test_the_running_mean_picks_the_best() -> None:
    state = RunState()
    assert state.add_score(0.5)
    assert state.add_score(0.7)
    assert state.ema == pytest.approx(0.52)
    assert not state.add_score(0.1)
    assert state.best_score == 0.7


def test_schedules_start_and_end_where_they_should() -> None:
    cosine, polynomial = warmup_cosine(warmup=0.1), poly()
    assert cosine(0.05) == pytest.approx(0.5)
    assert cosine(0.1) == pytest.approx(1.0)
    assert cosine(1.0) == pytest.approx(0.0)
    assert polynomial(0.0) == 1.0
    assert polynomial(0.5) == pytest.approx(0.5**0.9)
    assert polynomial(1.5) == 0.0


def test_validation_leaves_the_network_training(runner: ModuleType, tmp_path: Path) -> None:
    modes = []

    class Watched(nn.Conv3d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            modes.append(self.training)
            return super().forward(x)

    runner.train(tmp_path, epochs=1, model=Watched(1, 3, 1))
    # three cases are scored, one is drawn
    assert modes == [True] * 6 + [False] * 4
