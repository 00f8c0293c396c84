from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from medseg.data.augment import Augmentation, no_augmentation
from medseg.data.chance import case_of_sample
from medseg.data.foreground import foreground
from medseg.data.loader import RunSteps, SegmentationData, TrainingSamples
from medseg.data.splits import Split
from medseg.volume import LabelTable, Region, Target, Task

TABLE = LabelTable.from_names({1: "left horn", 2: "right horn", 4: "core"})
LABELS = Target(TABLE)
REGIONS = Target(TABLE, (Region("all", (1, 2, 4), 1), Region("core", (4,), 4)))
CASES = ("a", "b", "c", "d", "e")
SPLIT = Split(train=CASES[:4], validation=CASES[4:])


class Held:
    """Prepared cases held in memory; case "d" has no foreground, "c" no core."""

    cases = CASES

    def __init__(self) -> None:
        generator = np.random.default_rng(0)
        self.images, self.masks = {}, {}
        for number, case in enumerate(CASES):
            shape = (18 + number, 22, 16 - number)
            mask = np.zeros(shape, dtype=np.uint8)
            if case != "d":
                mask[2:6, 4:9, 3:7], mask[12:16, 4:9, 3:7] = 1, 2
            if case not in ("c", "d"):
                mask[9, 15:18, 10] = 4
            self.masks[case] = mask
            self.images[case] = generator.standard_normal((2, *shape), dtype=np.float32)

    def image(self, case: str) -> np.ndarray:
        return self.images[case]

    def labels(self, case: str) -> np.ndarray:
        return self.masks[case]

    def places(self, case: str, target: Target) -> dict[str, np.ndarray]:
        return {
            name: np.argwhere(np.isin(self.masks[case], members)).astype(np.uint16)
            for name, members in foreground(target).items()
        }


def _task(target: Target = LABELS) -> Task:
    return Task(("t1", "t2"), target, (1.0, 1.0, 1.0), (8, 8, 8))


def _data(*, workers: int = 0, seed: int = 3, target: Target = LABELS, **more) -> SegmentationData:
    return SegmentationData(
        prepared=Held(),  # type: ignore[arg-type]
        split=SPLIT,
        task=_task(target),
        batch_size=more.pop("batch_size", 2),
        total_steps=more.pop("total_steps", 6),
        seed=seed,
        workers=workers,
        **more,
    )


def _samples(*, batch_size: int, share: float, target: Target = LABELS) -> TrainingSamples:
    return TrainingSamples(
        prepared=Held(),  # type: ignore[arg-type]
        cases=("a", "b"),
        task=_task(target),
        batch_size=batch_size,
        foreground_share=share,
        augmentation=no_augmentation(),
        seed=0,
    )


def _equal(first: Iterable[dict], second: Iterable[dict]) -> bool:
    pairs = list(zip(first, second, strict=True))
    assert pairs
    return all(
        torch.equal(a["image"], b["image"])
        and torch.equal(a["target"], b["target"])
        and torch.equal(a["sample"], b["sample"])
        and a["case"] == b["case"]
        for a, b in pairs
    )


def test_a_batch_has_the_shapes_and_types_that_training_takes() -> None:
    batch = next(iter(_data().train_dataloader()))
    assert batch["image"].shape == (2, 2, 8, 8, 8)
    assert batch["image"].dtype == torch.float32
    assert batch["target"].shape == (2, 1, 8, 8, 8)
    assert batch["target"].dtype == torch.uint8
    assert batch["sample"].tolist() == [0, 1]
    assert set(batch["case"]) <= set(SPLIT.train)


def test_region_targets_are_masks() -> None:
    batches = list(_data(target=REGIONS, foreground_share=1.0).train_dataloader())
    assert all(batch["target"].shape == (2, 2, 8, 8, 8) for batch in batches)
    masks = torch.cat([batch["target"] for batch in batches])
    assert set(masks.unique().tolist()) == {0, 1}
    assert bool((masks[:, 0] >= masks[:, 1]).all())


def test_two_workers_give_the_batches_of_none() -> None:
    assert _equal(_data().train_dataloader(), _data(workers=2).train_dataloader())


def test_another_seed_gives_other_batches() -> None:
    assert not _equal(_data().train_dataloader(), _data(seed=4).train_dataloader())


def test_a_run_that_starts_later_sees_what_the_whole_run_saw_there() -> None:
    whole = list(_data().train_dataloader())
    for workers in (0, 2):
        resumed = _data(workers=workers)
        resumed.start_step = 4
        assert _equal(resumed.train_dataloader(), whole[4:])


def test_a_sample_is_the_same_in_any_order() -> None:
    samples, again = _data().samples, _data().samples
    first = [samples[number] for number in range(10)]
    for number in (9, 0, 4, 4, 1):
        assert torch.equal(again[number]["image"], first[number]["image"])
        assert torch.equal(again[number]["target"], first[number]["target"])


def test_ranks_share_the_samples_of_each_step() -> None:
    alone = RunSteps(start=2, stop=5, batch_size=6, rank=0, world=1)
    shared = [RunSteps(start=2, stop=5, batch_size=3, rank=rank, world=2) for rank in (0, 1)]
    assert len(alone) == len(shared[0]) == 3
    assert list(alone) == [one + two for one, two in zip(*shared, strict=True)]


def test_the_loader_takes_its_rank_from_the_trainer() -> None:
    data = _data(total_steps=2)
    data.trainer = SimpleNamespace(global_rank=1, world_size=3)  # type: ignore[assignment]
    assert [batch["sample"].tolist() for batch in data.train_dataloader()] == [[2, 3], [8, 9]]


def test_every_case_comes_once_before_any_comes_again() -> None:
    for seed in range(5):
        drawn = [case_of_sample(number, CASES, seed=seed) for number in range(30)]
        laps = [drawn[start : start + 5] for start in range(0, 30, 5)]
        assert all(sorted(lap) == list(CASES) for lap in laps)
        assert len({tuple(lap) for lap in laps}) > 1


@pytest.mark.parametrize(
    ("batch_size", "share", "expected"),
    [(2, 1 / 3, 0.5), (6, 1 / 3, 1 / 3), (4, 1.0, 1.0), (2, 0.0, 0.0), (1, 1 / 3, 1 / 3)],
)
def test_the_last_samples_of_a_batch_are_centered_on_foreground(
    batch_size: int, share: float, expected: float
) -> None:
    samples = _samples(batch_size=batch_size, share=share)
    wanted = [samples._is_centered(number) for number in range(120)]
    assert np.mean(wanted) == pytest.approx(expected, abs=0.01)
    if batch_size == 6:
        assert wanted[:6] == [False] * 4 + [True] * 2


@pytest.mark.parametrize("target", [LABELS, REGIONS], ids=["labels", "regions"])
def test_each_name_that_is_present_is_centered_as_often_as_any_other(target: Target) -> None:
    """The core has 3 voxels, a horn 80: drawn by voxel it would hardly ever be the center."""
    samples = _samples(batch_size=1, share=1.0, target=target)
    held, found = Held(), Counter()
    for number in range(150):
        sample = samples[number]
        shape = held.masks[sample["case"]].shape
        at = _place_of(sample["image"].numpy(), held.images[sample["case"]])
        center = [start + 4 for start in at]
        inside = all(0 < start < side - 8 for start, side in zip(at, shape, strict=True))
        if inside:
            found[int(held.masks[sample["case"]][tuple(center)])] += 1
    assert found[0] == 0
    assert 0.15 * sum(found.values()) < found[4]


def _place_of(patch: np.ndarray, image: np.ndarray) -> tuple[int, ...]:
    """Where a crop was taken: its first voxel's value is the only one of its kind."""
    found = np.argwhere(image[0] == patch[0, 0, 0, 0])
    assert len(found) == 1
    return tuple(int(place) for place in found[0])


def test_a_case_without_foreground_is_drawn_anywhere() -> None:
    samples = TrainingSamples(
        prepared=Held(),  # type: ignore[arg-type]
        cases=("d",),
        task=_task(),
        batch_size=1,
        foreground_share=1.0,
        augmentation=Augmentation(),
        seed=0,
    )
    images = [samples[number]["image"] for number in range(4)]
    assert all(image.shape == (2, 8, 8, 8) for image in images)


def test_a_sample_centered_on_foreground_holds_it_whatever_the_augmentation() -> None:
    always = {name: 1.0 for name in vars(Augmentation()) if name.endswith("_probability")}
    samples = TrainingSamples(
        prepared=Held(),  # type: ignore[arg-type]
        cases=("c",),
        task=_task(),
        batch_size=1,
        foreground_share=1.0,
        augmentation=Augmentation(**always),
        seed=0,
    )
    # A patch that was moved into the volume may turn the voxel out of its corner.
    held = [bool(samples[number]["target"].any()) for number in range(30)]
    assert np.mean(held) > 0.9


def test_validation_gives_whole_cases() -> None:
    held = Held()
    cases = _data().validation_cases()
    assert len(cases) == 1
    case = cases[0]
    assert case["case"] == "e"
    np.testing.assert_array_equal(case["image"], held.images["e"])
    assert set(np.unique(case["target"])) == {0, 1, 2, 3}
    np.testing.assert_array_equal(LABELS.decode(case["target"].numpy()), held.masks["e"])


def test_many_labels_become_a_target_that_torch_can_count_with() -> None:
    wide = Target(LabelTable.from_names({value: f"part {value}" for value in range(1, 301)}))
    sparse = Target(LabelTable.from_names({7: "one", 4000: "other"}))
    for target, dtype in ((wide, torch.int32), (sparse, torch.uint8)):
        held = Held()
        held.masks["e"] = np.full(held.masks["e"].shape, target.labels.values[-1], np.uint16)
        data = SegmentationData(
            prepared=held,  # type: ignore[arg-type]
            split=SPLIT,
            task=_task(target),
            batch_size=1,
            total_steps=1,
        )
        got = data.validation_cases()[0]["target"]
        assert got.dtype == dtype
        assert bool((got == len(target.labels)).all())


def test_a_worker_uses_one_thread(tmp_path: Path) -> None:
    class Witness(Held):
        def image(self, case: str) -> np.ndarray:
            (tmp_path / str(torch.get_num_threads())).touch()
            return super().image(case)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        data = SegmentationData(
            prepared=Witness(),  # type: ignore[arg-type]
            split=SPLIT,
            task=_task(),
            batch_size=1,
            total_steps=2,
            workers=1,
        )
        assert len(list(data.train_dataloader())) == 2
    finally:
        torch.set_num_threads(before)
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
