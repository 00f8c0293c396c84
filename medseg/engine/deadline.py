"""What to give up so that a run ends in time: mirroring first, then overlap, then folds."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from medseg.fault import InputFault
from medseg.inference.settings import WalkSettings

# A forecast is a guess: so much of the time is planned for.
PLANNED = 0.85
STEPS = (0.75, 1.0)
AXES = "ijk"


@dataclass(frozen=True)
class Choice:
    """Settings and folds, the seconds that are forecast, and in words what was given up."""

    settings: WalkSettings
    folds: int
    seconds: float
    given_up: str


def in_time(
    deadline_s: float,
    settings: WalkSettings,
    folds: int,
    *,
    seconds_of: Callable[[WalkSettings, int], float],
    fixed: frozenset[str] = frozenset(),
) -> Choice:
    """The least that has to be given up of `settings` and `folds` to be done in `deadline_s`.

    Of mirror_axes, overlap and folds those that are `fixed` stay: the user asked for them.

    Raises:
        InputFault: not even the fastest choice is fast enough (E_DEADLINE).
    """
    choice: Choice | None = None
    for tried, kept in _ladder(settings, folds, fixed):
        seconds = seconds_of(tried, kept)
        given_up = _told(settings, folds, tried, kept)
        if choice is None or seconds < choice.seconds:
            choice = Choice(tried, kept, seconds, given_up)
        if seconds <= PLANNED * deadline_s:
            return Choice(tried, kept, seconds, given_up)
    assert choice is not None
    raise InputFault(
        f"--deadline of {deadline_s:.0f} s: the run is forecast to take {choice.seconds:.0f} s"
        f"{f' even with {choice.given_up}' if choice.given_up else ''}; allow more, or give fewer "
        "cases at a time.",
        code="E_DEADLINE",
    )


def _ladder(
    settings: WalkSettings, folds: int, fixed: frozenset[str]
) -> Iterator[tuple[WalkSettings, int]]:
    """From all that was asked for to the fastest, each rung cheaper than the one above."""
    yield settings, folds
    if "mirror_axes" not in fixed:
        while settings.mirror_axes:
            settings = replace(settings, mirror_axes=settings.mirror_axes[:-1])
            yield settings, folds
    steps = () if "overlap" in fixed else [step for step in STEPS if 1 - step < settings.overlap]
    for step in steps[:1]:
        settings = replace(settings, overlap=1 - step)
        yield settings, folds
    while folds > 1 and "folds" not in fixed:
        folds = (folds + 1) // 2
        yield settings, folds
    for step in steps[1:]:
        settings = replace(settings, overlap=1 - step)
        yield settings, folds


def _told(before: WalkSettings, folds: int, now: WalkSettings, kept: int) -> str:
    given_up = []
    lost = [AXES[axis] for axis in before.mirror_axes if axis not in now.mirror_axes]
    if lost:
        given_up.append(f"no mirroring along {', '.join(lost)}")
    if now.overlap != before.overlap:
        given_up.append(f"steps of {1 - now.overlap:g} instead of {1 - before.overlap:g}")
    if kept != folds:
        given_up.append(f"{kept} of {folds} folds")
    return " and ".join(given_up)
