import base64
import csv
import io
import json
import math
import re
from dataclasses import replace
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from medseg.evaluation.evaluate import Evaluation, Refused, evaluate
from medseg.evaluation.report import write_report
from medseg.evaluation.slices import planes_of
from medseg.io.nifti import write_labels, write_volume
from medseg.volume import Grid, LabelTable, LabelVolume, Target, Volume

TABLE = LabelTable.from_names({1: "left <lobe>", 4: "rim & core"})
TARGET = Target(TABLE)
# Stored with its axes in another order: i runs to the head, j to the left, k to the front.
LSA = np.array([[0.0, -1.0, 0, 50], [0, 0, 2.0, -30], [1.5, 0, 0, 10], [0, 0, 0, 1]])
GRID = Grid((20, 24, 18), LSA)


def labels(shift: int = 0) -> LabelVolume:
    array = np.zeros(GRID.shape, dtype=np.uint8)
    array[5 + shift : 12 + shift, 4:10, 5:14] = 1
    array[8:14, 14:20, 6:12] = 4
    return LabelVolume(array, GRID, TABLE)


@pytest.fixture
def evaluation(tmp_path: Path) -> Evaluation:
    folders = [tmp_path / name for name in ("predictions", "truths", "images")]
    rng = np.random.default_rng(0)
    for place, name in enumerate(("good", "worse", "none")):
        image = labels().array + rng.normal(0, 0.2, GRID.shape)
        volume = Volume(image.astype(np.float32)[None], GRID, ("MR",))
        for folder in folders:
            folder.mkdir(exist_ok=True)
        write_labels(folders[1] / f"{name}.nii.gz", labels())
        write_volume(folders[2] / f"{name}_0000.nii.gz", volume)
        if name != "none":
            write_labels(folders[0] / f"{name}.nii.gz", labels(shift=place))
    return evaluate(folders[0], folders[1], TARGET, images=folders[2], allow_missing=True)


class Page(HTMLParser):
    """Collects tags, what they point at, and checks that every tag is closed."""

    VOID = ("meta", "input", "link", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.count: dict[str, int] = {}
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        self.links += [value or "" for key, value in attrs if key in ("href", "src")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_needs_nothing_but_itself(evaluation: Evaluation, tmp_path: Path) -> None:
    text = write_report(evaluation, tmp_path / "out", title="A & B").page.read_text()
    page = Page(text)
    assert page.count["article"] == 3
    assert page.count["image"] == 9
    assert page.count["use"] == 9
    assert len(page.links) == 18
    assert all(link.startswith(("data:image/png;base64,", "#u")) for link in page.links)
    assert "http" not in text
    assert "<title>A &amp; B</title>" in text


def test_names_from_files_and_tables_are_escaped(evaluation: Evaluation, tmp_path: Path) -> None:
    text = write_report(evaluation, tmp_path / "out").page.read_text()
    assert "left &lt;lobe&gt;" in text
    assert "<lobe>" not in text


def test_the_worst_case_stands_first_and_what_is_missing_is_told(
    evaluation: Evaluation, tmp_path: Path
) -> None:
    text = write_report(evaluation, tmp_path / "out").page.read_text()
    assert re.findall(r"<h3>(.*?)</h3>", text) == ["none", "worse", "good"]
    assert "1 case without a prediction, counted as empty: none." in text


def test_pictures_are_limited_to_the_worst(evaluation: Evaluation, tmp_path: Path) -> None:
    text = write_report(evaluation, tmp_path / "out", most_pictures=1).page.read_text()
    assert re.findall(r"<h3>(.*?)</h3>", text) == ["none"]
    assert "the 1 lowest of 3" in text


def test_the_tables_hold_every_score(evaluation: Evaluation, tmp_path: Path) -> None:
    report = write_report(evaluation, tmp_path / "out")
    rows = list(csv.DictReader(io.StringIO(report.scores.read_text())))
    assert [(row["case"], row["name"]) for row in rows] == [
        (case, name) for case in ("good", "none", "worse") for name in TABLE.names
    ]
    none = rows[2]
    assert (none["dice"], none["hd95_mm"], none["undefined"]) == ("0.0", "", "hd95_mm")
    summary = list(csv.DictReader(io.StringIO(report.summary.read_text())))
    overall = next(row for row in summary if (row["name"], row["metric"]) == ("mean", "dice"))
    assert float(overall["mean"]) == pytest.approx(evaluation.mean("dice"), abs=1e-6)
    hd95 = next(row for row in summary if (row["name"], row["metric"]) == ("mean", "hd95_mm"))
    assert (hd95["cases"], hd95["undefined"]) == ("2", "1")


def test_the_json_says_how_it_was_scored(evaluation: Evaluation, tmp_path: Path) -> None:
    report = write_report(evaluation, tmp_path / "out")
    told = json.loads(report.json.read_text(), parse_constant=pytest.fail)
    assert told["tolerance_mm"] == {"left <lobe>": 1.0, "rim & core": 1.0}
    assert told["nsd"] == "border-voxels"
    assert "MONAI's default" in told["conventions"]["nsd"]
    assert told["missing_counted_as_empty"] == ["none"]
    assert told["bootstrap"]["seed"] == 0
    assert "medseg" in told["versions"]
    assert [case["case"] for case in told["cases"]] == ["good", "none", "worse"]
    assert told["cases"][1]["scores"]["rim & core"]["hd95_mm"] is None


def test_the_page_and_the_json_name_what_the_nsd_counts(
    evaluation: Evaluation, tmp_path: Path
) -> None:
    report = write_report(replace(evaluation, nsd="surface-elements"), tmp_path / "out")
    told = json.loads(report.json.read_text())
    assert told["nsd"] == "surface-elements"
    assert "as in DeepMind's surface-distance" in told["conventions"]["nsd"]
    assert escape(told["conventions"]["nsd"]) in report.page.read_text()


def test_planes_look_at_the_patient_as_radiologists_do() -> None:
    image = np.zeros(GRID.shape, dtype=np.float32)
    # Bright toward the head (i high), the right (j low) and the front (k high).
    image[15, 12, 9] = image[10, 2, 9] = image[10, 12, 16] = 1
    array = np.zeros(GRID.shape, dtype=np.uint8)
    array[10, 12, 9] = 1
    array[15, 12, 9] = array[10, 2, 9] = array[10, 12, 16] = 4
    truth = LabelVolume(array, GRID, TABLE)
    empty = LabelVolume(np.zeros_like(array), GRID, TABLE)
    planes = {
        plane.name: plane for plane in planes_of(truth, empty, Volume(image[None], GRID, ("MR",)))
    }
    assert (planes["axial"].left, planes["axial"].top) == ("R", "A")
    assert bright(planes["axial"].picture) == (True, True)
    assert bright(planes["sagittal"].picture) == (True, True)
    assert bright(planes["coronal"].picture) == (True, True)


def bright(picture: str) -> tuple[bool, bool]:
    """Whether the bright voxels lie left of, and above, the middle."""
    gray = imread(io.BytesIO(base64.b64decode(picture)))[..., 0]
    rows, columns = np.nonzero(gray > 0.5)
    assert len(rows) == 2
    return columns.min() < gray.shape[1] / 2 - 1, rows.min() < gray.shape[0] / 2 - 1


def test_outlines_lie_on_the_edges_of_voxels() -> None:
    array = np.zeros((10, 10, 10), dtype=np.uint8)
    array[4:6, 4:6, 4:6] = 1
    volume = LabelVolume(array, Grid.from_spacing((10, 10, 10), (2, 2, 2)), TABLE)
    (plane, *_) = planes_of(volume, volume, None)
    assert plane.picture == ""
    assert plane.side_mm == 20
    numbers = [float(n) for n in re.findall(r"[\d.]+", plane.truth[0].path)]
    # Two voxels of 2 mm about the middle (10 mm); corners are cut, edges are on 8 and 12.
    assert (min(numbers), max(numbers)) == (8, 12)
    assert math.isclose(sum(numbers) / len(numbers), 10)


def test_an_image_that_cannot_be_shown_costs_its_picture_the_image_alone(
    evaluation: Evaluation, tmp_path: Path
) -> None:
    other = Grid(GRID.shape, LSA + np.eye(4, k=3) * 7)
    array = np.zeros((1, *GRID.shape), dtype=np.float32)
    array[0, 0, 0, 0] = 1
    write_volume(tmp_path / "images" / "worse_0000.nii.gz", Volume(array, other, ("MR",)))
    (tmp_path / "images" / "good_0000.nii.gz").write_bytes(b"")
    report = write_report(evaluation, tmp_path / "out")
    assert report.without_image == ("worse", "good")
    text = report.page.read_text()
    assert Page(text).count["image"] == 3
    assert re.search(r"without its image: .*worse_0000.nii.gz: it lies on another grid", text)
    assert re.search(r"without its image: .*good_0000.nii.gz: ", text)


def test_cases_that_were_not_scored_are_told(evaluation: Evaluation, tmp_path: Path) -> None:
    refused = (Refused("cut <1>", "E_TRUNC", "it was cut short."),)
    report = write_report(replace(evaluation, refused=refused), tmp_path / "out")
    assert "1 case not scored, and in no mean:<br>cut &lt;1&gt;: it was" in report.page.read_text()
    told = json.loads(report.json.read_text())["cases_not_scored"]
    assert told == [{"case": "cut <1>", "code": "E_TRUNC", "fault": "it was cut short."}]
