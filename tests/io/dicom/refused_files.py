"""Series to refuse for what one of their files says or lacks."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from tests.io.dicom.case import Case
from tests.io.dicom.enhanced import SHUFFLED, Enhanced
from tests.io.dicom.others import color_picture
from tests.io.dicom.pet import REFUSED
from tests.io.dicom.phantom import Layout, Made, Storing, pixels_at, save

SMALL = Layout(rows=40, columns=48, spacing_mm=(1.25, 1.0))
Bytes = Callable[[bytes], bytes]


def refused_files() -> list[Case]:
    """The cases, in the order of what is wrong."""
    pet = [Case(name, "E_SUV", made.write) for name, made in REFUSED]
    return [*_lacking(), *_numbers(), *_cut(), *_bombs(), *_packed(), *_frames(), *pet]


def one_file(change: Bytes, *, place: int = 11, made: Made | None = None) -> Callable[[Path], None]:
    """A sound series, the bytes of one file changed; the last slice tells least of its loss."""

    def build(folder: Path) -> None:
        path = (made or Made()).write(folder)[place]
        path.write_bytes(change(path.read_bytes()))

    return build


def _lacks(*names: str) -> Callable[[Path], object]:
    return Made(lacks=names).write


def _says(storing: Storing | None = None, **header: Any) -> Callable[[Path], object]:
    return Made(storing=storing or Storing(), header=header).write


def _last_lacks(*names: str) -> Callable[[Path], object]:
    def change(place: int, image: FileDataset) -> None:
        for name in names if place == 11 else ():
            delattr(image, name)

    return Made(change=change).write


def _lacking() -> list[Case]:
    return [
        Case("no PixelSpacing", "E_NOSPACING", _lacks("PixelSpacing")),
        Case("no position", "E_NOPOSITION", _lacks("ImagePositionPatient")),
        Case("no orientation", "E_NOPOSITION", _lacks("ImageOrientationPatient")),
        Case("an empty position", "E_NOPOSITION", _says(ImagePositionPatient=None)),
        Case("no PixelRepresentation", "E_DICOM", _lacks("PixelRepresentation")),
        Case("no BitsAllocated", "E_DICOM", _lacks("BitsAllocated")),
        Case("no SeriesInstanceUID", "E_DICOM", _lacks("SeriesInstanceUID")),
        Case("no StudyInstanceUID", "E_DICOM", _lacks("StudyInstanceUID")),
        Case("a slice without Rows", "E_DICOM", _last_lacks("Rows")),
        Case("a slice without Rows and Modality", "E_DICOM", _last_lacks("Rows", "Modality")),
        Case("a slice without PixelData", "E_TRUNC", _last_lacks("PixelData")),
        Case("a slice without its position", "E_NOPOSITION", _last_lacks("ImagePositionPatient")),
    ]


def _numbers() -> list[Case]:
    skewed = [1, 0, 0, 0.1, 0.995, 0]
    color = Made(sop_class="1.2.840.10008.5.1.4.1.1.2", header=_COLOR)
    lut = Dataset()
    lut.LUTDescriptor, lut.LUTData, lut.ModalityLUTType = [2, 0, 16], b"\0\0\1\0", "US"
    return [
        Case("slope 0", "E_SCALE", _says(RescaleSlope="0")),
        Case(
            "a slope of infinity",
            "E_DICOM",
            one_file(_text(0x0028, 0x1053, "1e999")),
        ),
        Case("a Modality LUT", "E_SCALE", _says(ModalityLUTSequence=[lut])),
        Case("a position that is no number", "E_DICOM", one_file(_text(0x0020, 0x0032, "nan"))),
        Case("a position with commas", "E_DICOM", one_file(_text(0x0020, 0x0032, "1,5\\2,5\\3"))),
        Case("a position of two numbers", "E_DICOM", _says(ImagePositionPatient=["1", "2"])),
        Case("skewed directions", "E_ORIENTATION", _says(ImageOrientationPatient=skewed)),
        Case("no direction", "E_ORIENTATION", _says(ImageOrientationPatient=[0] * 6)),
        Case("a spacing of zero", "E_NOSPACING", _says(PixelSpacing=["0", "2"])),
        Case("a negative spacing", "E_NOSPACING", _says(PixelSpacing=["-2.5", "2"])),
        Case("one spacing", "E_DICOM", _says(PixelSpacing="2")),
        Case("color", "E_COLOR", color.write),
        Case("a palette", "E_COLOR", _says(PhotometricInterpretation="PALETTE COLOR")),
        Case("a picture in color alone", "E_COLOR", _picture),
        Case("values that do not begin at bit 0", "E_DTYPE", _says(HighBit=14)),
        Case("more bits stored than allocated", "E_DTYPE", _says(BitsStored=17, HighBit=16)),
        Case("one bit a pixel", "E_DTYPE", _says(BitsAllocated=1, BitsStored=1, HighBit=0)),
        Case("a sign of 2", "E_DICOM", _says(PixelRepresentation=2)),
        Case("pixels of floating point", "E_TRUNC", Made(change=_floats).write),
        Case("a spacing that is no number", "E_DICOM", one_file(_text(0x0028, 0x0030, "nan\\2"))),
        Case("every voxel the same", "E_CONST", _says(PixelData=bytes(20 * 24 * 2))),
        Case("values beyond float32", "E_NONFINITE", _says(RescaleSlope="1e38")),
    ]


_COLOR = {
    "SamplesPerPixel": 3,
    "PhotometricInterpretation": "RGB",
    "PlanarConfiguration": 0,
    "PixelData": bytes(20 * 24 * 6),
}


def _picture(folder: Path) -> None:
    folder.mkdir()
    save(color_picture(), folder / "a.dcm")


def _field(old: bytes, new: bytes) -> Bytes:
    def change(data: bytes) -> bytes:
        assert old in data
        return data.replace(old, new.ljust(len(old)), 1)

    return change


def _text(group: int, element: int, text: str) -> Bytes:
    """An element with a length of two bytes gets another text."""

    def change(data: bytes) -> bytes:
        at = data.index(struct.pack("<HH", group, element))
        length = struct.unpack_from("<H", data, at + 6)[0]
        value = text.encode() + b" " * (len(text) % 2)
        return data[: at + 6] + struct.pack("<H", len(value)) + value + data[at + 8 + length :]

    return change


def _length(group: int, element: int, length: int) -> Bytes:
    def change(data: bytes) -> bytes:
        at = data.index(struct.pack("<HH", group, element)) + 6
        return data[:at] + struct.pack("<H", length) + data[at + 2 :]

    return change


def _pixel_length(length: int) -> Bytes:
    def change(data: bytes) -> bytes:
        at = pixels_at(data) + 8
        return data[:at] + struct.pack("<I", length) + data[at + 4 :]

    return change


def _cut() -> list[Case]:
    whole = 20 * 24 * 2

    def short(data: bytes) -> bytes:
        return _pixel_length(whole // 2)(data)[: pixels_at(data) + 12 + whole // 2]

    cuts: list[tuple[str, str, Bytes]] = [
        ("without content", "E_DICOM", lambda _: b""),
        ("of zeros", "E_DICOM", lambda data: bytes(len(data))),
        ("cut within its preamble", "E_DICOM", lambda data: data[:100]),
        ("without DICOM's four letters", "E_DICOM", lambda data: data[:128] + b"DIOM" + data[132:]),
        ("with damaged meta information", "E_DICOM", lambda data: data[:132] + data[135:]),
        ("cut after its preamble", "E_DICOM", lambda data: data[:132]),
        ("cut within its meta information", "E_DICOM", lambda data: data[:200]),
        (
            "cut before its modality",
            "E_DICOM",
            lambda data: data[: data.index(b"\x08\x00\x60\x00")],
        ),
        ("cut before its size", "E_DICOM", lambda data: data[: data.index(b"\x28\x00\x10\x00")]),
        ("cut before its pixels", "E_TRUNC", lambda data: data[: pixels_at(data)]),
        ("cut within its pixels", "E_TRUNC", lambda data: data[:-100]),
        ("one byte short", "E_TRUNC", lambda data: data[:-1]),
        ("with half the pixels in its element", "E_TRUNC", short),
        ("with an odd byte more", "E_TRUNC", _pixel_length(whole + 2)),
    ]
    # The last slice would be missed by nobody, but for the file that is there.
    return [
        *(Case(f"a slice {name}", code, one_file(change)) for name, code, change in cuts),
        Case("all slices cut", "E_TRUNC", _all_cut),
    ]


def _all_cut(folder: Path) -> None:
    for path in Made().write(folder):
        path.write_bytes(path.read_bytes()[:-100])


def _bombs() -> list[Case]:
    def nested(folder: Path) -> None:
        path = Made(sop_class=EnhancedCTImageStorage).write(folder)[11]
        data = path.read_bytes()
        start = data.index(b"\x28\x00\x02\x00")
        item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
        sequence = struct.pack("<HH2sHI", 0x5200, 0x9229, b"SQ", 0, 0xFFFFFFFF)
        at = pixels_at(data)
        path.write_bytes(data[:at] + (sequence + item) * 5000 + data[at:])
        assert start < at

    huge = (1 << 31) - 2
    return [
        Case("deep nesting", "E_DICOM", nested),
        Case("a length of 4 GiB", "E_TRUNC", one_file(_pixel_length(0xFFFFFFFE))),
        Case(
            "an element that ends beyond the file", "E_DICOM", one_file(_length(0x20, 0xD, 65000))
        ),
        Case("65535 x 65535 pixels", "E_TRUNC", _says(Rows=65535, Columns=65535)),
        Case(
            "65535 x 65535 pixels, packed",
            "E_BOMB",
            Made(SMALL, Storing(RLELossless), header={"Rows": 65535, "Columns": 65535}).write,
        ),
        Case("two billion frames", "E_TRUNC", _says(NumberOfFrames=huge)),
        Case("minus one frames", "E_DICOM", _says(NumberOfFrames=-1)),
        Case(
            "a million frames of one pixel",
            "E_DICOM",
            _says(NumberOfFrames=10**6, Rows=1, Columns=1, PixelData=bytes(2 * 10**6)),
        ),
        Case("deflated", "E_SYNTAX", _deflated),
        Case("a deflate bomb", "E_SYNTAX", _deflate_bomb),
    ]


def _deflated(folder: Path) -> None:
    for path in Made().write(folder):
        image = dcmread(path)
        image.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        save(image, path)


def _deflate_bomb(folder: Path) -> None:
    folder.mkdir()
    image = Made(header={"PixelData": bytes(64 << 20)}).dataset(0)
    image.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    save(image, folder / "a.dcm")


def _with_pixels(syntax: str, content: bytes, **header: Any) -> Callable[[Path], object]:
    """Slices that say `syntax`, and hold `content` as their one fragment."""

    def change(_place: int, image: FileDataset) -> None:
        image.PixelData = encapsulate([content])
        image["PixelData"].VR = "OB"
        image["PixelData"].is_undefined_length = True
        image.file_meta.TransferSyntaxUID = UID(syntax)
        for name, value in header.items():
            setattr(image, name, value)

    return Made(SMALL, change=change).write


def _packed() -> list[Case]:
    def spoiled(data: bytes) -> bytes:
        at = pixels_at(data) + 24
        return data[:at] + bytes(byte ^ 0xA5 for byte in data[at : at + 400]) + data[at + 400 :]

    def renamed(old: str, new: str) -> Bytes:
        return _field(old.encode(), new.encode())

    rle = Made(SMALL, Storing(RLELossless))
    jls = Made(SMALL, Storing(JPEGLSLossless))
    noise = np.random.default_rng(0).integers(0, 256, 900, np.uint8).tobytes()
    plain_as_rle = renamed("1.2.840.10008.1.2.1\0", "1.2.840.10008.1.2.5\0")
    return [
        Case("plain pixels that say RLE", "E_SYNTAX", one_file(plain_as_rle)),
        Case(
            "packed pixels that say plain",
            "E_SYNTAX",
            one_file(renamed("1.2.840.10008.1.2.5\0", "1.2.840.10008.1.2.1\0"), made=rle),
        ),
        Case(
            "explicit that says implicit",
            "E_TRUNC",
            one_file(renamed("1.2.840.10008.1.2.1\0", "1.2.840.10008.1.2\0")),
        ),
        Case(
            "implicit that says explicit",
            "E_TRUNC",
            one_file(
                _says_explicit,
                made=Made(storing=Storing(ImplicitVRLittleEndian)),
            ),
        ),
        Case(
            "little endian that says big",
            "E_DICOM",
            one_file(renamed("1.2.840.10008.1.2.1\0", "1.2.840.10008.1.2.2\0")),
        ),
        Case("noise as JPEG 2000", "E_CODEC", _with_pixels(JPEG2000Lossless, noise)),
        Case("noise as JPEG-LS", "E_CODEC", _with_pixels(JPEGLSLossless, noise)),
        Case("noise as RLE", "E_CODEC", _with_pixels(RLELossless, noise)),
        Case("noise as JPEG", "E_CODEC", _with_pixels("1.2.840.10008.1.2.4.70", noise)),
        Case("a video", "E_CODEC", _with_pixels("1.2.840.10008.1.2.4.102", noise)),
        Case("a syntax nobody knows", "E_CODEC", _with_pixels("1.2.3.4.5", noise)),
        Case("8 bits in words, big endian", "E_SYNTAX", _words),
        Case("JPEG-LS of another size", "E_CODEC", _other_size),
        Case("RLE cut short", "E_CODEC", one_file(lambda data: data[:-600], made=rle)),
        Case("JPEG-LS spoiled", "E_CODEC", one_file(spoiled, made=jls)),
    ]


def _words(folder: Path) -> None:
    def change(_place: int, image: FileDataset) -> None:
        image["PixelData"].VR = "OW"

    storing = Storing(ExplicitVRBigEndian, bits=8, stored=8, slopes=(6.0,), intercepts=(0.0,))
    Made(storing=storing, change=change).write(folder)


def _floats(_place: int, image: FileDataset) -> None:
    del image.PixelData
    image.FloatPixelData = bytes(20 * 24 * 4)


def _says_explicit(data: bytes) -> bytes:
    """The transfer syntax in the meta information, and the length of that."""
    implicit, explicit = b"UI\x12\x001.2.840.10008.1.2\0", b"UI\x14\x001.2.840.10008.1.2.1\0"
    assert implicit in data
    length = struct.unpack_from("<I", data, 140)[0] + 2
    changed = data.replace(implicit, explicit, 1)
    return changed[:140] + struct.pack("<I", length) + changed[144:]


def _other_size(folder: Path) -> None:
    packed = Made(Layout(rows=16, columns=16), Storing(JPEGLSLossless)).dataset(0)

    def change(place: int, image: FileDataset) -> None:
        if place == 3:
            image.PixelData = packed.PixelData

    Made(SMALL, Storing(JPEGLSLossless), change=change).write(folder)


def _frames() -> list[Case]:
    made = Made(sop_class=EnhancedCTImageStorage)

    def case(name: str, code: str, change: Callable[[FileDataset], None]) -> Case:
        return Case(name, code, Enhanced(made, SHUFFLED, change=change).write)

    def lose_group(image: FileDataset) -> None:
        image.PerFrameFunctionalGroupsSequence = image.PerFrameFunctionalGroupsSequence[:-1]

    def lose_groups(image: FileDataset) -> None:
        del image.PerFrameFunctionalGroupsSequence

    def lose_position(image: FileDataset) -> None:
        del image.PerFrameFunctionalGroupsSequence[4].PlanePositionSequence

    def double(image: FileDataset) -> None:
        groups = image.PerFrameFunctionalGroupsSequence
        groups[4].PlanePositionSequence = groups[5].PlanePositionSequence

    def two_stacks(image: FileDataset) -> None:
        for number, group in enumerate(image.PerFrameFunctionalGroupsSequence):
            group.FrameContentSequence[0].StackID = str(number % 2)

    def fewer(image: FileDataset) -> None:
        image.NumberOfFrames = 11

    def half_length(image: FileDataset) -> None:
        image.PixelData = image.PixelData[: len(image.PixelData) // 2]

    return [
        case("a frame without its group", "E_DICOM", lose_group),
        case("frames without groups", "E_DICOM", lose_groups),
        case("a frame without its position", "E_NOPOSITION", lose_position),
        case("two frames at a position", "E_DUPLICATE", double),
        case("two stacks of frames", "E_PHASES", two_stacks),
        case("fewer frames than groups", "E_TRUNC", fewer),
        case("half of the frames' pixels", "E_TRUNC", half_length),
    ]
