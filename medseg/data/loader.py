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
from medseg.data.augment import Augmentation, mirrored
from medseg.data.cache import Prepared
from medseg.data.patches import Patch, place_anywhere, place_around, read_patch
from medseg.data.splits import Split
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
        self._task = task
        self._batch_size = batch_size
        self._first_foreground = round(batch_size * (1 - foreground_share))
        self._augmentation = augmentation
        self._seed = seed
        self._swap = left_right_swap(task.target)

    def __getitem__(self, number: int) -> Sample:
        """The image (c, i, j, k) float32, target (t, i, j, k) uint8, case and number."""
        case = chance.case_of_sample(number, self._cases, seed=self._seed)
        generator = chance.generator(self._seed, chance.SAMPLE, number)
        image, labels = self._prepared.image(case), self._prepared.labels(case)
        patch = Patch(
            self._task.patch_size,
            self._center(case, labels.shape, number, generator),
            self._augmentation.matrix(generator, self._task.spacing_mm),
        )
        flips = self._augmentation.flips(generator)
        part, mask = mirrored(*read_patch(image, labels, patch), axes=flips, swap=self._swap)
        part = np.ascontiguousarray(part, dtype=np.float32)
        seed = int(generator.integers(2**31))
        return {
            "image": self._augmentation.intensities(part, seed=seed),
            "target": torch.from_numpy(self._task.target.encode(np.ascontiguousarray(mask))),
            "case": case,
            "sample": number,
        }

    def _center(
        self, case: str, shape: tuple[int, ...], number: int, generator: np.random.Generator
    ) -> tuple[float, float, float]:
        size = self._task.patch_size
        sides = (shape[0], shape[1], shape[2])
        if number % self._batch_size >= self._first_foreground:
            places = self._prepared.places(case, self._task.target)
            present = [name for name, voxels in places.items() if len(voxels)]
            if present:
                voxels = places[present[generator.integers(len(present))]]
                return place_around(voxels[generator.integers(len(voxels))], sides, size)
        return place_anywhere(generator, sides, size)


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
            "target": torch.from_numpy(self._target.encode(np.array(self._prepared.labels(case)))),
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


def _one_thread(_worker: int) -> None:
    torch.set_num_threads(1)
