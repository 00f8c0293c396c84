"""Batches for training, and whole cases for validation.

Training sample n of a run is a function of (seed, n): case, place and augmentation. Step s of a run
on W ranks takes samples [s * W * b, (s + 1) * W * b), so a resumed run starts its sampler at s.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from medseg.data import chance
from medseg.data.augment import Augmentation
from medseg.data.cache import Prepared
from medseg.data.splits import Split
from medseg.data.transforms import CENTERED, IMAGE, LABELS, PLACES
from medseg.volume import Target, Task

Sample = dict[str, Any]


class SegmentationData(pl.LightningDataModule):
    """Patches of the training cases and whole validation cases.

    Args:
        prepared: the prepared cases.
        split: which to train on and which to validate on.
        task: channels, target and patch size.
        batch_size: patches a step and rank.
        total_steps: steps of the whole run.
        foreground_share: share of a batch that is centered on a voxel of a label or region.
        augmentation: what may happen to a patch.
        seed: of all chance in here.
        workers: processes that read ahead; 0 reads in this one.
    """

    def __init__(
        self,
        *,
        prepared: Prepared,
        split: Split,
        task: Task,
        batch_size: int,
        total_steps: int,
        foreground_share: float = 1 / 3,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        workers: int = 0,
    ) -> None:
        super().__init__()
        self.start_step = 0
        self.samples = TrainingSamples(
            prepared=prepared,
            cases=split.train,
            task=task,
            batch_size=batch_size,
            foreground_share=foreground_share,
            augmentation=augmentation or Augmentation(),
            seed=seed,
        )
        self._prepared = prepared
        self._validation = split.validation
        self._target = task.target
        self._batch_size = batch_size
        self._total_steps = total_steps
        self._workers = workers

    def train_dataloader(self) -> DataLoader:
        """The batches from `start_step` to the end of the run, this rank's share of them."""
        trainer = self.trainer
        batches = RunSteps(
            start=self.start_step,
            stop=self._total_steps,
            batch_size=self._batch_size,
            rank=trainer.global_rank if trainer else 0,
            world=trainer.world_size if trainer else 1,
        )
        return DataLoader(
            self.samples,
            batch_sampler=batches,
            num_workers=self._workers,
            collate_fn=collated,
            worker_init_fn=_one_thread if self._workers else None,
        )

    def validation_cases(self) -> Sequence[Sample]:
        """The whole validation cases: image (c, i, j, k), encoded target and name; read lazily."""
        return WholeCases(self._prepared, self._validation, self._target)


class TrainingSamples(Dataset):
    """Sample n, from (seed, n) alone."""

    def __init__(
        self,
        *,
        prepared: Prepared,
        cases: tuple[str, ...],
        task: Task,
        batch_size: int,
        foreground_share: float,
        augmentation: Augmentation,
        seed: int,
    ) -> None:
        self._prepared = prepared
        self._cases = cases
        self._target = task.target
        self._batch_size = batch_size
        self._foreground_share = foreground_share
        self._seed = seed
        self._chain = augmentation.transforms(
            size=task.patch_size, spacing_mm=task.spacing_mm, swap=left_right_swap(task.target)
        )

    def __getitem__(self, number: int) -> Sample:
        """The image (c, i, j, k) float32, target (t, i, j, k), case and number."""
        case = chance.case_of_sample(number, self._cases, seed=self._seed)
        state = chance.state(self._seed, chance.SAMPLE, number)
        data = {
            IMAGE: self._prepared.image(case),
            LABELS: self._prepared.labels(case),
            PLACES: self._prepared.places(case, self._target),
            CENTERED: self._is_centered(number),
        }
        for transform in self._chain:
            data = transform.set_random_state(state=state)(data)  # type: ignore[operator]
        return {
            "image": data[IMAGE],
            "target": _encoded(self._target, data[LABELS]),
            "case": case,
            "sample": number,
        }

    def _is_centered(self, number: int) -> bool:
        """Whether sample `number` is centered on a foreground voxel: the last ones of a batch.

        The share of a batch is rounded, as nnU-Net does it. Where that leaves none, it is one
        sample every so many steps, so that batches of one see foreground too.
        """
        step, place = divmod(number, self._batch_size)
        wanted = self._batch_size * self._foreground_share
        first = round(self._batch_size - wanted)
        if first < self._batch_size:
            return place >= first
        return place == self._batch_size - 1 and int((step + 1) * wanted) > int(step * wanted)


class WholeCases(Sequence[Sample]):
    """Whole prepared cases, read when asked for."""

    def __init__(self, prepared: Prepared, cases: tuple[str, ...], target: Target) -> None:
        self._prepared = prepared
        self._cases = cases
        self._target = target

    def __len__(self) -> int:
        return len(self._cases)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return WholeCases(self._prepared, self._cases[place], self._target)
        case = self._cases[place]
        return {
            "image": torch.from_numpy(np.array(self._prepared.image(case))),
            "target": _encoded(self._target, np.array(self._prepared.labels(case))),
            "case": case,
        }


class RunSteps(Sampler[list[int]]):
    """The sample numbers of each step that is left, for one rank."""

    def __init__(self, *, start: int, stop: int, batch_size: int, rank: int, world: int) -> None:
        self._steps = range(start, stop)
        self._batch_size = batch_size
        self._rank = rank
        self._world = world

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[list[int]]:
        for step in self._steps:
            first = (step * self._world + self._rank) * self._batch_size
            yield list(range(first, first + self._batch_size))


def collated(samples: Sequence[Sample]) -> Sample:
    """A batch of samples: image (b, c, i, j, k), target (b, t, i, j, k), the cases' names."""
    return {
        "image": torch.stack([sample["image"] for sample in samples]),
        "target": torch.stack([sample["target"] for sample in samples]),
        "case": [sample["case"] for sample in samples],
        "sample": torch.tensor([sample["sample"] for sample in samples]),
    }


def left_right_swap(target: Target) -> np.ndarray | None:
    """A table that exchanges the values of left and right labels; None where there are none."""
    pairs: Sequence[tuple[int, int]] = target.labels.mirror_pairs()
    if not pairs:
        return None
    table = np.arange(max(target.labels.values) + 1)
    exchange: Mapping[int, int] = dict(pairs) | {right: left for left, right in pairs}
    table[list(exchange)] = list(exchange.values())
    return table.astype(np.uint8 if len(table) <= 256 else np.uint16)


def _encoded(target: Target, labels: np.ndarray) -> torch.Tensor:
    """The target of a loss: uint8, or int32 where there are more than 256 classes."""
    encoded = target.encode(labels)
    wide = encoded.dtype != np.uint8 and target.output_channels > 256
    return torch.from_numpy(encoded.astype(np.int32 if wide else np.uint8, copy=False))


def _one_thread(_worker: int) -> None:
    torch.set_num_threads(1)
