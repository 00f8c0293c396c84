"""What is written of a prediction: the formats that were asked for, and where each one goes."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medseg.fault import InputFault, all_at_once
from medseg.io.formats import (
    DEFAULT,
    FORMATS,
    Origin,
    is_written,
    probability_paths,
    target,
    write_probabilities,
)
from medseg.volume import LabelTable, LabelVolume, Target


@dataclass(frozen=True)
class Outputs:
    """The results of all cases, in one folder."""

    folder: Path
    formats: tuple[str, ...] = (DEFAULT,)
    probabilities: bool = False

    def targets(self, case: str) -> tuple[Path, ...]:
        """Where the results of a case go, label maps first."""
        paths = [target(name, self.folder, case) for name in self.formats]
        if self.probabilities:
            paths += probability_paths(self.folder, case, self.formats)
        return tuple(paths)

    def are_written(self, case: str) -> bool:
        """Whether all results of a case are there and whole."""
        names = [*self.formats, *[DEFAULT] * (len(self.targets(case)) - len(self.formats))]
        return all(map(is_written, names, self.targets(case)))

    def refuse_clashes(self, cases: Iterable[str]) -> None:
        """Raise an InputFault (E_CASES) where two cases would be written to one place."""
        taken: dict[Path, str] = {}
        faults = []
        for case in cases:
            for path in self.targets(case):
                other = taken.setdefault(path, case)
                if other != case:
                    faults.append(f"{other} and {case} would both be {path}.")
        if faults:
            raise all_at_once(faults, summary="Rename the inputs:", code="E_CASES")

    def refuse_replacing(self, case: str, inputs: Iterable[Path]) -> None:
        """Raise an InputFault (E_CASES) where a result of the case would replace an input."""
        given = {file.resolve() for file in inputs}
        for path in self.targets(case):
            if path.resolve() in given:
                raise InputFault(
                    f"{path}: the result of {case} would replace its image; choose another "
                    "folder for the results.",
                    code="E_CASES",
                )

    def write(
        self,
        case: str,
        labels: LabelVolume,
        *,
        origin: Origin,
        probabilities: Iterable[np.ndarray] | None = None,
        asked: Target | None = None,
    ) -> None:
        """Write all that was asked for; probabilities (i, j, k) are of each label of `asked`.

        Raises:
            InputFault: what a writer refuses.
        """
        for name in self.formats:
            FORMATS[name].write(target(name, self.folder, case), labels, origin)
        if probabilities is not None and asked is not None:
            write_probabilities(
                self.folder,
                case,
                probabilities,
                labels.grid,
                shown_table(asked),
                formats=self.formats,
                origin=origin,
            )


def shown_table(asked: Target) -> LabelTable:
    """The names of a network's foreground outputs: its labels, or its regions from 1 on."""
    if not asked.is_regions:
        return asked.labels
    return LabelTable.from_names(dict(enumerate(asked.foreground_names, start=1)))
