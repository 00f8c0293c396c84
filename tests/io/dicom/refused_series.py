"""Series to refuse for what their slices say together, or for what lies in the folder."""

import os
import shutil
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import FileDataset

from tests.io.dicom.case import Case
from tests.io.dicom.others import document, report, segmentation, spectrum, structures
from tests.io.dicom.packing import directory_of, zipped
from tests.io.dicom.phantom import OBLIQUE, Layout, Made, save

EVEN = Layout()


def refused_series() -> list[Case]:
    """The cases, in the order of what is wrong."""
    return [*_gaps(), *_doubled(), *_mixed(), *_unmended(), *_objects(), *_paths(), *_archives()]


def _without(*lost: int, layout: Layout = EVEN) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        for place, path in enumerate(Made(layout).write(folder)):
            if place in lost:
                path.unlink()

    return build


def _set(name: str, of: Callable[[int], object], layout: Layout = EVEN) -> Callable[[Path], object]:
    def change(place: int, image: FileDataset) -> None:
        setattr(image, name, of(place))

    return Made(layout, change=change).write


def _gaps() -> list[Case]:
    wide = replace(EVEN, places_mm=(*(2.0 * n for n in range(6)), *(13.0, 16, 19, 22)))
    overlapping = Made(header={"SliceThickness": "6"})

    def lacks_thickness(folder: Path) -> None:
        Made(wide, lacks=("SliceThickness",)).write(folder)

    def overlapping_lost(folder: Path) -> None:
        overlapping.write(folder)[5].unlink()

    return [
        Case("a slice missing", "E_GAP", _without(5)),
        Case("three slices missing", "E_GAP", _without(4, 5, 6)),
        Case("slices missing here and there", "E_GAP", _without(1, 4, 9)),
        Case("the second slice missing", "E_GAP", _without(1)),
        Case("every other slice missing but for one", "E_GAP", _without(1, 3, 7, 9)),
        Case("one of overlapping slices missing", "E_GAP", overlapping_lost),
        Case("a slice missing, tilted", "E_GAP", _without(5, layout=replace(EVEN, tilt=0.3))),
        Case("gaps that vary, thickness unknown", "E_GAP", lacks_thickness),
    ]


def _doubled() -> list[Case]:
    twice = replace(EVEN, places_mm=(*EVEN.places_mm, 15.0))
    both = replace(EVEN, places_mm=EVEN.places_mm * 2)
    between = replace(EVEN, places_mm=tuple(1.5 * n for n in range(24)))

    def same_uid(folder: Path) -> None:
        paths = Made().write(folder)
        image = dcmread(paths[3])
        image.RescaleIntercept = "-1000"
        save(image, folder / "again.dcm")

    return [
        Case("a position twice", "E_DUPLICATE", Made(twice).write),
        Case("two phases at the same positions", "E_DUPLICATE", Made(both).write),
        Case(
            "two phases at the same positions, told apart",
            "E_PHASES",
            _set("TemporalPositionIdentifier", lambda n: n // 12, both),
        ),
        Case(
            "two phases interleaved",
            "E_PHASES",
            _set("TemporalPositionIdentifier", lambda n: n % 2, between),
        ),
        Case("two echoes interleaved", "E_PHASES", _set("EchoTime", lambda n: n % 2 + 1, between)),
        Case(
            "two acquisitions interleaved",
            "E_PHASES",
            _set("AcquisitionNumber", lambda n: n % 2 + 1, between),
        ),
        Case("a SOPInstanceUID twice, other content", "E_DUPLICATE", same_uid),
        Case("a single slice", "E_SINGLE", Made(Layout(places_mm=(0.0,))).write),
    ]


def _mixed() -> list[Case]:
    turned = [float(one) for one in OBLIQUE]

    def other_size(folder: Path) -> None:
        Made().write(folder)
        small = Made(replace(EVEN, rows=16, columns=16))
        save(small.dataset(11), folder / "IM0077.dcm")
        _put_uid(folder / "IM0077.dcm", "77")

    def last_turned(place: int) -> object:
        return turned if place == 11 else [1, 0, 0, 0, 1, 0]

    def slightly(place: int) -> object:
        return [1, 0, 0, 0, 1, 0] if place < 6 else [0.9999998, 0.0006, 0, -0.0006, 0.9999998, 0]

    def loses_slope(place: int, image: FileDataset) -> None:
        if place == 11:
            del image.RescaleSlope

    def says_report(place: int, image: FileDataset) -> None:
        image.Modality = "SR" if place == 11 else "CT"

    def two_series(folder: Path) -> None:
        Made().write(folder)
        Made(series=2).write(folder)

    return [
        Case("a slice turned", "E_MIXED", _set("ImageOrientationPatient", last_turned)),
        Case("slices turned a little", "E_MIXED", _set("ImageOrientationPatient", slightly)),
        Case("a slice of another size", "E_MIXED", other_size),
        Case(
            "a slice of other pixels",
            "E_MIXED",
            _set("PixelSpacing", lambda n: [2.5, 2.0] if n != 4 else [2.5, 2.1]),
        ),
        Case(
            "two frames of reference",
            "E_MIXED",
            _set("FrameOfReferenceUID", lambda n: f"1.2.3.{n // 6}"),
        ),
        Case("the last slice says that it is a report", "E_MIXED", Made(change=says_report).write),
        Case("slopes in some slices only", "E_MIXED", Made(change=loses_slope).write),
        Case("two series in a folder", "E_SERIES", two_series),
    ]


def _put_uid(path: Path, end: str) -> None:
    image = dcmread(path)
    image.SOPInstanceUID = f"{image.SOPInstanceUID}.{end}"
    save(image, path)


def _unmended() -> list[Case]:
    """What is mended by default, where nothing is to be repaired."""
    uneven = replace(EVEN, places_mm=(*(2.0 * n for n in range(6)), *(12.5, 15.5, 18.5)))

    def thickness(place: int, image: FileDataset) -> None:
        image.SliceThickness = "2" if place < 6 else "3"

    def scout(place: int, image: FileDataset) -> None:
        if place == 0:
            image.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    def copied(folder: Path) -> None:
        shutil.copy(Made().write(folder)[0], folder / "copy.dcm")

    cases = [
        ("a tilted gantry", "E_TILT", Made(replace(EVEN, tilt=0.3346)).write),
        ("gaps of two sizes", "E_GAP", Made(uneven, change=thickness).write),
        ("a scout among the slices", "E_SCOUT", Made(change=scout).write),
        ("a file twice", "E_COPY", copied),
    ]
    return [
        Case(f"{name}, not to be repaired", code, build, repair=False)
        for name, code, build in cases
    ]


def _objects() -> list[Case]:
    def alone(image: FileDataset) -> Callable[[Path], None]:
        def build(folder: Path) -> None:
            folder.mkdir()
            save(image, folder / "a.dcm")

        return build

    def scouts(folder: Path) -> None:
        Made(header={"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}).write(folder)

    return [
        Case("a report alone", "E_NODATA", alone(report())),
        Case("contours alone", "E_NODATA", alone(structures())),
        Case("a PDF alone", "E_NODATA", alone(document())),
        Case("a segmentation alone", "E_NODATA", alone(segmentation())),
        Case("raw data alone", "E_NODATA", alone(spectrum())),
        Case("scouts alone", "E_SCOUT", scouts),
    ]


def _paths() -> list[Case]:
    def pipe_alone(folder: Path) -> None:
        folder.mkdir()
        os.mkfifo(folder / "a.dcm")

    def pipe(folder: Path) -> Path:
        pipe_alone(folder)
        return folder / "a.dcm"

    def dangling(folder: Path) -> Path:
        folder.mkdir()
        (folder / "a.dcm").symlink_to(folder / "gone.dcm")
        return folder / "a.dcm"

    def dangling_slice(folder: Path) -> None:
        path = Made().write(folder)[5]
        path.unlink()
        path.symlink_to(folder / "gone.dcm")

    def text(folder: Path) -> Path:
        folder.mkdir()
        (folder / "a.dcm").write_text("no DICOM " * 50)
        return folder / "a.dcm"

    def empty(folder: Path) -> None:
        folder.mkdir()

    return [
        Case("a folder of a pipe", "E_NODATA", pipe_alone),
        Case("a pipe", "E_NOTFILE", pipe),
        Case("a dangling link", "E_NOTFILE", dangling),
        Case("a slice that is a dangling link", "E_GAP", dangling_slice),
        Case("a text named .dcm", "E_MAGIC", text),
        Case("an empty folder", "E_NODATA", empty),
        Case("no such folder", "E_NOTFILE", lambda _folder: None),
    ]


def _archives() -> list[Case]:
    def directory(*name: str, lost: int = 0) -> Callable[[Path], Path]:
        def build(folder: Path) -> Path:
            Made().write(folder.with_name("OTHER"))[0].rename(folder.parent / "OTHER" / "I0")
            made = Made().write(folder / "S1")
            paths = [path.rename(path.with_name(f"I{n}")) for n, path in enumerate(made)]
            names: list[Sequence[str]] = [path.relative_to(folder).parts for path in paths]
            for path in paths[:lost]:
                path.unlink()
            return directory_of([*names, *([name] if name else [])], folder / "DICOMDIR")

        return build

    def noise(folder: Path) -> Path:
        folder.mkdir()
        (folder / "DICOMDIR").write_bytes(bytes(128) + b"DICM" + b"\x02\x00\x10\x00UI" * 60)
        return folder / "DICOMDIR"

    return [
        Case("a DICOMDIR pointing above", "E_DICOMDIR", directory("..", "OTHER", "I0")),
        Case("a DICOMDIR pointing to the root", "E_DICOMDIR", directory("", "etc", "passwd")),
        Case("a DICOMDIR with a zero byte", "E_DICOMDIR", directory("S1", "IM\0X")),
        Case("a DICOMDIR whose images are gone", "E_DICOMDIR", directory(lost=3)),
        Case("a DICOMDIR of noise", "E_DICOMDIR", noise),
        Case("a zip of a bomb", "E_BOMB", _bomb),
        Case("an encrypted zip", "E_ZIP", _encrypted),
        Case("a zip with a spoiled member", "E_ZIP", _spoiled),
        Case("a bzip2 zip with a spoiled member", "E_ZIP", _spoiled_bzip2),
        Case("an lzma zip with a spoiled member", "E_ZIP", _spoiled_lzma),
        Case("a zip cut short", "E_ZIP", _cut),
        Case("a zip without DICOM", "E_NODATA", _no_dicom),
    ]


def _members(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Made().write(folder)}


def _beside(folder: Path) -> Path:
    return folder.with_name("out.zip")


def _bomb(folder: Path) -> Path:
    head = Made().write(folder)[0].read_bytes()
    return zipped({"a.dcm": head + bytes(30 << 20)}, _beside(folder))


def _encrypted(folder: Path) -> Path:
    """The flag that says so is set in each header."""
    path = zipped(_members(folder), _beside(folder))
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = data.find(signature)
        while at >= 0:
            data[at + offset] |= 1
            at = data.find(signature, at + 4)
    path.write_bytes(data)
    return path


def _spoiled(folder: Path, method: int = zipfile.ZIP_DEFLATED) -> Path:
    path = zipped(_members(folder), _beside(folder), method=method)
    data = bytearray(path.read_bytes())
    for at in range(300, 700):
        data[at] ^= 0x5A
    path.write_bytes(data)
    return path


def _spoiled_bzip2(folder: Path) -> Path:
    return _spoiled(folder, zipfile.ZIP_BZIP2)


def _spoiled_lzma(folder: Path) -> Path:
    return _spoiled(folder, zipfile.ZIP_LZMA)


def _cut(folder: Path) -> Path:
    path = zipped(_members(folder), _beside(folder))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path


def _no_dicom(folder: Path) -> Path:
    return zipped({"a.txt": b"hello"}, _beside(folder))
