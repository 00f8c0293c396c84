"""A case as it comes from a disk or an archive, read into the channels of a bundle."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from medseg.fault import InputFault
from medseg.io.dicom.channels import ChannelRules, channel_series, chosen_series
from medseg.io.dicom.read import read_series, series_grid
from medseg.io.dicom.series import Series
from medseg.io.nifti import read_header, read_volume
from medseg.preprocess.onto import covered_share, image_onto
from medseg.volume import Grid, Volume

LEAST_SHARED = 0.1


@dataclass(frozen=True, eq=False)
class CaseReading:
    """The image of a case; what was mended on the way; the DICOM files its first channel is of."""

    volume: Volume
    notes: tuple[str, ...] = ()
    dicom_files: tuple[Path, ...] | None = None


class Case(Protocol):
    """What can be read into a volume with the channels of a bundle."""

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that it may be read from."""
        ...

    def grid(self, channels: Sequence[str]) -> Grid:
        """The grid of its image, from the headers alone.

        Raises:
            InputFault: a header cannot be read, or the channels are others.
        """
        ...

    def read(self, channels: Sequence[str]) -> CaseReading:
        """The image, channels in the order given.

        Raises:
            InputFault: a file cannot be read, or the channels are others.
        """
        ...


@dataclass(frozen=True)
class NiftiCase:
    """A case in NIfTI files: one a channel, or one 4D file.

    `form` decides where a file's qform and sform disagree, which is refused otherwise.
    """

    files: tuple[Path, ...]
    form: Literal["sform", "qform"] | None = None

    def grid(self, channels: Sequence[str]) -> Grid:
        """See `Case.grid`."""
        headers = [read_header(file, form=self.form) for file in self.files]
        held = sum(header.channels for header in headers)
        if held != len(channels):
            raise InputFault(
                f"{self.files[0]}: the case has {held} channels and the bundle takes "
                f"{len(channels)} ({', '.join(channels)}).",
                code="E_CHANNELS",
            )
        return headers[0].grid

    def read(self, channels: Sequence[str]) -> CaseReading:
        """See `Case.read`."""
        return CaseReading(read_volume(self.files, channels, form=self.form))


@dataclass(frozen=True, eq=False)
class DicomCase:
    """A study in DICOM: its series become channels by rule, or by the user's choice.

    Series on other grids than the first channel's are resampled onto it, with a note.
    """

    study: tuple[Series, ...]
    rules: ChannelRules
    asked: tuple[str, ...] = ()
    repair: bool = True

    @property
    def files(self) -> tuple[Path, ...]:
        """See `Case.files`: those of the whole study."""
        return tuple(sorted(file for series in self.study for file in series.files))

    def grid(self, channels: Sequence[str]) -> Grid:
        """See `Case.grid`: that of the first channel, onto which the others are resampled."""
        return series_grid(self._chosen(channels)[0], repair=self.repair)

    def read(self, channels: Sequence[str]) -> CaseReading:
        """See `Case.read`."""
        chosen = self._chosen(channels)
        first = read_series(chosen[0], channels[0], repair=self.repair)
        images, notes = [first.volume.array[0]], list(first.notes)
        for series, channel in zip(chosen[1:], channels[1:], strict=True):
            reading = read_series(series, channel, repair=self.repair)
            notes += reading.notes
            images.append(self._on_first(reading.volume, first.volume, series, notes))
        image = first.volume.array if len(images) == 1 else np.stack(images)
        volume = Volume(image, first.volume.grid, tuple(channels))
        return CaseReading(volume, tuple(notes), first.files)

    def _chosen(self, channels: Sequence[str]) -> list[Series]:
        if self.asked and len(self.asked) != len(channels):
            raise InputFault(
                f"--series is given {len(self.asked)} times; the bundle takes {len(channels)} "
                f"channels ({', '.join(channels)}).",
                code="E_SERIES",
            )
        if self.asked:
            return list(chosen_series(self.study, self.asked))
        return list(channel_series(self.study, channels, self.rules))

    def _on_first(
        self, volume: Volume, first: Volume, series: Series, notes: list[str]
    ) -> np.ndarray:
        difference = first.grid.difference(volume.grid)
        if difference is None:
            return volume.array[0]
        sentence = f"{series.folder}: it lies on another grid than the first channel ({difference})"
        shared = covered_share(volume.grid, first.grid)
        if not self.repair or shared < LEAST_SHARED:
            raise InputFault(
                f"{sentence} and covers {shared:.0%} of it; register and resample the series onto "
                f"one grid{'' if self.repair else ', or leave --no-repair out'}.",
                code="E_PAIR",
            )
        notes.append(f"{sentence}; resampled onto that, {shared:.0%} of which it covers.")
        return image_onto(volume.array[0], volume.grid, first.grid)


@dataclass(frozen=True, eq=False)
class UnusableCase:
    """A case of a batch that nothing can be read of: it fails in its turn, the others are done."""

    fault: InputFault
    files: tuple[Path, ...] = ()

    def grid(self, channels: Sequence[str]) -> Grid:
        """See `Case.grid`; it always raises."""
        del channels
        raise self.fault

    def read(self, channels: Sequence[str]) -> CaseReading:
        """See `Case.read`; it always raises."""
        del channels
        raise self.fault
