"""The log of a run: a CSV with a row an epoch, and the same figures for TensorBoard."""

import csv
import io
from pathlib import Path

from torch.utils.tensorboard.writer import SummaryWriter

from medseg.io.atomic import write_text


class RunLog:
    """Rows of `log.csv`; after a resume the rows past the resumed step are gone."""

    def __init__(self, folder: Path, *, step: int) -> None:
        self._path = folder / "log.csv"
        self._rows = [row for row in _rows_of(self._path) if int(row["step"]) <= step]
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def add(self, row: dict[str, float | int]) -> None:
        """Add the row of an epoch; it holds `epoch` and `step`."""
        self._rows.append(
            {
                name: f"{value:.6g}" if isinstance(value, float) else str(value)
                for name, value in row.items()
            }
        )
        names = list(dict.fromkeys(name for each in self._rows for name in each))
        text = io.StringIO()
        writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows)
        write_text(self._path, text.getvalue())
        for name, value in row.items():
            if name not in ("epoch", "step"):
                self._board.add_scalar(name, value, int(row["step"]))
        self._board.flush()

    def close(self) -> None:
        """Write out what TensorBoard has not yet."""
        self._board.close()


def _rows_of(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="") as source:
        return list(csv.DictReader(source))
