import os
from pathlib import Path

import pytest

from medseg.bundle.cases import Reading, found_cases
from medseg.bundle.inputs import NiftiCase, UnusableCase
from medseg.bundle.listed import expanded, listed
from medseg.fault import InputFault
from tests.engine.small import image

READING = Reading()


def names(given: list[Path], channels: tuple[str, ...] = ("MR",), **more: object) -> dict:
    with found_cases(given, channels, **more) as cases:  # pyright: ignore[reportArgumentType]
        return {
            name: [file.name for file in case.files]
            if isinstance(case, NiftiCase)
            else type(case).__name__
            for name, case in cases.items()
        }


def test_patterns_name_files_at_any_depth_in_order(tmp_path: Path) -> None:
    for name in ("b/2.nii.gz", "b/c/1.nii.gz", "a.nii.gz", "b/x.txt"):
        image(tmp_path / name) if name.endswith("gz") else (tmp_path / name).write_text("")
    found = expanded([f"{tmp_path}/**/*.nii.gz"])
    assert [path.relative_to(tmp_path).as_posix() for path in found] == [
        "a.nii.gz",
        "b/2.nii.gz",
        "b/c/1.nii.gz",
    ]
    with pytest.raises(InputFault) as fault:
        expanded([f"{tmp_path}/*.mha"])
    assert fault.value.code == "E_NOTFILE"


def test_a_file_whose_name_looks_like_a_pattern_is_itself(tmp_path: Path) -> None:
    file = image(tmp_path / "a[1].nii.gz")
    image(tmp_path / "a1.nii.gz")
    assert expanded([str(file)]) == [file]


def test_a_list_has_an_input_a_line_relative_to_itself(tmp_path: Path) -> None:
    for name in ("x/a.nii.gz", "x/b c.nii.gz", "y/d.nii.gz"):
        image(tmp_path / name)
    file = tmp_path / "list.txt"
    file.write_bytes(
        b"\xef\xbb\xbf# mine\r\nx/a.nii.gz\r\n\r\n  # not this\r\nx/b c.nii.gz\r\ny/*.gz"
    )
    paths, cases = listed(file, ("MR",), READING)
    assert [path.name for path in paths] == ["a.nii.gz", "b c.nii.gz", "d.nii.gz"]
    assert cases == {}


def test_a_table_names_cases_and_their_channels(tmp_path: Path) -> None:
    for name in ("p1/t1.nii.gz", "p1/t2.nii.gz", "p2/t1.nii.gz"):
        image(tmp_path / name)
    file = tmp_path / "list.csv"
    file.write_text("T2, case, site, T1\np1/t2.nii.gz, one, A, p1/t1.nii.gz\n,two,B,p2/t1.nii.gz\n")
    paths, cases = listed(file, ("T1", "T2"), READING)
    assert paths == []
    assert [file.name for file in cases["one"].files] == ["t1.nii.gz", "t2.nii.gz"]
    assert isinstance(cases["two"], UnusableCase)
    assert cases["two"].fault.code == "E_NOTFILE"
    assert names([], ("T1", "T2"), listed=cases)["two"] == "UnusableCase"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n",
        "case,T1\na,b\n",
        "case,T1,T2\na,x,y\na,x,y\n",
        "case,T1,T2\n../a,x,y\n",
        "case,T1,T2\n.a,x,y\n",
        "case,T1,T2\n,x,y\n",
    ],
)
def test_a_list_that_says_nothing_or_too_much_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "l.csv"
    file.write_text(text)
    with pytest.raises(InputFault) as fault:
        listed(file, ("T1", "T2"), READING)
    assert fault.value.code == "E_LIST"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputFault, match="UTF-8"):
        listed(file, ("T1", "T2"), READING)


def test_one_case_without_its_channel_does_not_stop_the_others(tmp_path: Path) -> None:
    for name in ("a/x_T1.nii.gz", "a/x_T2.nii.gz", "b/x_T1.nii.gz", "b/x_seg.nii.gz"):
        image(tmp_path / name)
    found = names([tmp_path], ("T1", "T2"))
    assert found == {"a": ["x_T1.nii.gz", "x_T2.nii.gz"], "b": "UnusableCase"}
    with pytest.raises(InputFault) as fault:
        names([tmp_path / "b"], ("T1", "T2"))
    assert fault.value.code == "E_CASES"


def test_an_empty_folder_among_others_fails_in_its_turn(tmp_path: Path) -> None:
    image(tmp_path / "a" / "a.nii.gz")
    (tmp_path / "b").mkdir()
    found = names([tmp_path / "a", tmp_path / "b"])
    assert found == {"a": ["a.nii.gz"], "b": "UnusableCase"}


def test_a_tree_is_named_by_its_folders(tmp_path: Path) -> None:
    image(tmp_path / "p1" / "v1" / "head.nii.gz")
    image(tmp_path / "p1" / "v2" / "head.nii.gz")
    image(tmp_path / "p2" / "head.nii.gz")
    assert list(names([tmp_path])) == ["p1_v1", "p1_v2", "p2"]


def test_results_and_what_systems_leave_are_no_inputs(tmp_path: Path) -> None:
    image(tmp_path / "p1" / "head.nii.gz")
    image(tmp_path / "out" / "p1.nii.gz")
    image(tmp_path / ".cache" / "x.nii.gz")
    (tmp_path / "p1" / "._head.nii.gz").write_bytes(b"\0\5\x16\7")
    assert names([tmp_path], output=tmp_path / "out") == {"p1": ["head.nii.gz"]}


def test_bids_data_sets_are_taken_by_suffix_and_keep_their_entities(tmp_path: Path) -> None:
    for subject, suffixes in (("01", ("T1w", "FLAIR", "T2w")), ("02", ("T1w",))):
        for suffix in suffixes:
            image(tmp_path / f"sub-{subject}/ses-a/anat/sub-{subject}_ses-a_{suffix}.nii.gz")
    image(tmp_path / "sub-01/ses-a/anat/sub-01_ses-a_dseg.nii.gz")
    image(tmp_path / "derivatives/x/sub-01/anat/sub-01_T1w.nii.gz")
    two = names([tmp_path], ("FLAIR", "T1"))
    assert two == {
        "sub-01_ses-a": ["sub-01_ses-a_FLAIR.nii.gz", "sub-01_ses-a_T1w.nii.gz"],
        "sub-02_ses-a": "UnusableCase",
    }
    assert list(names([tmp_path], ("T1",))) == ["sub-01_ses-a_T1w", "sub-02_ses-a_T1w"]
    assert len(names([tmp_path], ("MR",))) == 4


def test_a_data_set_without_the_bundles_channels_is_told(tmp_path: Path) -> None:
    image(tmp_path / "sub-01/anat/sub-01_T1w.nii.gz")
    with pytest.raises(InputFault, match="PD, FLAIR") as fault:
        names([tmp_path], ("PD", "FLAIR"))
    assert fault.value.code == "E_NODATA"


def test_a_file_of_any_name_in_a_bids_folder_gets_its_entities(tmp_path: Path) -> None:
    image(tmp_path / "sub-7" / "ses-2" / "anat" / "head.nii.gz")
    assert list(names([tmp_path / "sub-7" / "ses-2" / "anat" / "head.nii.gz"])) == [
        "sub-7_ses-2_head"
    ]


def test_a_name_of_any_bytes_is_a_case(tmp_path: Path) -> None:
    file = image(tmp_path / "a.nii.gz")
    strange = Path(os.fsdecode(bytes(tmp_path) + b"/b\xff.nii.gz"))
    file.rename(strange)
    assert list(names([strange])) == ["b\udcff"]
