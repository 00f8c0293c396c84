"""A study of several series as the channels of a bundle."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medseg.bundle.cases import Reading, found_cases
from medseg.bundle.inputs import CaseReading
from medseg.fault import InputFault
from medseg.io.dicom.channels import ChannelRule, ChannelRules, rules_from_json, rules_to_json
from tests.io.dicom.case import points_lps_mm
from tests.io.dicom.phantom import OBLIQUE, ROOT, Layout, Made, tissue, turned

FOUR = ("T1", "T1ce", "T2", "FLAIR")
RULES: ChannelRules = {
    "T1": (ChannelRule({"SeriesDescription": r"\bt1"}, {"ContrastBolusAgent": "."}),),
    "T1ce": (ChannelRule({"SeriesDescription": r"\bt1", "ContrastBolusAgent": "."}),),
    "T2": (ChannelRule({"SeriesDescription": r"\bt2"}, {"SeriesDescription": "flair"}),),
    "FLAIR": (
        ChannelRule({"SeriesDescription": "flair"}),
        ChannelRule({"InversionTime": r"^2\d{3}"}),
    ),
}
TAGS: tuple[dict[str, str], ...] = (
    {"SeriesDescription": "T1 mprage"},
    {"SeriesDescription": "t1 mprage KM", "ContrastBolusAgent": "Gd"},
    {"SeriesDescription": "T2 tse"},
    {"SeriesDescription": "t2 FLAIR fs"},
)


def scan(number: int, *, layout: Layout | None = None, **tags: str) -> Made:
    """A series whose values tell its number."""
    header = {"Modality": "MR", **TAGS[number - 1], **tags} if number <= 4 else tags
    return Made(layout or Layout(OBLIQUE), header=header, series=number, change=_add(number))


def _add(number: int):
    def change(_place: int, image) -> None:
        image.RescaleIntercept = str(-1024 + 1000 * number)

    return change


def study(folder: Path, *scans: Made) -> Path:
    for one in scans:
        one.write(folder / f"s{one.series}")
    return folder


def read(
    folder: Path,
    channels: Sequence[str] = FOUR,
    *,
    rules: ChannelRules = RULES,
    series: tuple[str, ...] = (),
    repair: bool = True,
) -> CaseReading:
    reading = Reading(series=series, repair=repair)
    with found_cases([folder], channels, rules=rules, reading=reading) as cases:
        (case,) = cases.values()
        return case.read(channels)


def fault_of(folder: Path, **options) -> InputFault:
    with pytest.raises(InputFault) as fault:
        read(folder, **options)
    return fault.value


def numbers(reading: CaseReading) -> list[int]:
    """The series that each channel is of, by its values."""
    truth = Made(Layout(OBLIQUE)).array
    apart = [(channel - truth) / 1000 for channel in reading.volume.array]
    assert all(np.ptp(one) < 1e-6 for one in apart)
    return [round(float(one.flat[0])) for one in apart]


class TestRules:
    def test_four_series_are_the_four_channels(self, tmp_path: Path) -> None:
        reading = read(study(tmp_path, *(scan(n) for n in (3, 1, 4, 2))))
        assert reading.volume.channels == FOUR
        assert numbers(reading) == [1, 2, 3, 4]
        assert reading.notes == ()

    def test_the_order_is_that_of_the_bundle(self, tmp_path: Path) -> None:
        folder = study(tmp_path, *(scan(n) for n in (1, 2, 3, 4)))
        assert numbers(read(folder, ("FLAIR", "T1"))) == [4, 1]

    def test_the_dicom_files_are_those_of_the_first_channel(self, tmp_path: Path) -> None:
        reading = read(study(tmp_path, *(scan(n) for n in (1, 2, 3, 4))))
        assert reading.dicom_files is not None
        assert {file.parent.name for file in reading.dicom_files} == {"s1"}
        assert len(reading.dicom_files) == 12

    def test_a_second_rule_of_a_channel_is_as_good(self, tmp_path: Path) -> None:
        dark = scan(4, SeriesDescription="dark fluid", InversionTime="2500")
        assert numbers(read(study(tmp_path, scan(1), scan(2), scan(3), dark))) == [1, 2, 3, 4]

    def test_rules_survive_json(self, tmp_path: Path) -> None:
        folder = study(tmp_path, *(scan(n) for n in (1, 2, 3, 4)))
        assert numbers(read(folder, rules=rules_from_json(rules_to_json(RULES)))) == [1, 2, 3, 4]

    def test_a_missing_channel_is_refused_with_what_was_found(self, tmp_path: Path) -> None:
        fault = fault_of(study(tmp_path, scan(1), scan(2), scan(4)))
        assert fault.code == "E_SERIES"
        assert "no series is T2" in str(fault)
        for shown in ('MR 1 "T1 mprage"', 'MR 2 "t1 mprage KM"', 'MR 4 "t2 FLAIR fs"', "24x20"):
            assert shown in str(fault)
        assert "--series" in str(fault)

    def test_a_doubled_channel_is_refused_with_both(self, tmp_path: Path) -> None:
        again = scan(5, Modality="MR", SeriesDescription="T2 tse repeated")
        fault = fault_of(study(tmp_path, *(scan(n) for n in (1, 2, 3, 4)), again))
        assert fault.code == "E_SERIES"
        assert "2 series may be T2" in str(fault)
        assert "T2 tse repeated" in str(fault)
        assert "mprage" not in str(fault)

    def test_one_series_for_two_channels_is_refused(self, tmp_path: Path) -> None:
        rules = {**RULES, "T1": (ChannelRule({"SeriesDescription": "T1"}),)}
        folder = study(tmp_path, scan(2), scan(3), scan(4))
        fault = fault_of(folder, channels=("T1", "T1ce"), rules=rules)
        assert "one series fits two channels" in str(fault)

    def test_without_a_rule_nothing_is_guessed(self, tmp_path: Path) -> None:
        folder = study(tmp_path, *(scan(n) for n in (1, 2, 3, 4)))
        assert "no rule that tells which series is T1" in str(fault_of(folder, rules={}))

    def test_one_channel_takes_the_only_series(self, tmp_path: Path) -> None:
        folder = study(tmp_path, scan(3))
        assert numbers(read(folder, ("anything",), rules={})) == [3]

    def test_one_channel_takes_none_of_two_series(self, tmp_path: Path) -> None:
        fault = fault_of(study(tmp_path, scan(3), scan(4)), channels=("CT",), rules={})
        assert fault.code == "E_SERIES"
        assert "2 series, and the bundle takes one" in str(fault)

    def test_scouts_are_not_asked(self, tmp_path: Path) -> None:
        scouts = replace(scan(5, SeriesDescription="t2 localizer"), header={"Modality": "MR"})
        scouts = replace(
            scouts, header={"SeriesDescription": "t2 loc", "ImageType": ["ORIGINAL", "LOCALIZER"]}
        )
        folder = study(tmp_path, *(scan(n) for n in (1, 2, 3, 4)), scouts)
        assert numbers(read(folder)) == [1, 2, 3, 4]

    def test_a_description_cannot_speak_to_the_terminal(self, tmp_path: Path) -> None:
        odd = scan(3, SeriesDescription="a\x1b]0;x\x07b\x9b2Jc")
        fault = fault_of(study(tmp_path, odd, scan(4)), channels=("CT",), rules={})
        assert all(letter.isprintable() for letter in str(fault).replace("\n", ""))


class TestChoice:
    def test_series_are_chosen_by_number_and_by_uid(self, tmp_path: Path) -> None:
        folder = study(tmp_path, *(scan(n) for n in (1, 2, 3, 4)))
        asked = ("4", f"{ROOT}.1.2.0", "3", "1")
        assert numbers(read(folder, rules={}, series=asked)) == [4, 2, 3, 1]

    def test_a_number_that_is_not_there_is_refused_with_the_list(self, tmp_path: Path) -> None:
        folder = study(tmp_path, scan(1), scan(2))
        fault = fault_of(folder, channels=("CT",), series=("7",))
        assert fault.code == "E_SERIES"
        assert "no series 7" in str(fault)
        assert 'MR 2 "t1 mprage KM"' in str(fault)

    def test_a_uid_is_never_shown(self, tmp_path: Path) -> None:
        fault = fault_of(study(tmp_path, scan(1)), channels=("CT",), series=("1.2.840.777.5",))
        assert "777" not in str(fault)

    def test_a_number_of_two_series_is_refused(self, tmp_path: Path) -> None:
        folder = study(tmp_path, scan(1), replace(scan(2), header={"SeriesNumber": 1}))
        fault = fault_of(folder, channels=("CT",), series=("1",))
        assert "2 series 1" in str(fault)

    def test_as_many_are_chosen_as_there_are_channels(self, tmp_path: Path) -> None:
        fault = fault_of(study(tmp_path, scan(1), scan(2)), series=("1", "2"))
        assert fault.code == "E_SERIES"
        assert "given 2 times; the bundle takes 4" in str(fault)


class TestGrids:
    LARGE = Layout(
        turned(5, 8, -3),
        rows=64,
        columns=64,
        spacing_mm=(1.1, 1.1),
        places_mm=tuple(1.2 * place for place in range(50)),
    )

    def test_another_grid_is_resampled_onto_the_first_with_a_note(self, tmp_path: Path) -> None:
        folder = study(tmp_path, scan(1), scan(4, layout=self.LARGE))
        reading = read(folder, ("T1", "FLAIR"))
        assert reading.volume.array.shape == (2, 24, 20, 12)
        (note,) = reading.notes
        assert str(tmp_path / "s4") in note
        assert "resampled" in note
        # The patient's own values at the first grid's points, within linear interpolation.
        points = points_lps_mm(reading.volume)
        near = np.linalg.norm(points - [4.0, -7.0, 12.0], axis=-1) < 10
        apart = np.abs(reading.volume.array[1] - 4000 - tissue(points))
        assert near.sum() > 200
        assert apart[near].max() < 3 * 1.2**2 / 8 * 900 / 16 + 1

    def test_grids_that_are_the_same_are_left_alone(self, tmp_path: Path) -> None:
        shifted = Layout(OBLIQUE, aside_mm=(1.302, -0.7, 0.9))
        reading = read(study(tmp_path, scan(1), scan(4, layout=shifted)), ("T1", "FLAIR"))
        assert reading.notes == ()
        truth = Made(shifted).array + 4000
        assert np.array_equal(reading.volume.array[1], truth.astype(np.float32))

    def test_what_lies_elsewhere_is_refused(self, tmp_path: Path) -> None:
        away = Layout(OBLIQUE, aside_mm=(300.0, 0.0, 0.0))
        fault = fault_of(study(tmp_path, scan(1), scan(4, layout=away)), channels=("T1", "FLAIR"))
        assert fault.code == "E_PAIR"
        assert "covers 0%" in str(fault)

    def test_nothing_is_resampled_where_nothing_is_to_be_repaired(self, tmp_path: Path) -> None:
        folder = study(tmp_path, scan(1), scan(4, layout=self.LARGE))
        fault = fault_of(folder, channels=("T1", "FLAIR"), repair=False)
        assert fault.code == "E_PAIR"
        assert "--no-repair" in str(fault)
