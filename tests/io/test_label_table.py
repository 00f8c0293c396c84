"""Label tables as other programs save them."""

from pathlib import Path

import pytest

from medseg.fault import InputFault
from medseg.io.label_table import read_label_table

ROWS = "LabelValue,Name,Color_R,Color_G,Color_B\n1,Kleinhirn f\u00fcr zwei,1,2,3\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_table_with_and_without_a_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(ROWS, encoding=encoding)
    assert read_label_table(path).names == ("Kleinhirn f\u00fcr zwei",)


@pytest.mark.parametrize("data", [ROWS.encode("latin-1"), b"\x1f\x8b\x08\x00\xff\xfe"])
def test_what_is_no_text_is_no_table(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(data)
    with pytest.raises(InputFault, match=r"labels.csv: it is no UTF-8 text") as fault:
        read_label_table(path)
    assert fault.value.code == "E_TABLE"
    with pytest.raises(InputFault, match=r"none.csv: there is no such label table"):
        read_label_table(tmp_path / "none.csv")
