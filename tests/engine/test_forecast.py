from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medseg.bundle.inputs import UnusableCase
from medseg.engine.deadline import in_time
from medseg.engine.effort import effort_on
from medseg.engine.forecast import case_forecast, run_seconds, seen
from medseg.engine.job import Outcome
from medseg.engine.once import run_job
from medseg.engine.speed import Speed, keep_speed, kept_speed, measured_speed, speed_of
from medseg.fault import InputFault
from medseg.inference.settings import WalkSettings
from medseg.preprocess.normalise import Normalisation
from medseg.preprocess.record import Preprocessing
from medseg.volume import Grid, Volume
from tests.engine.small import images, job, jobs, predictor

FULL = WalkSettings(mirror_axes=(0, 1, 2), overlap=0.5)


def cost(settings: WalkSettings, folds: int) -> float:
    """40 s a fold at step 0.5 and no mirroring."""
    return 40 * folds * 2 ** len(settings.mirror_axes) * (0.5 / (1 - settings.overlap)) ** 3


@pytest.mark.parametrize(
    ("deadline_s", "mirrored", "overlap", "folds", "words"),
    [
        (2000, (0, 1, 2), 0.5, 5, ""),
        (1000, (0, 1), 0.5, 5, "no mirroring along k"),
        (240, (), 0.5, 5, "no mirroring along i, j, k"),
        (75, (), 0.25, 5, "steps of 0.75 instead of 0.5"),
        (45, (), 0.25, 3, "3 of 5 folds"),
        (8, (), 0.0, 1, "steps of 1 instead of 0.5 and 1 of 5 folds"),
    ],
)
def test_a_deadline_gives_up_no_more_than_it_must(
    deadline_s: float, mirrored: tuple, overlap: float, folds: int, words: str
) -> None:
    choice = in_time(deadline_s, FULL, 5, seconds_of=cost)
    assert (choice.settings.mirror_axes, choice.settings.overlap) == (mirrored, overlap)
    assert choice.folds == folds
    assert words in choice.given_up
    assert bool(words) == bool(choice.given_up)


def test_what_the_user_asked_for_is_not_given_up() -> None:
    fixed = frozenset({"mirror_axes", "folds"})
    choice = in_time(600, FULL, 5, seconds_of=cost, fixed=fixed)
    assert (choice.settings.mirror_axes, choice.folds) == ((0, 1, 2), 5)
    assert choice.settings.overlap == 0.25


def test_a_deadline_that_cannot_be_met_is_refused_with_the_number() -> None:
    with pytest.raises(InputFault, match="take 5 s even with") as fault:
        in_time(3, FULL, 5, seconds_of=cost)
    assert fault.value.code == "E_DEADLINE"


def test_the_shape_forecast_is_that_of_preprocessing() -> None:
    affine = np.diag([-1.5, 2.0, 3.0, 1.0])[[2, 0, 1, 3]]
    grid = Grid((20, 30, 10), affine)
    array = np.random.default_rng(0).random((1, 20, 30, 10)).astype(np.float32)
    for spacing in (None, (1.0, 1.0, 2.0), (None, 1.0, None)):
        preprocessing = Preprocessing(spacing, (Normalisation("none"),))
        walker = predictor()
        walker = type(walker)(models=walker.models, task=walker.task, preprocessing=preprocessing)
        prepared, _ = preprocessing.apply(Volume(array, grid, ("MR",)))
        effort = effort_on(walker, grid, settings=FULL, folds=3)
        assert effort.shape == prepared.shape[1:]
        assert effort.forwards == effort.windows * 3 * 8


def test_the_forwards_forecast_are_those_that_are_run(tmp_path: Path) -> None:
    walker = predictor(mirror_axes=(1,), overlap=0.25)
    runs: list[int] = []
    walker.models[0].register_forward_hook(lambda _m, given, _out: runs.append(len(given[0])))
    given = jobs(tmp_path / "o", images(tmp_path / "i", 1))
    (sight,) = seen(given, ("MR",))
    forecast = case_forecast(walker, sight, Speed(1.0, 0.001, 2.0))
    assert forecast.seconds == pytest.approx(forecast.effort.forwards + 2.72)
    assert forecast.peak_bytes > 0
    runs.clear()
    outcome = run_job(walker, given[0])
    assert outcome.forwards == forecast.effort.forwards == sum(runs)


def test_a_header_that_cannot_be_read_is_in_the_forecast_too(tmp_path: Path) -> None:
    fault = InputFault("no", code="E_X")
    given = [job(tmp_path, "a", UnusableCase(fault))]
    (forecast,) = (case_forecast(predictor(), s, Speed(1, 1, 1)) for s in seen(given, ("MR",)))
    assert forecast.fault is fault


def test_an_overlapped_run_is_as_long_as_its_slower_part(tmp_path: Path) -> None:
    walker = predictor()
    sights = seen(jobs(tmp_path / "o", images(tmp_path / "i", 4)), ("MR",))
    speed = Speed(1.0, 1 / 1440, 0.5)
    forwards = sum(
        effort_on(walker, sight.grid, settings=walker.settings, folds=1).forwards
        for sight in sights
        if sight.grid is not None
    )
    assert forwards > 4
    for overlapped, seconds in ((True, forwards + 1), (False, forwards + 4)):
        found = run_seconds(
            walker, sights, speed, settings=walker.settings, folds=1, overlapped=overlapped
        )
        assert found == pytest.approx(seconds)


def test_speed_is_measured_while_working_and_kept_by_machine_bundle_and_precision(
    tmp_path: Path,
) -> None:
    walker = predictor(0.01)
    assert kept_speed(tmp_path, walker, "a") is None
    assert measured_speed(walker).forward_s >= 0.01
    outcomes = [run_job(walker, one) for one in jobs(tmp_path / "o", images(tmp_path / "i", 2))]
    speed = speed_of(outcomes)
    assert speed is not None
    assert 0.01 <= speed.forward_s < 0.5
    assert keep_speed(tmp_path / "s", walker, "a", speed)
    assert kept_speed(tmp_path / "s", walker, "a") == speed
    assert kept_speed(tmp_path / "s", walker, "b") is None
    assert kept_speed(tmp_path / "s", predictor(precision="bf16"), "a") is None
    keep_speed(tmp_path / "s", walker, "a", replace(speed, forward_s=3 * speed.forward_s))
    again = kept_speed(tmp_path / "s", walker, "a")
    assert again is not None
    assert again.forward_s == pytest.approx(2 * speed.forward_s)
    (file,) = (tmp_path / "s").iterdir()
    for damage in ("", '{"forward_s": -1, "voxel_s": 1}', '{"forward_s": NaN, "voxel_s": 1}'):
        file.write_text(damage)
        assert kept_speed(tmp_path / "s", walker, "a") is None


def outcome(voxels: int, seconds: float) -> Outcome:
    return Outcome(
        case="a",
        state="done",
        read_s=seconds / 2,
        write_s=seconds / 2,
        network_s=6.0,
        forwards=3,
        image_voxels=voxels,
    )


def test_what_a_case_takes_is_told_from_what_a_voxel_takes() -> None:
    sizes = (1_000, 60_000, 10_000_000, 40_000_000)
    speed = speed_of([outcome(1, 99.0), *(outcome(n, 0.2 + n * 1e-7) for n in sizes)])
    assert speed is not None
    assert speed.forward_s == pytest.approx(2)
    assert (speed.voxel_s, speed.case_s) == (pytest.approx(1e-7), pytest.approx(0.2))
    alike = speed_of([outcome(60_000, 0.3) for _ in range(4)])
    assert alike is not None
    # A study of 100 million voxels is not taken for 1700 such cases.
    assert alike.around_s(60_000) == pytest.approx(0.3)
    assert alike.around_s(100_000_000) < 30
    assert speed_of([outcome(1, 1.0)]) is None


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert not keep_speed(tmp_path / "file" / "s", predictor(), "a", Speed(1, 1, 1))
