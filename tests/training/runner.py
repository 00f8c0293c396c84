"""A tiny training run for the tests, in this process or as a child: `runner.py FOLDER ...`.

Two convolutions with dropout learn to tell bright voxels; data are functions of their number.
"""

import hashlib
import os
import signal
import sys
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from medseg.data.loader import RunSteps, collated
from medseg.losses.dice_ce import DiceCELoss
from medseg.progress import Listener, Progress, silent
from medseg.training.fit import FitResult, Settings, fit
from medseg.training.module import SegmentationModule
from medseg.training.optimizer import adamw
from medseg.training.schedule import warmup_cosine
from medseg.volume import LabelTable, Target

TARGET = Target(LabelTable.from_names({1: "dim", 2: "bright"}))


class Samples(Dataset):
    def __getitem__(self, number: int) -> dict:
        image = torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(number))
        target = (image > 0.5).to(torch.uint8) + (image > 1).to(torch.uint8)
        return {"image": image, "target": target, "case": f"case{number % 7}", "sample": number}


class Data(pl.LightningDataModule):
    def __init__(self, *, steps: int, workers: int = 0, batch: int = 2) -> None:
        super().__init__()
        self.start_step = 0
        self.steps, self.workers, self.batch = steps, workers, batch

    def train_dataloader(self) -> DataLoader:
        batches = RunSteps(
            start=self.start_step,
            stop=self.steps,
            batch_size=self.batch,
            rank=self.trainer.global_rank,
            world=self.trainer.world_size,
        )
        return DataLoader(
            Samples(), batch_sampler=batches, num_workers=self.workers, collate_fn=collated
        )

    def validation_cases(self) -> list[dict]:
        return [Samples()[10**6 + n] for n in range(3)]


def network(dropout: float = 0.2) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv3d(1, 4, 3, padding=1), nn.Dropout(dropout), nn.ReLU(), nn.Conv3d(4, 3, 3, padding=1)
    )


def train(
    folder: Path,
    *,
    steps: int = 24,
    resume: bool = False,
    workers: int = 0,
    batch: int = 2,
    listener: Listener = silent,
    model: nn.Module | None = None,
    identity: str = "tiny",
    data: pl.LightningDataModule | None = None,
    **settings: object,
) -> tuple[FitResult, nn.Module]:
    model = model or network()
    module = SegmentationModule(
        model=model,
        loss=DiceCELoss(batch_dice=False),
        target=TARGET,
        optimizer=partial(adamw, lr=1e-2),
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
        infer=lambda net, image: net(image[None])[0],
        identity={"model": identity},
        resume=resume,
        listener=listener,
    )
    return result, model


def digest(model: nn.Module) -> str:
    parts = (value.detach().numpy().tobytes() for value in model.state_dict().values())
    return hashlib.sha256(b"".join(parts)).hexdigest()


class KillAt:
    """SIGKILL to this very process at a step: nothing is tidied up."""

    def __init__(self, step: int) -> None:
        self.step = step

    def __call__(self, event: Progress) -> None:
        if event.stage == "training" and event.done == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    folder, workers, kill, devices = sys.argv[1:5]
    torch.set_num_threads(1)
    several = devices != "1"
    result, model = train(
        Path(folder),
        resume=(Path(folder) / "checkpoints" / "last.ckpt").exists() and not several,
        workers=int(workers),
        listener=KillAt(int(kill)),
        model=network(0.0 if several else 0.2),
        devices=int(devices),
        strategy="ddp" if several else "auto",
    )
    assert result.steps == 24
    sys.stdout.write(f"WEIGHTS {digest(model)} {weight_sum(model):.6f}\n")
    sys.stdout.flush()


def weight_sum(model: nn.Module) -> float:
    return float(sum(value.abs().double().sum() for value in model.state_dict().values()))


if __name__ == "__main__":
    main()
