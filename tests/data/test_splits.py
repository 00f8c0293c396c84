import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.data.card import Card, FixedSplit, load_card
from medseg.data.cases import Case, Listing, open_listing
from medseg.data.splits import Split, load_split, load_splits, make_split
from medseg.fault import InputFault
from medseg.volume import LabelTable


def listing_of(cases: dict[str, str], *, fixed: FixedSplit | None = None) -> Listing:
    """A data set without files: case ids and their patients."""
    card: Card = load_card("hippocampus").model_copy(update={"split": fixed})
    table = LabelTable.from_names({1: "a"})
    listed = tuple(Case(case, cases[case], (Path(case),), None) for case in sorted(cases))
    return Listing(card, Path("root"), ("MRI",), table, (), listed)


def singles(count: int) -> Listing:
    return listing_of({f"case_{n:02d}": f"case_{n:02d}" for n in range(count)})


PATIENTS = st.dictionaries(
    st.text("abcdef0123", min_size=1, max_size=6), st.sampled_from("PQRSTUVW"), min_size=1
)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(PATIENTS, st.integers(2, 5), st.integers(0, 3))
def test_each_case_is_validated_once_over_the_folds_and_no_patient_is_on_both_sides(
    patients: dict[str, str], folds: int, seed: int
) -> None:
    listing = listing_of(patients)
    if len(set(patients.values())) < folds:
        with pytest.raises(InputFault, match="leave folds empty"):
            make_split(listing, folds=folds, fold=0, seed=seed)
        return
    validated = []
    for fold in range(folds):
        split = make_split(listing, folds=folds, fold=fold, seed=seed)
        validated += split.validation
        assert sorted(split.train + split.validation) == sorted(patients)
        sides = [{patients[case] for case in side} for side in (split.train, split.validation)]
        assert not sides[0] & sides[1]
    assert sorted(validated) == sorted(patients)


def test_a_split_is_the_same_on_every_machine() -> None:
    # Written down once: sha256 of "seed:patient" decides, so this must never change.
    assert make_split(singles(10), folds=5, fold=0, seed=0).validation == ("case_01", "case_02")
    assert make_split(singles(10), folds=5, fold=0, seed=1).validation == ("case_08", "case_09")


def test_the_order_of_the_listing_does_not_change_the_split() -> None:
    listing = singles(12)
    turned = Listing(
        listing.card, listing.root, listing.channels, listing.labels, (), listing.cases[::-1]
    )
    one, other = make_split(listing), make_split(turned)
    assert set(one.validation) == set(other.validation)


def test_folds_differ_by_one_patient_at_most() -> None:
    sizes = [len(make_split(singles(13), folds=5, fold=fold).validation) for fold in range(5)]
    assert sorted(sizes) == [2, 2, 3, 3, 3]


@pytest.mark.parametrize(("folds", "fold"), [(5, 5), (5, -1), (1, 0), (0, 0)])
def test_a_fold_that_is_not_there_is_refused(folds: int, fold: int) -> None:
    with pytest.raises(InputFault, match=f"fold {fold} of {folds}") as caught:
        make_split(singles(10), folds=folds, fold=fold)
    assert caught.value.code == "E_FOLD"


def test_the_fixed_split_of_a_card_is_taken_as_it_is() -> None:
    fixed = FixedSplit(train=("case_00", "case_02"), validation=("case_01",))
    listing = listing_of({f"case_0{n}": f"p{n}" for n in range(4)}, fixed=fixed)
    split = make_split(listing, fold="fixed")
    assert (split.train, split.validation) == (fixed.train, fixed.validation)


def test_a_card_without_a_fixed_split_says_so() -> None:
    with pytest.raises(InputFault, match="has no fixed split"):
        make_split(singles(4), fold="fixed")


def test_the_synapse_split_is_used_where_all_30_cases_are_there(tmp_path: Path) -> None:
    card = load_card("synapse")
    assert card.split is not None
    for case in (*card.split.train, *card.split.validation):
        for name in (f"imagesTr/img{case}.nii.gz", f"labelsTr/label{case}.nii.gz"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
    split = make_split(open_listing(card, tmp_path), fold="fixed")
    assert (len(split.train), len(split.validation)) == (18, 12)
    assert "0008" in split.validation


def test_a_patient_on_both_sides_is_refused_by_name() -> None:
    fixed = FixedSplit(train=("a_1", "b_1"), validation=("a_2",))
    listing = listing_of({"a_1": "a", "a_2": "a", "b_1": "b"}, fixed=fixed)
    with pytest.raises(InputFault, match="a_2") as caught:
        make_split(listing, fold="fixed")
    assert caught.value.code == "E_LEAK"


@pytest.mark.parametrize(
    ("split", "code"),
    [
        (Split(("case_00",), ("case_00",)), "E_LEAK"),
        (Split((), ("case_00",)), "E_FOLD"),
        (Split(("case_00",), ()), "E_FOLD"),
        (Split(("case_00", "gone"), ("case_01",)), "E_SPLIT"),
        (Split(("case_00", "case_00"), ("case_01",)), "E_SPLIT"),
    ],
)
def test_a_split_that_does_not_fit_is_refused(split: Split, code: str) -> None:
    with pytest.raises(InputFault) as caught:
        split.refuse(singles(3).cases)
    assert caught.value.code == code


def test_a_split_survives_json() -> None:
    split = make_split(singles(10))
    assert Split.from_json(json.loads(json.dumps(split.to_json()))) == split


def test_a_stored_split_is_read_back(tmp_path: Path) -> None:
    listing = singles(10)
    split = make_split(listing)
    (tmp_path / "split.json").write_text(json.dumps(split.to_json()))
    assert load_split(tmp_path / "split.json", listing.cases) == split


def test_a_stored_split_whose_cases_are_gone_names_them(tmp_path: Path) -> None:
    split = make_split(singles(10))
    (tmp_path / "split.json").write_text(json.dumps(split.to_json()))
    with pytest.raises(InputFault, match="case_08, case_09") as caught:
        load_split(tmp_path / "split.json", singles(8).cases)
    assert caught.value.code == "E_SPLIT"


@pytest.mark.parametrize("text", ["{", "[]", '{"train": ["a"]}', '{"train": 1, "validation": 2}'])
def test_a_file_that_is_no_split_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "split.json").write_text(text)
    with pytest.raises(InputFault, match="no stored split"):
        load_split(tmp_path / "split.json", singles(3).cases)


def test_every_case_is_trained_on_where_that_is_asked_for(tmp_path: Path) -> None:
    listing = singles(3)
    split = make_split(listing, fold="all")
    assert (split.train, split.validation) == (("case_00", "case_01", "case_02"), ())
    path = tmp_path / "split.json"
    path.write_text(json.dumps(split.to_json()))
    assert load_split(path, listing.cases) == split
    path.write_text(json.dumps(split.to_json() | {"origin": "made by hand"}))
    with pytest.raises(InputFault, match="the split has no validation cases"):
        load_split(path, listing.cases)


def written(path: Path, folds: object) -> str:
    path.write_text(json.dumps(folds))
    return str(path)


def test_folds_of_nnunet_are_taken_as_they_are(tmp_path: Path) -> None:
    listing = singles(4)
    names = [case.id for case in listing.cases]
    folds = [{"train": names[2:], "val": names[:2]}, {"train": names[:1], "val": names[3:]}]
    splits = written(tmp_path / "splits_final.json", folds)
    assert len(load_splits(Path(splits))) == 2
    assert make_split(listing, fold=0, splits=splits) == Split(
        tuple(names[2:]), tuple(names[:2]), "fold 0 of splits_final.json"
    )
    assert make_split(listing, fold=1, splits=splits).validation == ("case_03",)
    with pytest.raises(InputFault, match=r"fold 2 is none of the 2 in .*a number up to 1"):
        make_split(listing, fold=2, splits=splits)


@pytest.mark.parametrize(
    "folds",
    [
        {"train": ["case_00"], "val": ["case_01"]},
        [{"train": ["case_00"]}],
        [{"train": "case_00", "val": ["case_01"]}],
        [{"train": [0], "val": ["case_01"]}],
        ["case_00"],
        5,
    ],
)
def test_what_is_no_list_of_folds_is_refused(tmp_path: Path, folds: object) -> None:
    with pytest.raises(InputFault, match="these are no splits") as told:
        load_splits(Path(written(tmp_path / "splits.json", folds)))
    assert told.value.code == "E_SPLIT"


def test_splits_that_are_not_there_or_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputFault, match=r"nowhere\.json: it cannot be read"):
        load_splits(tmp_path / "nowhere.json")
    listing = listing_of({"a_1": "a", "a_2": "a", "b_1": "b"})
    splits = written(
        tmp_path / "splits.json",
        [{"train": ["a_1"], "val": ["a_2"]}, {"train": ["a_1"], "val": ["c_1"]}],
    )
    with pytest.raises(InputFault) as leak:
        make_split(listing, fold=0, splits=splits)
    assert leak.value.code == "E_LEAK"
    with pytest.raises(InputFault, match="c_1") as stranger:
        make_split(listing, fold=1, splits=splits)
    assert stranger.value.code == "E_SPLIT"
