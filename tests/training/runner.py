"""A tiny training run for the tests, in this process or in processes that are killed.

A network with dropout and two resolutions learns to tell bright voxels; samples are functions of
their number. As a program: `runner.py kill FOLDER WORKERS MOMENT...`, `runner.py saves FOLDER`,
`runner.py pair FOLDER`. What imports once and forks can be killed often in little time.
"""

import hashlib
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from medseg.data.loader import RunSteps, collated
from medseg.fault import InputFault
from medseg.losses.deep import DeepSupervisionLoss
from medseg.losses.dice_ce import DiceCELoss
from medseg.progress import Listener, Progress, silent
from medseg.training import checkpoints
from medseg.training.fit import FitResult, Settings, fit
from medseg.training.module import SegmentationModule
from medseg.training.optimizer import adamw
from medseg.training.schedule import warmup_cosine
from medseg.volume import LabelTable, Target

TARGET = Target(LabelTable.from_names({1: "dim", 2: "bright"}))
STEPS = 24
FAST_ADAMW = partial(adamw, lr=1e-2)


class Samples(Dataset):
    """Sample n is a function of n; that of number `spoiled` has a voxel that is no number."""

    def __init__(self, spoiled: int | None = None) -> None:
        self.spoiled = spoiled

    def __getitem__(self, number: int) -> dict:
        image = torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(number))
        target = (image > 0.5).to(torch.uint8) + (image > 1).to(torch.uint8)
        if number == self.spoiled:
            image[0, 0, 0, 0] = float("nan")
        return {"image": image, "target": target, "case": f"case{number % 7}", "sample": number}


class Data(pl.LightningDataModule):
    def __init__(
        self,
        *,
        steps: int = STEPS,
        workers: int = 0,
        batch: int = 2,
        samples: Dataset | None = None,
    ) -> None:
        super().__init__()
        self.start_step = 0
        self.steps, self.workers, self.batch = steps, workers, batch
        self.samples = samples or Samples()

    def train_dataloader(self) -> DataLoader:
        batches = RunSteps(
            start=self.start_step,
            stop=self.steps,
            batch_size=self.batch,
            rank=self.trainer.global_rank,
            world=self.trainer.world_size,
        )
        return DataLoader(
            self.samples, batch_sampler=batches, num_workers=self.workers, collate_fn=collated
        )

    def validation_cases(self) -> list[dict]:
        return [Samples()[10**6 + n] for n in range(3)]


class Network(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.first = nn.Conv3d(1, 4, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Conv3d(4, 3, 3, padding=1)
        self.low_head = nn.Conv3d(4, 3, 2, stride=2)

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        features = self.dropout(self.first(image)).relu()
        return (
            [self.head(features), self.low_head(features)] if self.training else self.head(features)
        )


def network(dropout: float = 0.2) -> nn.Module:
    torch.manual_seed(0)
    return Network(dropout)


def train(
    folder: Path,
    *,
    resume: bool = False,
    listener: Listener = silent,
    model: nn.Module | None = None,
    identity: str = "tiny",
    data: pl.LightningDataModule | None = None,
    steps: int = STEPS,
    workers: int = 0,
    batch: int = 2,
    infer: Callable[[nn.Module, Tensor], Tensor] = lambda net, image: net(image[None])[0],
    optimizer: Callable = FAST_ADAMW,
    **settings: object,
) -> tuple[FitResult, nn.Module]:
    model = model or network()
    module = SegmentationModule(
        model=model,
        loss=DeepSupervisionLoss(DiceCELoss()),
        target=TARGET,
        optimizer=optimizer,
        schedule=warmup_cosine(),
    )
    chosen = {
        "epochs": steps // 6,
        "steps_per_epoch": 6,
        "validate_every": 1,
        "checkpoint_every": 4,
        "picture_every": 100,
        "accelerator": "cpu",
        **settings,
    }
    result = fit(
        module=module,
        data=data or Data(steps=steps, workers=workers, batch=batch),
        settings=Settings(**chosen),
        folder=folder,
        infer=infer,
        identity={"model": identity},
        resume=resume,
        listener=listener,
    )
    return result, model


def digest(model: nn.Module) -> str:
    parts = (value.detach().numpy().tobytes() for value in model.state_dict().values())
    return hashlib.sha256(b"".join(parts)).hexdigest()


def in_child(work: Callable[[], object], log: Path) -> int:
    """How a forked process ended that did `work`: its exit code, or less the signal."""
    child = os.fork()
    if child == 0:
        # Reading processes of a killed run live on for seconds; the parent's pipes are not theirs.
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_here() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class KillAtStep:
    def __init__(self, step: int) -> None:
        self.step = step

    def __call__(self, event: Progress) -> None:
        if event.stage == "training" and event.done == self.step and event.total:
            kill_here()


class KillAfter:
    """Kills so many seconds after the first step, wherever the run is then."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self, event: Progress) -> None:
        if event.stage == "training" and event.total and self.seconds:
            # An alarm without a handler ends the process at once, as SIGKILL does.
            signal.setitimer(signal.ITIMER_REAL, self.seconds)
            self.seconds = 0.0


def kill(folder: Path, workers: int, moments: list[str]) -> None:
    """Kill the run at each moment (`7` after step 7, `0.05s` after that time), then end it."""
    kept = []
    for moment in moments:
        is_time = moment.endswith("s")
        listener = KillAfter(float(moment[:-1])) if is_time else KillAtStep(int(moment))
        work = partial(train, folder, resume=True, workers=workers, listener=listener)
        code = in_child(work, folder / "output.txt")
        assert code in ((-9,) if not is_time else (-14, 0)), (moment, code)
        kept.append(checkpoints.load_last(folder / "checkpoints")["state"]["step"])
        if not is_time:
            assert int(moment) - 4 <= kept[-1] <= int(moment), (moment, kept)
    result, model = train(folder, resume=True, workers=workers)
    assert result.steps == STEPS
    # The last kill may have come after the last checkpoint, and nothing was left to train.
    model.load_state_dict(checkpoints.load_last(folder / "checkpoints")["model"])
    say("KEPT", kept)
    say("WEIGHTS", digest(model))


def saves(folder: Path) -> None:
    """Kill a save before each of its calls to the system; something loadable is left each time."""

    def content(step: int) -> dict:
        weights = {"weight": torch.full((3,), float(step))}
        return {"model": weights, "state": {"step": step}, "identity": {}}

    steps = []
    for number in range(100):
        for step in (1, 2):
            checkpoints.save_last(folder, content(step))
        code = in_child(partial(_save_and_stop, folder, content(3), number), folder / "output.txt")
        loaded = checkpoints.load_last(folder)
        assert loaded["model"]["weight"].tolist() == [loaded["state"]["step"]] * 3
        steps.append(loaded["state"]["step"])
        checkpoints.tidy(folder)
        assert checkpoints.load_last(folder)["state"]["step"] == steps[-1]
        assert not list(folder.glob(".medseg-*"))
        if code == 0:
            break
    say("STEPS", steps)


def _save_and_stop(folder: Path, content: dict, number: int) -> None:
    calls = 0

    def stopping(real: Callable) -> Callable:
        def call(*args: object, **kwargs: object) -> object:
            nonlocal calls
            if calls == number:
                kill_here()
            calls += 1
            return real(*args, **kwargs)

        return call

    for name in ("open", "replace", "unlink", "fsync"):
        setattr(os, name, stopping(getattr(os, name)))
    checkpoints.save_last(folder, content)


def pair(folder: Path) -> None:
    """Train on two processes; then once more with a sample that is no number."""
    several = {"devices": 2, "strategy": "ddp"}
    _, model = train(folder / "good", model=network(0.0), **several)
    say("WEIGHTS", digest(model))
    try:
        train(folder / "bad", data=Data(samples=Samples(spoiled=13)), **several)
    except InputFault as fault:
        say("FAULT", fault.code, fault)


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def main() -> None:
    torch.set_num_threads(1)
    what, folder, *rest = sys.argv[1:]
    Path(folder).mkdir(exist_ok=True)
    if what == "kill":
        kill(Path(folder), int(rest[0]), rest[1:])
    elif what == "saves":
        saves(Path(folder))
    else:
        pair(Path(folder))


if __name__ == "__main__":
    main()
