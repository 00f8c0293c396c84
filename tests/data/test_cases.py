import json
from collections.abc import Callable
from pathlib import Path

import pytest

from medseg.data.card import load_card, shipped_cards
from medseg.data.cases import Listing, open_listing, place_case
from medseg.data.layouts.patterns import pattern_regex
from medseg.fault import InputFault

Make = Callable[..., Path]


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def names_of(listing: Listing, case: str) -> list[str]:
    one = listing.case(case)
    assert one.label is not None
    return [str(path.relative_to(listing.root)) for path in (*one.images, one.label)]


def brats(folder: str, case: str, ending: str = ".nii.gz") -> list[str]:
    parts = ("flair", "t1ce", "t1", "t2", "seg")
    return [f"{folder}{case}/{case}_{part}{ending}" for part in parts]


def brats_2023(case: str) -> list[str]:
    return [f"{case}/{case}-{part}.nii.gz" for part in ("t2f", "t1c", "t1n", "t2w", "seg")]


@pytest.mark.parametrize(
    ("card", "folder", "case", "patient", "ending"),
    [
        ("brats_2018", "HGG/", "Brats18_CBICA_AAB_1", "Brats18_CBICA_AAB", ".nii.gz"),
        ("brats_2018", "LGG/", "Brats18_TCIA10_103_1", "Brats18_TCIA10_103", ".nii.gz"),
        ("brats_2019", "HGG/", "BraTS19_2013_10_1", "BraTS19_2013_10", ".nii"),
        ("brats_2020", "", "BraTS20_Training_001", "BraTS20_Training_001", ".nii"),
        ("brats_2020", "MICCAI_BraTS2020_TrainingData/", *["BraTS20_Training_001"] * 2, ".nii.gz"),
        ("brats_2021", "", "BraTS2021_00000", "BraTS2021_00000", ".nii.gz"),
    ],
)
def test_brats_cases_are_found_as_each_year_names_them(
    tmp_path: Path, card: str, folder: str, case: str, patient: str, ending: str
) -> None:
    touch(tmp_path, *brats(folder, case, ending), "survival_data.csv", f"{folder}._{case}.nii.gz")
    listing = open_listing(load_card(card), tmp_path)
    assert [(one.id, one.patient) for one in listing.cases] == [(case, patient)]
    assert listing.channels == ("flair", "t1ce", "t1", "t2")
    assert names_of(listing, case) == brats(folder, case, ending)


def test_time_points_of_brats_2023_belong_to_one_patient(tmp_path: Path) -> None:
    touch(tmp_path, *brats_2023("BraTS-GLI-00002-000"), *brats_2023("BraTS-GLI-00002-001"))
    listing = open_listing(load_card("brats_2023"), tmp_path)
    assert {case.patient for case in listing.cases} == {"BraTS-GLI-00002"}
    assert names_of(listing, "BraTS-GLI-00002-001") == brats_2023("BraTS-GLI-00002-001")


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("imagesTr/img0005.nii.gz", "labelsTr/label0005.nii.gz"),
        ("RawData/Training/img/img0005.nii.gz", "RawData/Training/label/label0005.nii.gz"),
    ],
)
def test_synapse_is_found_in_its_usual_folders(tmp_path: Path, image: str, label: str) -> None:
    touch(tmp_path, image, label, "RawData/Testing/img/img0061.nii.gz", "imagesTs/img0062.nii.gz")
    listing = open_listing(load_card("synapse"), tmp_path)
    assert [case.id for case in listing.cases] == ["0005"]
    assert names_of(listing, "0005") == [image, label]


def test_both_frames_of_an_acdc_patient_are_cases_of_that_patient(tmp_path: Path) -> None:
    for frame in ("01", "12"):
        stem = f"patient001/patient001_frame{frame}"
        touch(tmp_path, f"{stem}.nii.gz", f"{stem}_gt.nii.gz")
    touch(tmp_path, "patient001/patient001_4d.nii.gz", "patient001/Info.cfg")
    listing = open_listing(load_card("acdc"), tmp_path)
    assert [case.id for case in listing.cases] == ["patient001_frame01", "patient001_frame12"]
    assert {case.patient for case in listing.cases} == {"patient001"}


def test_a_decathlon_task_is_told_by_its_dataset_json(tmp_path: Path, make_msd: Make) -> None:
    make_msd(tmp_path, cases=2, channels=("T2", "ADC"))
    listing = open_listing(load_card("msd"), tmp_path)
    assert listing.channels == ("T2", "ADC")
    assert listing.labels.names == ("Anterior", "Posterior")
    assert [case.id for case in listing.cases] == ["hippocampus_001", "hippocampus_002"]


def test_the_hippocampus_card_checks_the_labels_of_dataset_json(
    tmp_path: Path, make_msd: Make
) -> None:
    path = make_msd(tmp_path, cases=1) / "dataset.json"
    path.write_text(path.read_text().replace('"1": "Anterior"', '"1": "Left"'))
    with pytest.raises(InputFault, match="labels 1 left, 2 posterior, but the card") as caught:
        open_listing(load_card("hippocampus"), tmp_path)
    assert caught.value.code == "E_CARD"


def test_the_hippocampus_card_checks_the_channels_of_dataset_json(
    tmp_path: Path, make_msd: Make
) -> None:
    make_msd(tmp_path, cases=1, channels=("T2", "ADC"))
    with pytest.raises(InputFault, match="channels T2, ADC, but the card"):
        open_listing(load_card("hippocampus"), tmp_path)


def nnunet_set(root: Path, facts: dict) -> Path:
    for case in ("BRATS_001", "BRATS_002"):
        touch(root, f"imagesTr/{case}_0000.nii.gz", f"imagesTr/{case}_0001.nii.gz")
        touch(root, f"labelsTr/{case}.nii.gz")
    both = {"channel_names": {"0": "T1", "1": "T2"}, "file_ending": ".nii.gz", **facts}
    (root / "dataset.json").write_text(json.dumps(both))
    return root


PLAIN = {"labels": {"background": 0, "edema": 1, "core": 2}}
NESTED = {
    "labels": {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3},
    "regions_class_order": [1, 2, 3],
}


def test_an_nnunet_set_with_plain_labels_is_found(tmp_path: Path) -> None:
    listing = open_listing(load_card("nnunet"), nnunet_set(tmp_path, PLAIN))
    assert listing.channels == ("T1", "T2")
    assert (listing.labels.values, listing.labels.names) == ((1, 2), ("edema", "core"))
    assert listing.regions == ()
    assert names_of(listing, "BRATS_002") == [
        "imagesTr/BRATS_002_0000.nii.gz",
        "imagesTr/BRATS_002_0001.nii.gz",
        "labelsTr/BRATS_002.nii.gz",
    ]


def test_lists_of_labels_in_an_nnunet_set_are_regions_in_their_class_order(tmp_path: Path) -> None:
    listing = open_listing(load_card("nnunet"), nnunet_set(tmp_path, NESTED))
    assert listing.labels.names == ("label 1", "label 2", "enhancing")
    found = [(region.name, region.members, region.value) for region in listing.regions]
    assert found == [("whole", (1, 2, 3), 1), ("core", (2, 3), 2), ("enhancing", (3,), 3)]
    assert listing.target(regions=True).foreground_names == ("whole", "core", "enhancing")


def test_an_nnunet_set_may_list_its_files_itself(tmp_path: Path) -> None:
    touch(tmp_path, "a/t1.nii.gz", "a/t2.nii.gz", "a/seg.nii.gz")
    told = {"dataset": {"a": {"images": ["a/t1.nii.gz", "a/t2.nii.gz"], "label": "a/seg.nii.gz"}}}
    (tmp_path / "dataset.json").write_text(
        json.dumps({"channel_names": {"0": "T1", "1": "T2"}, **PLAIN, **told})
    )
    listing = open_listing(load_card("nnunet"), tmp_path)
    assert names_of(listing, "a") == ["a/t1.nii.gz", "a/t2.nii.gz", "a/seg.nii.gz"]


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"labels": {"background": 0, "a": 1, "ignore": 2}}, "`ignore`"),
        ({"labels": {"background": 0, "a": [1, 2], "b": 2}}, "regions_class_order"),
        ({**NESTED, "regions_class_order": [1, 2]}, "each of the 3 regions"),
        ({"labels": {"background": 0, "a": [0, 1]}}, r"label a is \[0, 1\]"),
        ({"labels": {"0": ["x"], "1": ["x"]}}, "two labels have the same name"),
        ({"labels": {"background": 0, "a": "one"}}, "label a is 'one'"),
        ({**PLAIN, "file_ending": ".png"}, "file_ending '.png'"),
        ({**PLAIN, "channel_names": {"1": "T1"}}, "count from 0"),
        (
            {"labels": {"background": 0, "a": 1, "b": 1}},
            "labels a, b have the same value",
        ),
        ({"labels": {"0": "background", "1": "a", "2": "a"}}, "two labels have the same name"),
        ({**PLAIN, "dataset": {"../a": {"images": [], "label": "dataset.json"}}}, "no slash"),
        ({"labels": [1, 2]}, "labels must be there and be a dict"),
        ({**PLAIN, "dataset": {"a": {"images": []}}}, "dataset must map each case"),
    ],
)
def test_a_wrong_dataset_json_is_told(tmp_path: Path, facts: dict, said: str) -> None:
    with pytest.raises(InputFault, match=said):
        open_listing(load_card("nnunet"), nnunet_set(tmp_path, facts))


def test_a_dataset_json_that_is_no_json_is_told(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text('{"labels": ')
    with pytest.raises(InputFault, match=r"dataset.json: not JSON"):
        open_listing(load_card("msd"), tmp_path)


@pytest.mark.parametrize("name", [card.name for card in shipped_cards()])
def test_a_missing_root_is_answered_with_the_way_to_the_data(tmp_path: Path, name: str) -> None:
    card = load_card(name)
    with pytest.raises(InputFault) as caught:
        open_listing(card, tmp_path / "nowhere")
    said = str(caught.value)
    assert caught.value.code == "E_NODATA"
    assert all(part in said for part in ("nowhere", card.title, card.licence, "--demo"))


@pytest.mark.parametrize("name", [card.name for card in shipped_cards()])
def test_an_empty_root_is_answered_with_the_way_to_the_data(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputFault, match="--demo") as caught:
        open_listing(load_card(name), tmp_path)
    assert caught.value.code == "E_NODATA"


def test_a_root_one_folder_too_high_is_put_right(tmp_path: Path, make_msd: Make) -> None:
    make_msd(tmp_path / "Task04_Hippocampus", cases=1)
    with pytest.raises(InputFault, match=r"did you mean .*Task04_Hippocampus\?"):
        open_listing(load_card("hippocampus"), tmp_path)


def test_all_missing_files_are_listed_at_once(tmp_path: Path) -> None:
    one, two = brats("", "BraTS2021_00001"), brats("", "BraTS2021_00002")
    touch(tmp_path, *one[:3], *two[1:])
    with pytest.raises(InputFault) as caught:
        open_listing(load_card("brats_2021"), tmp_path)
    assert caught.value.code == "E_CASES"
    lines = str(caught.value).splitlines()[1:]
    missing = [line.split(" (")[0].strip() for line in lines]
    assert missing == [
        "BraTS2021_00001: no channel t2",
        "BraTS2021_00001: no label",
        "BraTS2021_00002: no channel flair",
    ]


def test_missing_files_of_a_decathlon_task_are_listed_at_once(
    tmp_path: Path, make_msd: Make
) -> None:
    make_msd(tmp_path, cases=3)
    (tmp_path / "imagesTr/hippocampus_001.nii.gz").unlink()
    (tmp_path / "labelsTr/hippocampus_003.nii.gz").unlink()
    with pytest.raises(InputFault) as caught:
        open_listing(load_card("hippocampus"), tmp_path)
    assert str(caught.value).count("is missing") == 2


def test_a_case_that_stands_in_two_folders_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, *brats("HGG/", "Brats18_A_1"), *brats("LGG/", "Brats18_A_1"))
    with pytest.raises(InputFault, match=r"Brats18_A_1: channel flair stands twice \(HGG/.*LGG/"):
        open_listing(load_card("brats_2018"), tmp_path)


def test_a_case_that_dataset_json_lists_twice_is_refused(tmp_path: Path, make_msd: Make) -> None:
    path = make_msd(tmp_path, cases=2) / "dataset.json"
    facts = json.loads(path.read_text())
    facts["training"].append(facts["training"][0])
    path.write_text(json.dumps(facts))
    with pytest.raises(InputFault, match="hippocampus_001: training lists it 2 times"):
        open_listing(load_card("hippocampus"), tmp_path)


def test_channels_stand_in_the_order_of_the_card_not_of_its_patterns(tmp_path: Path) -> None:
    card = load_card("brats_2021").model_copy(update={"channels": ("t2", "t1", "flair", "t1ce")})
    touch(tmp_path, *brats("", "BraTS2021_00001"))
    found = names_of(open_listing(card, tmp_path), "BraTS2021_00001")
    assert [name.split("_")[-1] for name in found] == [
        *("t2.nii.gz", "t1.nii.gz", "flair.nii.gz", "t1ce.nii.gz", "seg.nii.gz")
    ]


def test_images_alone_are_listed_where_labels_are_not_asked_for(tmp_path: Path) -> None:
    touch(tmp_path, *brats("", "BraTS2021_00001")[:4])
    listing = open_listing(load_card("brats_2021"), tmp_path, labeled=False)
    assert [(case.id, case.label) for case in listing.cases] == [("BraTS2021_00001", None)]


def test_a_case_whose_patient_is_not_told_by_its_name_is_refused(tmp_path: Path) -> None:
    card = load_card("acdc").model_copy(update={"patient": r"(\d+)_.*"})
    touch(tmp_path, "patient001_frame01.nii.gz", "patient001_frame01_gt.nii.gz")
    with pytest.raises(InputFault, match="does not fit the card's rule for patients"):
        open_listing(card, tmp_path)


@pytest.mark.parametrize("name", [card.name for card in shipped_cards()])
def test_files_that_are_placed_by_a_card_are_found_by_it(tmp_path: Path, name: str) -> None:
    card = load_card(name)
    channels = card.channels or ("image",)
    labels = card.labels.names if card.labels else ("organ",)
    case = card.phantom.case.format(n=3)
    placed = place_case(card, tmp_path, case, channels=len(channels))
    assert placed.label is not None
    touch(tmp_path, *map(str, (*placed.images, placed.label)))
    if card.layout != "folder":
        numbered = {str(number): name for number, name in enumerate(channels)}
        by_value = {str(v): n for v, n in enumerate(("background", *labels))}
        facts = {
            "modality": numbered,
            "labels": by_value,
            "training": [{"image": str(placed.images[0]), "label": str(placed.label)}],
        }
        (tmp_path / "dataset.json").write_text(json.dumps(facts))
    listing = open_listing(card, tmp_path)
    assert [(c.id, c.images, c.label) for c in listing.cases] == [
        (case, placed.images, placed.label)
    ]


@pytest.mark.parametrize(
    ("pattern", "path", "case"),
    [
        ("{case}/{case}_t1.nii.gz", "a/a_t1.nii", "a"),
        ("{case}/{case}_t1.nii.gz", "a/b_t1.nii.gz", None),
        ("**/{case}.nii", "x/y/a.nii.gz", "a"),
        ("**/{case}.nii", "a.nii", "a"),
        ("*/{case}-t1*.nii.gz", "x/a-t1_n4.nii.gz", "a"),
        ("*/{case}.nii.gz", "x/y/a.nii.gz", None),
        ("s({case}).nii.gz", "s(a).nii.gz", "a"),
    ],
)
def test_a_pattern_finds_what_it_says(pattern: str, path: str, case: str | None) -> None:
    found = pattern_regex(pattern, "[^/]+").fullmatch(path)
    assert (found["case"] if found else None) == case


def test_all_real_hippocampus_cases_are_listed(shared_data: Path) -> None:
    listing = open_listing(load_card("hippocampus"), shared_data / "hippocampus")
    assert len(listing.cases) == 208
    assert listing.channels == ("MRI",)
    assert listing.labels.names == ("Anterior", "Posterior")
    assert listing.labels[1].codes["Type_CodeMeaning"] == "Hippocampus"
