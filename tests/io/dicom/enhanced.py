"""The same series as one multi-frame object: enhanced CT and MR, frames in any order."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import EnhancedCTImageStorage, EnhancedMRImageStorage

from tests.io.dicom.phantom import Made, add_pixels, decimals, save, started

SHUFFLED = (7, 2, 9, 0, 4, 11, 5, 1, 10, 3, 8, 6)
Change = Callable[[FileDataset], None]


@dataclass(frozen=True)
class Enhanced:
    """`made` in one file, its slices as frames in `order`; what is shared is told once or often."""

    made: Made
    order: Sequence[int] = SHUFFLED
    shares: bool = True
    change: Change | None = None

    @property
    def is_mr(self) -> bool:
        """Whether the object is an enhanced MR."""
        return self.made.sop_class == EnhancedMRImageStorage

    def write(self, folder: Path) -> list[Path]:
        """The one file."""
        folder.mkdir(parents=True, exist_ok=True)
        assert self.made.sop_class in (EnhancedMRImageStorage, EnhancedCTImageStorage)
        image = started(self.made, 1)
        image.Modality = "MR" if self.is_mr else "CT"
        image.NumberOfFrames = len(self.order)
        common = [self._measures(), self._turn()]
        shared, groups = Dataset(), []
        for number, place in enumerate(self.order, 1):
            own = [self._content(number, place), self._position(place), self._scaling(place)]
            groups.append(_joined([*own, *([] if self.shares else common)]))
        image.SharedFunctionalGroupsSequence = [_joined(common) if self.shares else shared]
        image.PerFrameFunctionalGroupsSequence = groups
        frames = np.stack([self.made.stored(place) for place in self.order])
        add_pixels(image, self.made.storing, frames)
        for name, value in self.made.header.items():
            setattr(image, name, value)
        if self.change:
            self.change(image)
        save(image, folder / "enhanced.dcm")
        return [folder / "enhanced.dcm"]

    def _measures(self) -> Dataset:
        part = Dataset()
        part.PixelSpacing, part.SliceThickness = decimals(self.made.layout.spacing_mm), "3"
        return _in("PixelMeasuresSequence", part)

    def _turn(self) -> Dataset:
        part = Dataset()
        part.ImageOrientationPatient = decimals(self.made.layout.cosines)
        return _in("PlaneOrientationSequence", part)

    def _content(self, number: int, place: int) -> Dataset:
        part = Dataset()
        part.StackID, part.InStackPositionNumber = "1", place + 1
        part.TemporalPositionIndex, part.FrameAcquisitionNumber = 1, number
        return _in("FrameContentSequence", part)

    def _position(self, place: int) -> Dataset:
        part = Dataset()
        part.ImagePositionPatient = decimals(self.made.layout.positions_lps_mm[place])
        return _in("PlanePositionSequence", part)

    def _scaling(self, place: int) -> Dataset:
        part = Dataset()
        part.RescaleSlope, part.RescaleIntercept = decimals(self.made.storing.scale(place))
        part.RescaleType = "US"
        return _in("PixelValueTransformationSequence", part)


def _in(name: str, part: Dataset) -> Dataset:
    group = Dataset()
    setattr(group, name, [part])
    return group


def _joined(parts: Sequence[Dataset]) -> Dataset:
    group = Dataset()
    for part in parts:
        group.update(part)
    return group
