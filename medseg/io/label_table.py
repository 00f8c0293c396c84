"""Label tables as files: the CSV of 3D Slicer's color tables, as `LabelTable` explains."""

from pathlib import Path

from medseg.fault import InputFault
from medseg.volume import LabelTable


def read_label_table(path: Path) -> LabelTable:
    """The label table in a CSV file of UTF-8 text, with or without a byte order mark.

    Raises:
        InputFault: there is no such file (E_NOTFILE), or it is no label table (E_TABLE).
    """
    if not path.is_file():
        raise InputFault(f"{path}: there is no such label table.", code="E_NOTFILE")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputFault(
            f'{path}: it is no UTF-8 text, as a label table is; save it as "CSV UTF-8".',
            code="E_TABLE",
        ) from error
    return LabelTable.from_csv(text, place=str(path))
