"""When things happen in a run, in steps, and how far the run is."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Rhythm:
    """How long the run is, and what happens how often (in steps)."""

    total_steps: int
    epoch_steps: int
    validate_steps: int
    checkpoint_steps: int
    picture_steps: int
    max_seconds: float | None

    def progress(self, step: int, seconds: float, *, closing_seconds: float = 0.0) -> float:
        """How far the run is, 0 to 1: by steps, or by time where that is further.

        `closing_seconds` is what comes after the last step: it is kept free at the end, so that
        the whole run keeps to its time.
        """
        by_steps = step / self.total_steps
        if self.max_seconds is None:
            return by_steps
        return max(by_steps, seconds / max(self.max_seconds - closing_seconds, 1e-9))

    def seconds_left(self, step: int, seconds: float, *, steps_per_second: float) -> float:
        """How long the run will go on at this pace."""
        by_steps = (self.total_steps - step) / steps_per_second
        return by_steps if self.max_seconds is None else min(by_steps, self.max_seconds - seconds)

    def ends_epoch(self, step: int) -> bool:
        """Whether an epoch ends with this step."""
        return step % self.epoch_steps == 0

    def epoch(self, step: int) -> int:
        """The epoch that step belongs to, from 1."""
        return -(-step // self.epoch_steps)

    def validates(self, step: int) -> bool:
        """Whether a validation follows this step."""
        return step % self.validate_steps == 0

    def saves(self, step: int) -> bool:
        """Whether a checkpoint follows this step."""
        return step % self.checkpoint_steps == 0

    def draws(self, step: int) -> bool:
        """Whether a picture follows this step."""
        return step % self.picture_steps == 0
