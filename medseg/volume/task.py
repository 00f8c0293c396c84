"""The facts of a segmentation task that every part is handed and none may contradict."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from medseg.volume.target import Target


@dataclass(frozen=True, eq=False)
class Task:
    """Image channels in their order, what to segment, and the grid and patch of the network.

    `stage_labels` are label values that an earlier network finds: this one takes a channel more
    for each, 1 where the label is and else 0.
    """

    channels: tuple[str, ...]
    target: Target
    spacing_mm: tuple[float, float, float]
    patch_size: tuple[int, int, int]
    stage_labels: tuple[int, ...] = ()

    @property
    def in_channels(self) -> int:
        """How many channels the network takes."""
        return len(self.channels) + len(self.stage_labels)

    @property
    def out_channels(self) -> int:
        """How many channels the network puts out."""
        return self.target.output_channels

    def to_json(self) -> dict[str, Any]:
        """The task as plain JSON values."""
        return {
            "channels": list(self.channels),
            "target": self.target.to_json(),
            "spacing_mm": list(self.spacing_mm),
            "patch_size": list(self.patch_size),
            **({"stage_labels": list(self.stage_labels)} if self.stage_labels else {}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Task":
        """The task that `to_json` wrote."""
        i_mm, j_mm, k_mm = data["spacing_mm"]
        i, j, k = data["patch_size"]
        return cls(
            tuple(data["channels"]),
            Target.from_json(data["target"]),
            (i_mm, j_mm, k_mm),
            (i, j, k),
            tuple(data.get("stage_labels", ())),
        )
