"""The running average of the weights is what a run validates and keeps, and it outlives a crash."""

from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from medseg.progress import Progress
from medseg.training.average import WeightAverage
from medseg.training.checkpoints import load_checkpoint

DECAY = 0.8


def test_late_weights_count_by_the_decay_and_early_ones_less() -> None:
    average = WeightAverage({"w": torch.tensor([8.0]), "n": torch.tensor(0)}, decay=DECAY)
    average.add({"w": torch.tensor([0.0]), "n": torch.tensor(1)}, step=1)
    assert average.state()["w"].item() == pytest.approx(8 * 2 / 11)
    average.add({"w": torch.tensor([1.0]), "n": torch.tensor(2)}, step=10**6)
    assert average.state()["w"].item() == pytest.approx(0.8 * 16 / 11 + 0.2)
    assert average.state()["n"].item() == 2


def test_a_network_has_the_average_only_for_a_while() -> None:
    model = nn.Linear(3, 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    average = WeightAverage({name: value + 1 for name, value in before.items()}, decay=DECAY)
    with average.in_place_of(model):
        assert torch.equal(model.weight, before["weight"] + 1)
    assert torch.equal(model.weight, before["weight"])


def test_the_average_of_bfloat16_weights_does_not_stand_still() -> None:
    average = WeightAverage({"w": torch.zeros(1, dtype=torch.bfloat16)}, decay=0.999)
    for step in range(10**6, 10**6 + 6000):
        average.add({"w": torch.ones(1, dtype=torch.bfloat16)}, step=step)
    assert average.state()["w"].item() == pytest.approx(1 - 0.999**6000, abs=1e-3)


def test_the_average_of_a_checkpoint_goes_to_the_weights_device() -> None:
    average = WeightAverage({"w": torch.zeros(1)}, decay=DECAY)
    average.add({"w": torch.zeros(1, device="meta")}, step=1)
    assert average.state()["w"].device.type == "meta"


class Stopped(Exception):
    """Stands for a crash."""


def test_what_is_validated_and_kept_is_the_average(runner: ModuleType, tmp_path: Path) -> None:
    scored = []

    def infer(model: nn.Module, image: torch.Tensor) -> torch.Tensor:
        scored.append(model.first.weight.detach().clone())
        return model(image[None])[0]

    runner.train(tmp_path, average=DECAY, validate_every=4, infer=infer)
    best, last = (
        load_checkpoint(tmp_path / "checkpoints" / f"{name}.ckpt") for name in ("best", "last")
    )
    weights, averaged = last["model"], last["average"]
    assert torch.equal(scored[-1], averaged["first.weight"])
    assert torch.equal(best["model"]["first.weight"], averaged["first.weight"])
    assert not torch.equal(weights["first.weight"], averaged["first.weight"])


def test_a_resumed_run_averages_on(runner: ModuleType, tmp_path: Path) -> None:
    def stop(event: Progress) -> None:
        if event.done == 13:
            raise Stopped

    runner.train(tmp_path / "whole", average=DECAY)
    with pytest.raises(Stopped):
        runner.train(tmp_path / "stopped", average=DECAY, listener=stop)
    runner.train(tmp_path / "stopped", average=DECAY, resume=True)
    whole, stopped = (
        load_checkpoint(tmp_path / run / "checkpoints" / "last.ckpt")
        for run in ("whole", "stopped")
    )
    for part in ("model", "average"):
        assert whole[part].keys() == stopped[part].keys() != set()
        assert all(torch.equal(value, stopped[part][name]) for name, value in whole[part].items())
