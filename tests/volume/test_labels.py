"""The label table: its CSV, its mirror pairs, and values it does not know."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.fault import InputFault
from medseg.volume import Label, LabelTable

FEW = settings(derandomize=True, max_examples=50, deadline=None)

values = st.integers(1, 65_535)
# csv would read a lone carriage return as the end of a row; names of labels hold none.
letters = st.characters(blacklist_categories=["Cs", "Cc"])
names = st.text(letters, min_size=1, max_size=12)
colors = st.tuples(*[st.integers(0, 255)] * 3)
codes = st.dictionaries(
    st.sampled_from(["Type_CodeValue", "Category_CodingScheme", "Region_CodeMeaning"]),
    st.text(letters, min_size=1, max_size=8),
)


@st.composite
def tables(draw):
    numbers = draw(st.lists(values, min_size=1, max_size=6, unique=True))
    words = draw(st.lists(names, min_size=len(numbers), max_size=len(numbers), unique_by=str.lower))
    return LabelTable(
        Label(number, word, draw(colors), draw(codes))
        for number, word in zip(numbers, words, strict=True)
    )


@FEW
@given(tables())
def test_a_table_survives_its_csv(table):
    assert LabelTable.from_csv(table.to_csv(), place="a.csv") == table


@FEW
@given(tables())
def test_values_rise_and_every_value_finds_its_label(table):
    assert list(table.values) == sorted(set(table.values))
    for value, name in zip(table.values, table.names, strict=True):
        assert value in table
        assert table[value].name == name
    assert 0 not in table
    assert len(table) == len(table.values)


def test_background_is_passed_over_and_colors_differ():
    table = LabelTable.from_names(
        {0: "background", 2: "b", 1: "a", **{n: f"n{n}" for n in range(3, 60)}}
    )
    assert table.values[:2] == (1, 2)
    assert len({label.color for label in table.labels}) == len(table) == 59


@pytest.mark.parametrize(
    ("found", "pairs"),
    [
        ({1: "left kidney", 2: "right kidney", 3: "liver"}, ((1, 2),)),
        ({1: "Right-Hippocampus", 2: "Left-Hippocampus"}, ((2, 1),)),
        ({1: "kidney_left", 2: "kidney_right"}, ((1, 2),)),
        ({1: "left kidney", 2: "liver"}, ()),
        ({1: "cleft", 2: "cright"}, ()),
        ({1: "left lung", 2: "right lung", 3: "left eye", 4: "right eye"}, ((1, 2), (3, 4))),
    ],
)
def test_mirror_pairs_differ_in_left_and_right_alone(found, pairs):
    assert LabelTable.from_names(found).mirror_pairs() == pairs


def test_unknown_values_are_told_with_their_counts():
    table = LabelTable.from_names({1: "a", 3: "b"})
    table.refuse_unknown(np.array([0, 1, 3, 3], dtype=np.uint8))
    with pytest.raises(InputFault, match=r"2 \(2 voxels\), 9 \(1 voxels\).*\(0, 1, 3\)") as fault:
        table.refuse_unknown(np.array([0, 2, 2, 9, 1], dtype=np.uint16))
    assert fault.value.code == "E_LABEL"


def test_long_lists_are_told_short():
    table = LabelTable.from_names({n: f"n{n}" for n in range(1, 300)})
    with pytest.raises(InputFault) as fault:
        table.refuse_unknown(np.arange(400, 500, dtype=np.uint16))
    assert len(str(fault.value)) < 400
    assert "..., 299" in str(fault.value)


def test_unknown_values_are_counted_over_more_voxels_than_are_taken_at_once() -> None:
    table = LabelTable.from_names({1: "a"})
    array = np.ones((50, 60, 70), dtype=np.uint8, order="F")
    array[::2] = 7
    array[0, 0, 0] = 9
    with pytest.raises(InputFault, match=r"7 \(104999 voxels\), 9 \(1 voxels\)"):
        table.refuse_unknown(array)
    table.refuse_unknown(np.zeros((0, 3, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([], "no label"),
        ([Label(0, "a", (0, 0, 0))], "values are 1 to 65535"),
        ([Label(70_000, "a", (0, 0, 0))], "values are 1 to 65535"),
        ([Label(1, "", (0, 0, 0))], "has no name"),
        ([Label(1, "a", (0, 0, 256))], "leaves 0..255"),
        ([Label(1, "a", (0, 0, 0)), Label(1, "b", (0, 0, 0))], "value 1 stands twice"),
        ([Label(1, "a", (0, 0, 0)), Label(2, "A", (0, 0, 0))], "name a stands twice"),
    ],
)
def test_tables_that_cannot_be_used(labels, words):
    with pytest.raises(InputFault, match=words) as fault:
        LabelTable(labels)
    assert fault.value.code == "E_TABLE"


def test_all_faults_of_a_table_are_told_at_once():
    with pytest.raises(InputFault) as fault:
        LabelTable([Label(0, "", (0, 0, 999)), Label(1, "b", (0, 0, 0))])
    assert all(words in str(fault.value) for words in ("1 to 65535", "no name", "0..255"))


@pytest.mark.parametrize(
    ("left", "right", "are"),
    [
        ("heart_ventricle_left", "heart_ventricle_right", False),
        ("left atrium", "right atrium", False),
        ("Left-Lateral-Ventricle", "Right-Lateral-Ventricle", True),
        ("kidney_left", "kidney_right", True),
    ],
)
def test_the_chambers_of_a_heart_are_no_mirror_images(left, right, are):
    table = LabelTable.from_names({1: left, 2: right})
    assert table.mirror_pairs() == (((1, 2),) if are else ())


@pytest.mark.parametrize("pairs", [[(1, 3)], [(1, 2), (2, 1)], [(1, 1)]])
def test_stated_pairs_are_of_labels_that_stand_once(pairs):
    labels = LabelTable.from_names({1: "a", 2: "b"}).labels
    with pytest.raises(InputFault, match="mirrored: ") as fault:
        LabelTable(labels, mirrored=pairs)
    assert fault.value.code == "E_TABLE"


def test_the_background_of_a_color_table_is_passed_over():
    header = "LabelValue,Name,Color_R,Color_G,Color_B\n"
    text = f"{header}0,Background,0,0,0\n1,liver,1,2,3\n"
    assert LabelTable.from_csv(text, place="a.csv").names == ("liver",)
    with pytest.raises(InputFault, match="no label beside background"):
        LabelTable.from_csv(f"{header}0,Background,0,0,0\n", place="a.csv")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "a.csv: columns LabelValue, Name"),
        ("LabelValue,Name\n1,a\n", "columns Color_R, Color_G, Color_B are missing"),
        ("LabelValue,Name,Color_R,Color_G,Color_B\n1.5,a,1,2,3\n", "a.csv:2: .*whole numbers"),
        ("LabelValue,Name,Color_R,Color_G,Color_B\n1,a,1,2,\n", "a.csv:2: "),
    ],
)
def test_a_csv_that_cannot_be_read_is_told_by_line(text, words):
    with pytest.raises(InputFault, match=words) as fault:
        LabelTable.from_csv(text, place="a.csv")
    assert fault.value.code == "E_TABLE"
