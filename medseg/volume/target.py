"""What a network is asked for: labels that exclude each other, or regions that may overlap."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from medseg.fault import InputFault
from medseg.volume.labels import Label, LabelTable


@dataclass(frozen=True)
class Region:
    """A union of label values, such as BraTS' whole tumor.

    `value` is what the label map receives where the region is predicted; regions are written in
    the order of the target, so a later one overwrites an earlier one.
    """

    name: str
    members: tuple[int, ...]
    value: int


@dataclass(frozen=True, eq=False)
class Target:
    """The outputs of a network: with `regions` one sigmoid each, else one softmax over labels.

    Softmax channel 0 is background, channel n the n-th label of the table. Region channels stand
    in the order of `regions`.
    """

    labels: LabelTable
    regions: tuple[Region, ...] = ()

    def __post_init__(self) -> None:
        for region in self.regions:
            strangers = [v for v in (*region.members, region.value) if v not in self.labels]
            if strangers:
                raise InputFault(
                    f"region {region.name}: values {strangers} are not in the label table "
                    f"({', '.join(map(str, self.labels.values))}).",
                    code="E_LABEL",
                )

    @property
    def is_regions(self) -> bool:
        """Whether the outputs are regions (sigmoid) rather than labels (softmax)."""
        return bool(self.regions)

    @property
    def output_channels(self) -> int:
        """How many channels the network puts out."""
        return len(self.regions) if self.regions else len(self.labels) + 1

    @property
    def dtype(self) -> type[np.uint8] | type[np.uint16]:
        """The smallest type that holds every label value."""
        return np.uint8 if max(self.labels.values) < 256 else np.uint16

    @property
    def foreground_names(self) -> tuple[str, ...]:
        """The names scores are given for: regions, or labels without background."""
        return tuple(r.name for r in self.regions) if self.regions else self.labels.names

    def mirrored_channels(self) -> tuple[int, ...]:
        """For each output channel the one that takes its place when left and right are swapped.

        Raises:
            InputFault: a region is none in the mirror, so nothing could take its place (E_MIRROR).
        """
        other = dict(self.labels.mirror_pairs())
        other.update({right: left for left, right in other.items()})
        if not self.regions:
            values = (0, *self.labels.values)
            return tuple(values.index(other.get(value, value)) for value in values)
        members = [frozenset(region.members) for region in self.regions]
        swapped = [frozenset(other.get(value, value) for value in group) for group in members]
        for region, group in zip(self.regions, swapped, strict=True):
            if group not in members:
                raise InputFault(
                    f"region {region.name} (labels {sorted(region.members)}) is labels "
                    f"{sorted(group)} in a mirror, and they are no region; add that region, or "
                    "leave axis 0 out of predict.mirror_axes.",
                    code="E_MIRROR",
                )
        return tuple(members.index(group) for group in swapped)

    def encode(self, labels: np.ndarray) -> np.ndarray:
        """What a loss wants of a label map (i, j, k).

        Softmax: class indices, uint8 or uint16, (1, i, j, k). Regions: uint8 0/1, (r, i, j, k).
        """
        if self.regions:
            masks = [np.isin(labels, region.members) for region in self.regions]
            return np.stack(masks).astype(np.uint8)
        index_of = np.zeros(max(self.labels.values) + 1, dtype=labels.dtype)
        index_of[list(self.labels.values)] = np.arange(1, len(self.labels) + 1)
        return index_of[labels][None]

    def decode(self, channels: np.ndarray) -> np.ndarray:
        """Label values (i, j, k) of class indices (1, i, j, k) or region masks (r, i, j, k)."""
        if not self.regions:
            return np.array([0, *self.labels.values], dtype=self.dtype)[channels[0]]
        labels = np.zeros(channels.shape[1:], dtype=self.dtype)
        for mask, region in zip(channels, self.regions, strict=True):
            labels[mask.astype(bool)] = region.value
        return labels

    def to_json(self) -> dict[str, Any]:
        """The target as plain JSON values."""
        mirrored = self.labels.mirrored
        return {
            "labels": [
                {
                    "value": label.value,
                    "name": label.name,
                    "color": list(label.color),
                    "codes": dict(label.codes),
                }
                for label in self.labels.labels
            ],
            "regions": [
                {"name": r.name, "members": list(r.members), "value": r.value} for r in self.regions
            ],
            **({} if mirrored is None else {"mirrored": [list(pair) for pair in mirrored]}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Target":
        """The target that `to_json` wrote."""
        stated = data.get("mirrored")
        labels = LabelTable(
            (
                Label(item["value"], item["name"], tuple(item["color"]), item["codes"])
                for item in data["labels"]
            ),
            mirrored=None if stated is None else [(left, right) for left, right in stated],
        )
        regions = tuple(
            Region(item["name"], tuple(item["members"]), item["value"]) for item in data["regions"]
        )
        return cls(labels, regions)
