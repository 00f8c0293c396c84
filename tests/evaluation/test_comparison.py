"""The table of a comparison, from scores that are known."""

import csv
import json
import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from medseg.evaluation.comparison import Comparison, Effort, Row, Scored, facts_of
from medseg.evaluation.comparison_report import write_comparison

EFFORT = Effort(1234567, 4.5, (40, 56, 40), 2, 1.25, 0.75, 20, 3.5)


def report(*dice: tuple[float, float], hd95: float | None = 2.0) -> dict[str, Any]:
    return {
        "mean_over": ["Front", "Back"],
        "cases": [
            {
                "case": f"case{number}",
                "scores": {
                    name: {"dice": value, "nsd": value / 2, "hd95_mm": hd95}
                    for name, value in zip(("Front", "Back"), pair, strict=True)
                },
            }
            for number, pair in enumerate(dice)
        ],
    }


@pytest.fixture
def comparison() -> Comparison:
    low = Scored.from_reports([report((0.2, 0.4), (0.4, 0.6), hd95=None)])
    high = Scored.from_reports([report((0.5, 0.7), (0.6, 0.8))])
    rows = (
        Row("low", "net", low, EFFORT),
        Row("<high>", "net", high, EFFORT),
        Row("lost", "net", code="E_LOSS", message="the loss is <nan>"),
    )
    return Comparison("On phantoms", rows, "trained for 20 steps", "fold 0 of 5")


def test_rows_tell_means_intervals_and_the_difference_to_the_best(comparison: Comparison) -> None:
    low, high, lost = facts_of(comparison)
    assert comparison.best == "<high>"
    assert (low["dice"], low["dice Front"], low["nsd"]) == pytest.approx((0.4, 0.3, 0.2))
    assert (low["dice_low"], low["dice_high"]) == pytest.approx((0.3, 0.5))
    assert low["difference_to_best"] == pytest.approx(-0.25)
    assert (low["difference_low"], low["difference_high"]) == pytest.approx((-0.3, -0.2))
    assert math.isnan(low["hd95_mm"])
    assert low["hd95_undefined"] == 2
    assert high["is_best"]
    assert math.isnan(high["difference_to_best"])
    assert (lost["state"], lost["code"]) == ("failed", "E_LOSS")


def test_the_files_hold_the_same_rows_and_the_page_needs_no_other(
    comparison: Comparison, tmp_path: Path
) -> None:
    made = write_comparison(comparison, tmp_path)
    with made.csv.open(newline="") as source:
        table = list(csv.DictReader(source))
    data = json.loads(made.json.read_bytes())
    assert [row["name"] for row in table] == ["low", "<high>", "lost"]
    assert [row["name"] for row in data["rows"]] == ["low", "<high>", "lost"]
    assert table[0]["hd95_mm"] == ""
    assert data["rows"][0]["hd95_mm"] is None
    assert data["rows"][0]["parameters"] == EFFORT.parameters
    assert [(test["first"], test["second"]) for test in data["tests"]] == [("low", "<high>")]
    page = made.page.read_text()
    assert "&lt;high&gt;" in page
    assert "<high>" not in page
    assert "the loss is &lt;nan&gt;" in page
    assert "Holm" in page
    links = _Links()
    links.feed(page)
    assert links.found == []


def test_a_comparison_where_all_failed_still_has_its_table(tmp_path: Path) -> None:
    rows = (Row("lost", "net", code="E_LOSS", message="no"),)
    made = write_comparison(Comparison("None", rows, "20 steps", "fold 0"), tmp_path)
    assert "E_LOSS" in made.csv.read_text()
    assert "E_LOSS" in made.page.read_text()


class _Links(HTMLParser):
    """What a page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        outside = [value for name, value in attrs if name in ("src", "href") and value]
        self.found += [f"{tag} {value}" for value in outside if not value.startswith(("#", "data"))]
