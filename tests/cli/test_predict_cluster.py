"""`medseg predict --workers` from the command line."""

import csv
from pathlib import Path

import pytest

from medseg.cli import main

pytestmark = pytest.mark.filterwarnings("default")


def test_workers_give_the_label_maps_of_one_process(
    tmp_path: Path, run: Path, hippocampi: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(hippocampi)
    arguments = ["predict", str(run / "bundle"), "imagesTr", "--step", "1", "--no-pictures"]
    assert main([*arguments, "-o", str(tmp_path / "one")]) == 0
    assert main([*arguments, "-o", str(tmp_path / "many"), "--workers", "2"]) == 0
    names = sorted(path.name for path in (tmp_path / "one").glob("*.nii.gz"))
    assert len(names) == 6
    for name in names:
        found, wanted = (tmp_path / folder / name for folder in ("many", "one"))
        assert found.read_bytes() == wanted.read_bytes()
    with (tmp_path / "many" / "report.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["state"] for row in rows} == {"done"}
    assert sorted(row["path"] for row in rows) == names


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--workers", "0"], "--workers 0"),
        (["--workers", "2", "--scheduler", "tcp://a:1"], "workers of its own"),
        (["--slurm", "queue=gpu"], "--workers N"),
        (["--workers", "2", "--slurm", "gpu"], "queue=gpu"),
        (["--workers", "2", "--deadline", "1h"], "--deadline"),
    ],
)
def test_what_does_not_go_together_is_told(
    options: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", "nowhere", "a.nii.gz", "-o", "out", *options]) == 2
    assert told in capsys.readouterr().err
