import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pydicom.sr.codedict import codes

from medseg.data.card import Card, load_card, shipped_cards
from medseg.data.loader import left_right_swap
from medseg.fault import InputFault
from medseg.shipped import shipped_folder
from medseg.volume import LabelTable

SHIPPED = {
    *("brats_2018", "brats_2019", "brats_2020", "brats_2021", "brats_2023", "brats_msd"),
    *("acdc", "hippocampus", "msd", "nnunet", "synapse"),
}
BRATS = sorted(name for name in SHIPPED if name.startswith("brats"))
OWN = """name: own
title: A set of mine
layout: folder
channels: [t1]
labels: {1: liver}
files:
  images: {t1: "{case}.nii.gz"}
  label: "{case}_seg.nii.gz"
licence: mine
how_to_get: It is here.
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "own.yaml"
    path.write_text(text)
    return path


def test_every_shipped_card_loads_and_says_how_to_get_its_data() -> None:
    cards = shipped_cards()
    assert {card.name for card in cards} == SHIPPED
    for card in cards:
        assert load_card(card.name).name == card.name
        assert card.licence
        assert card.how_to_get
        assert card.phantom.case.format(n=1)


@pytest.mark.parametrize("name", BRATS)
def test_a_brats_label_map_survives_its_regions(name: str) -> None:
    target = load_card(name).target(regions=True)
    assert target.foreground_names == ("WT", "TC", "ET")
    labels = np.array([0, *target.labels.values], dtype=np.uint8).reshape(1, 2, 2)
    np.testing.assert_array_equal(target.decode(target.encode(labels)), labels)


@pytest.mark.parametrize("name", BRATS)
def test_brats_regions_nest(name: str) -> None:
    whole, core, enhancing = (set(r.members) for r in load_card(name).regions)
    assert whole > core > enhancing
    assert len(enhancing) == 1


def test_enhancing_tumor_is_four_before_2023_and_three_since() -> None:
    value = {name: load_card(name).regions[2].value for name in BRATS}
    assert value == {
        "brats_2018": 4,
        "brats_2019": 4,
        "brats_2020": 4,
        "brats_2021": 4,
        "brats_2023": 3,
        "brats_msd": 3,
    }


def test_a_brats_phantom_names_each_part_of_the_lesion_as_the_table_does() -> None:
    for name in BRATS:
        card = load_card(name)
        assert card.labels is not None
        lesion = card.phantom.lesion
        assert lesion is not None
        by_name = {label.name: label.value for label in card.labels.labels}
        assert next(v for n, v in by_name.items() if "edema" in n) == lesion.edema
        assert next(v for n, v in by_name.items() if n.startswith("enhancing")) == lesion.enhancing


def test_the_case_names_of_every_phantom_fit_the_card() -> None:
    for card in shipped_cards():
        case = card.phantom.case.format(n=7)
        if card.files is not None:
            assert re.fullmatch(card.files.case, case), card.name
        if card.patient is not None:
            assert re.fullmatch(card.patient, case), card.name


def test_the_synapse_split_has_18_and_12_cases_without_overlap() -> None:
    split = load_card("synapse").split
    assert split is not None
    assert (len(split.train), len(split.validation)) == (18, 12)
    assert len({*split.train, *split.validation}) == 30


def test_left_and_right_organs_of_the_abdomen_are_mirror_pairs() -> None:
    labels = load_card("synapse").labels
    assert labels is not None
    assert len(labels) == 13
    assert set(labels.mirror_pairs()) == {(3, 2), (13, 12)}


def test_the_codes_of_the_label_tables_are_those_of_the_dicom_standard() -> None:
    known = {getattr(codes.SCT, name).value: name for name in codes.SCT.dir()}
    seen = 0
    for path in sorted((shipped_folder("datasets") / "labels").glob("*.csv")):
        table = LabelTable.from_csv(path.read_text(encoding="utf-8"), place=path.name)
        for label in table.labels:
            for column, value in label.codes.items():
                if column.endswith("CodeValue"):
                    assert value in known, f"{path.name}: {label.name}: {column} {value}"
                    seen += 1
    assert seen > 40


def test_the_kidneys_are_coded_by_organ_and_side() -> None:
    labels = load_card("synapse").labels
    assert labels is not None
    left = labels[3].codes
    assert (left["Type_CodeValue"], left["TypeModifier_CodeValue"]) == ("64033007", "7771000")


def test_the_example_in_the_readme_is_a_card(tmp_path: Path) -> None:
    readme = (shipped_folder("datasets") / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```yaml\n(.*?)```", readme, flags=re.DOTALL)
    card = load_card(written(tmp_path, example))
    assert card.channels == ("t1", "flair")
    target = card.target(regions=True)
    assert target.foreground_names == ("any lesion", "left lesion", "right lesion")
    assert target.mirrored_channels() == (0, 2, 1)


def test_the_readme_names_every_card() -> None:
    readme = (shipped_folder("datasets") / "README.md").read_text(encoding="utf-8")
    assert {name for name in SHIPPED if f"`{name}`" in readme} == SHIPPED


def test_a_card_of_ones_own_is_read_from_its_path(tmp_path: Path) -> None:
    card = load_card(written(tmp_path, OWN))
    assert card.labels is not None
    assert card.labels.names == ("liver",)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("licence: mine", "license: mine", r"own.yaml:9: license: .*\(did you mean licence\?\)"),
        ("layout: folder", "layout: folders", r"own.yaml:3: layout"),
        ("layout: folder", "layout: folder\nlayout: msd", r"own.yaml:4: layout stands twice"),
        ("channels: [t1]", "channels: [t2]", r"they must be the same names"),
        ("channels: [t1]\n", "", r"layout folder needs channels"),
        ("labels: {1: liver}", "labels: {one: liver}", r"own.yaml:5: labels: .*whole numbers"),
        ("labels: {1: liver}", "labels: none.csv", r"none.csv: there is no such label table"),
        ("{case}_seg", "seg", r"has no \{case\}"),
        ("files:\n", "files:\n  case: '('\n", r"own.yaml:7: files.case: .*regular expression"),
        ("licence: mine", "patient: 'p1'\nlicence: mine", r"has no group"),
        ("licence: mine\n", "", r"licence is missing"),
        ("licence: mine", "licence: [", r"own.yaml:\d+: not YAML"),
        (
            "licence: mine",
            "regions: [{name: a, members: [7], value: 1}]\nlicence: mine",
            r"region a: values \[7\] are not in the label table",
        ),
    ],
)
def test_a_mistake_in_a_card_is_told_with_its_line(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    assert old in OWN
    with pytest.raises(InputFault, match=said):
        load_card(written(tmp_path, OWN.replace(old, new)))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &x [*x]\n", "nested deeper"),
        ("a: !!python/object/apply:os.getcwd []\n", r"own.yaml:1: not YAML"),
        ("a: \x07\n", r"not YAML"),
        ("- a\n", r"no `key: value` lines"),
        ("", r"no `key: value` lines"),
        ("? [a]\n: 1\n", r"own.yaml:1: not YAML"),
    ],
)
def test_yaml_that_no_card_needs_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InputFault, match=said) as caught:
        load_card(written(tmp_path, text))
    assert caught.value.code == "E_YAML"


def test_a_card_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_bytes(b"title: \xff\xfe")
    with pytest.raises(InputFault, match="no UTF-8 text"):
        load_card(path)


def test_all_mistakes_of_a_card_are_told_at_once(tmp_path: Path) -> None:
    text = OWN.replace("licence", "license").replace("layout: folder", "layout: 3")
    with pytest.raises(InputFault) as caught:
        load_card(written(tmp_path, text))
    assert caught.value.code == "E_CARD"
    assert all(word in str(caught.value) for word in ("license", "layout", "licence is missing"))


def test_an_unknown_card_is_answered_with_the_nearest() -> None:
    with pytest.raises(InputFault, match=r"did you mean brats_2021\?"):
        load_card("brats2021")


def test_a_card_file_that_is_not_there_is_said() -> None:
    with pytest.raises(InputFault, match="not there"):
        load_card("nowhere/own.yaml")


def test_regions_of_a_card_without_any_are_refused() -> None:
    with pytest.raises(InputFault, match="names no regions"):
        load_card("hippocampus").target(regions=True)


def test_cards_cases_and_splits_load_nothing_heavy() -> None:
    script = (
        "import sys; import medseg.data.card, medseg.data.cases, medseg.data.splits; "
        "print(sorted({'torch', 'monai', 'scipy', 'nibabel', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_card_survives_the_way_to_another_process() -> None:
    card = load_card("synapse")
    again = pickle.loads(pickle.dumps(card))  # noqa: S301
    assert isinstance(again, Card)
    assert again.labels == card.labels


def test_the_ventricles_of_acdc_never_change_places() -> None:
    target = load_card("acdc").target(regions=False)
    assert target.mirrored_channels() == (0, 1, 2, 3)
    assert left_right_swap(target) is None
