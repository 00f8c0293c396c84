"""What no writer at hand makes: lossless JPEG, files without a preamble, media and archives."""

import struct
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEGLosslessSV1

from tests.io.dicom.phantom import ROOT, save


def lossless_jpeg(values: np.ndarray, bits: int) -> bytes:
    """One frame in ITU-T T.81's process 14, selection value 1: differences to the left pixel.

    Every difference class gets a code of 5 bits, so the table is the shortest that can be written.
    """
    rows, columns = values.shape
    table = bytes([0, 0, 0, 0, 0, 17, *[0] * 11, *range(17)])
    head = b"\xff\xd8" + _segment(
        0xC3, struct.pack(">BHHB", bits, rows, columns, 1) + bytes([1, 0x11, 0])
    )
    head += _segment(0xC4, table) + _segment(0xDA, bytes([1, 1, 0, 1, 0, 0]))
    packed = "".join(_code(difference) for difference in _differences(values.astype(int), bits))
    packed += "1" * (-len(packed) % 8)
    body = int(packed, 2).to_bytes(len(packed) // 8, "big").replace(b"\xff", b"\xff\x00")
    return head + body + b"\xff\xd9"


def _differences(values: np.ndarray, bits: int) -> list[int]:
    guess = np.empty_like(values)
    guess[:, 1:] = values[:, :-1]
    guess[1:, 0] = values[:-1, 0]
    guess[0, 0] = 1 << (bits - 1)
    return [int(one) for one in ((values - guess + 32768) % 65536 - 32768).ravel()]


def _code(difference: int) -> str:
    size = abs(difference).bit_length()
    if size in (0, 16):
        return f"{size:05b}"
    return f"{size:05b}{difference if difference > 0 else difference + (1 << size) - 1:0{size}b}"


def _segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def pack_as_lossless_jpeg(_place: int, image: FileDataset) -> None:
    """The plain pixels of a header replaced by the packed ones."""
    values = np.frombuffer(image.PixelData, "<u2").reshape(image.Rows, image.Columns)
    image.PixelData = encapsulate([lossless_jpeg(values, image.BitsStored)])
    image["PixelData"].VR = "OB"
    image["PixelData"].is_undefined_length = True
    image.file_meta.TransferSyntaxUID = JPEGLosslessSV1


def without_preamble(path: Path) -> None:
    """The bare data set, as old archives wrote it: no preamble and no meta information."""
    image = dcmread(path)
    bare = Dataset()
    bare.update(image)
    buffer = BytesIO()
    bare.save_as(buffer, implicit_vr=True, little_endian=True, enforce_file_format=False)
    path.write_bytes(buffer.getvalue())


def zipped(files: Mapping[str, bytes], path: Path, *, method: int = zipfile.ZIP_DEFLATED) -> Path:
    """An archive of members under the names given."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def directory_of(names: Sequence[Sequence[str]], path: Path) -> Path:
    """A DICOMDIR with an image record for each file ID, below a patient, a study and a series."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID("1.2.840.10008.1.3.10")
    meta.MediaStorageSOPInstanceUID = UID(f"{ROOT}.5")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    directory = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    directory.FileSetID = "PHANTOM"
    records = []
    for kind in ("PATIENT", "STUDY", "SERIES", *["IMAGE"] * len(names)):
        record = Dataset()
        records.append(record)
        record.DirectoryRecordType = kind
    for record, name in zip(records[3:], names, strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            record.ReferencedFileID = list(name)
    directory.DirectoryRecordSequence = records
    save(directory, path)
    return path
