"""How far a run is: what a checkpoint holds beside weights and optimizer."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

SMOOTHING = 0.9


@dataclass
class RunState:
    """Steps done, seconds spent over all sessions, and the scores that pick the best model.

    `ema` is nnU-Net's running mean of the validation Dice, 0.9 old + 0.1 new; the best model is
    the one at its highest. `closing_seconds` is how long the latest validation took.
    """

    step: int = 0
    seconds: float = 0.0
    closing_seconds: float = 0.0
    epoch_loss: float = 0.0
    epoch_steps: int = 0
    ema: float = math.nan
    best_ema: float = -math.inf
    score: float = math.nan
    best_score: float = math.nan

    def add_loss(self, loss: float) -> None:
        """Count one step's loss into the mean of the epoch."""
        self.epoch_loss += loss
        self.epoch_steps += 1

    def take_epoch_loss(self) -> float:
        """The mean loss of the epoch; the next one begins."""
        mean = self.epoch_loss / max(self.epoch_steps, 1)
        self.epoch_loss, self.epoch_steps = 0.0, 0
        return mean

    def add_score(self, score: float) -> bool:
        """Take in a validation Dice; True where the running mean is the highest so far."""
        self.score = score
        self.ema = score if math.isnan(self.ema) else SMOOTHING * self.ema + (1 - SMOOTHING) * score
        if self.ema <= self.best_ema:
            return False
        self.best_ema, self.best_score = self.ema, score
        return True

    def to_plain(self) -> dict[str, Any]:
        """The state as a dictionary of numbers."""
        return asdict(self)

    @classmethod
    def from_plain(cls, numbers: Mapping[str, Any]) -> Self:
        """The state of `to_plain`; numbers that this version does not know are left out."""
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in numbers.items() if name in known})
