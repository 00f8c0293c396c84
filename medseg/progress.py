"""Progress as events: the library tells, the terminal (or Slicer, or a log) draws."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Progress:
    """`done` of `total` units of `stage` are ready; `detail` holds figures such as the loss.

    `text` names the unit at hand. With a `total` of 0 it is a sentence to be told on its own.
    """

    stage: str
    done: int
    total: int
    detail: Mapping[str, float] = field(default_factory=dict)
    text: str = ""


Listener = Callable[[Progress], None]


def silent(_event: Progress) -> None:
    """Take no notice."""
