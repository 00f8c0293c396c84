"""Series to read right, as plain as they come or as odd."""

import importlib.util
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.tag import Tag
from pydicom.uid import (
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
)

from tests.io.catalogue.phantom import Truth
from tests.io.dicom.case import READ, Case, bound
from tests.io.dicom.enhanced import SHUFFLED, Enhanced
from tests.io.dicom.others import color_picture, dose_picture, report
from tests.io.dicom.packing import (
    directory_of,
    pack_as_lossless_jpeg,
    without_preamble,
    zipped,
)
from tests.io.dicom.pet import SCANS
from tests.io.dicom.phantom import (
    CORONAL,
    OBLIQUE,
    SAGITTAL,
    Layout,
    Made,
    Storing,
    save,
    turned,
)

SMALL = Layout(rows=40, columns=48, spacing_mm=(1.25, 1.0))
LOW = (200.0,)
Write = Callable[[Path], object]


def readable() -> list[Case]:
    """The cases, in the order of what is odd about them."""
    return [*_places(), *_numbers(), *_packed(), *_headers(), *_frames(), *_folders(), *_mended()]


def plain(name: str, made: Made | None = None, build: Write | None = None, **more: Any) -> Case:
    """A series of one file a slice, that comes out as it was made."""
    made = made or Made()
    return Case(name, READ, build or made.write, made.truth, **more)


def _places() -> list[Case]:
    many = tuple(3.0 * place + 1e-3 * (place % 3) for place in range(12))
    thin = replace(SMALL, places_mm=tuple(0.5 * place for place in range(68)))

    def hundredths(_place: int, image: FileDataset) -> None:
        image.ImagePositionPatient = [f"{float(one):.2f}" for one in image.ImagePositionPatient]

    return [
        plain("axial"),
        plain("sagittal", Made(Layout(SAGITTAL))),
        plain("coronal", Made(Layout(CORONAL))),
        plain("oblique about one axis", Made(Layout(turned(25, 0, 0)))),
        plain("oblique about three axes", Made(Layout(OBLIQUE))),
        plain("feet first: rows to the right", Made(Layout((-1.0, 0, 0, 0, 1, 0)))),
        plain("turned about the normal", Made(Layout(turned(0, 0, 90)))),
        plain("thin pixels, far slices", Made(replace(SMALL, spacing_mm=(1.0, 0.8)))),
        plain("positions rounded to a micrometer", Made(Layout(places_mm=many))),
        plain("overlapping slices", Made(header={"SliceThickness": "5"})),
        plain("gaps between the slices", Made(header={"SliceThickness": "2"})),
        plain("two slices", Made(Layout(places_mm=(0.0, 3.0), aside_mm=(0.0, 0.0, 0.0)))),
        # A hundredth of a millimeter is much of half a one, and still no gantry's tilt.
        plain(
            "half a millimeter apart, positions in hundredths",
            Made(replace(thin, cosines=OBLIQUE), change=hundredths),
            affine_within=0.01,
        ),
    ]


def _numbers() -> list[Case]:
    return [
        plain("8 bits", Made(storing=Storing(bits=8, stored=8, slopes=(6.0,), intercepts=(0.0,)))),
        plain("12 of 16 bits", Made(storing=Storing(stored=12))),
        plain("signed", Made(storing=Storing(signed=True, intercepts=(0.0,)))),
        plain("signed, 12 of 16 bits", Made(storing=_signed_12())),
        plain("32 bits", Made(storing=Storing(bits=32, stored=32))),
        plain("bits in use spoiled above", Made(storing=Storing(stored=12, spare=0b1011))),
        plain("signed, spoiled above", Made(storing=_signed_12(spare=0b0101))),
        plain("slope a slice", Made(storing=Storing(slopes=(0.25, 0.5, 0.125), intercepts=(0.0,)))),
        plain(
            "slope and intercept a slice",
            Made(storing=Storing(slopes=(0.5, 1.0), intercepts=(-100.0, -1024.0, 0.0))),
        ),
        plain("no rescale", Made(storing=Storing(intercepts=(0.0,)), lacks=_RESCALE)),
        plain(
            "MONOCHROME1",
            Made(header={"PhotometricInterpretation": "MONOCHROME1"}),
            note="MONOCHROME1",
        ),
    ]


_RESCALE = ("RescaleSlope", "RescaleIntercept")


def _signed_12(syntax: str = "1.2.840.10008.1.2.1", spare: int = 0) -> Storing:
    return Storing(syntax, stored=12, signed=True, intercepts=LOW, spare=spare)


def _packed() -> list[Case]:
    cases = [
        plain("implicit VR", Made(storing=Storing(ImplicitVRLittleEndian))),
        plain("big endian", Made(storing=Storing(ExplicitVRBigEndian))),
        plain(
            "big endian, 8 bits",
            Made(
                storing=Storing(
                    ExplicitVRBigEndian, bits=8, stored=8, slopes=(6.0,), intercepts=(0.0,)
                )
            ),
        ),
    ]
    # Its decoder is an extra of medseg, for its license.
    if importlib.util.find_spec("libjpeg"):
        cases += [
            plain("JPEG lossless, 12 bits", Made(storing=Storing(stored=12), change=_jpeg)),
            plain("JPEG lossless, 16 bits", Made(change=_jpeg)),
        ]
    for name, syntax in (
        ("RLE", RLELossless),
        ("JPEG-LS", JPEGLSLossless),
        ("JPEG 2000", JPEG2000Lossless),
    ):
        cases += [
            plain(name, Made(SMALL, Storing(syntax))),
            plain(f"{name}, 12 bits", Made(SMALL, Storing(syntax, stored=12))),
            plain(f"{name}, signed 12 bits", Made(SMALL, _signed_12(syntax))),
        ]
    return cases


_jpeg = pack_as_lossless_jpeg


def _headers() -> list[Case]:
    def long_strings(_place: int, image: FileDataset) -> None:
        for name in ("ImageOrientationPatient", "ImagePositionPatient"):
            text = "\\".join(f"{float(one):.17f}" for one in image[name].value)
            _overwrite(image, name, text)

    def strange_names(_place: int, image: FileDataset) -> None:
        image.SpecificCharacterSet = "ISO_IR 192"
        image.PatientName = "Müller^Jürgen=山田^太郎"
        image.SeriesDescription = "Schädel Übersicht ä"

    def unknown_set(_place: int, image: FileDataset) -> None:
        image.SpecificCharacterSet = "ISO_IR 9999"
        image.SeriesDescription = "head"

    def private(_place: int, image: FileDataset) -> None:
        block = image.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
        block.add_new(0x10, "OB", bytes(range(256)) * 40)
        nested = Dataset()
        nested.PatientComments = "x" * 100
        block.add_new(0x11, "SQ", [nested])

    def backwards(place: int, image: FileDataset) -> None:
        image.InstanceNumber = 12 - place

    def one_acquisition_each(place: int, image: FileDataset) -> None:
        image.AcquisitionNumber = place + 1

    def no_uids(_place: int, image: FileDataset) -> None:
        image.SOPInstanceUID = ""

    return [
        plain("numbers of more than 16 characters", Made(Layout(OBLIQUE), change=long_strings)),
        plain("names in two scripts", Made(change=strange_names)),
        plain("an unknown character set", Made(change=unknown_set)),
        plain("private elements", Made(change=private)),
        plain("InstanceNumber reversed", Made(change=backwards)),
        plain("InstanceNumber absent", Made(lacks=("InstanceNumber",))),
        plain("an acquisition a slice", Made(change=one_acquisition_each)),
        plain("SOPInstanceUID empty", Made(change=no_uids)),
        plain("SliceThickness absent", Made(lacks=("SliceThickness",))),
        plain("SliceThickness empty", Made(header={"SliceThickness": None})),
        plain("MR", Made(sop_class=MRImageStorage, header={"Modality": "MR", "EchoTime": "12"})),
        plain("no preamble", Made(), _each(without_preamble)),
        plain("no preamble, anonymized", Made(lacks=()), _each(_without_first_elements)),
        *(
            Case(name, READ, made.write, _times(made, factor), factor=factor)
            for name, made, factor in SCANS
        ),
    ]


def _times(made: Made, factor: float) -> Truth:
    return replace(made.truth, array=made.truth.array * factor)


def _overwrite(image: Dataset, name: str, text: str) -> None:
    """A decimal string as it stands, which pydicom would refuse to write."""
    data = (text + " " * (len(text) % 2)).encode()
    tag = Tag(name)
    image._dict[tag] = RawDataElement(
        tag, "DS", len(data), data, 0, is_implicit_VR=False, is_little_endian=True
    )


def _each(change: Callable[[Path], None]) -> Write:
    def build(folder: Path) -> None:
        for path in Made().write(folder):
            change(path)

    return build


def _without_first_elements(path: Path) -> None:
    """Anonymizers take the first elements away: what is left begins with SOPClassUID or later."""
    without_preamble(path)
    data = path.read_bytes()
    start = data.index(struct.pack("<HH", 0x0008, 0x0018))
    path.write_bytes(data[start:])


def _frames() -> list[Case]:
    ct = Made(sop_class=EnhancedCTImageStorage)
    mr = Made(
        sop_class=EnhancedMRImageStorage,
        storing=Storing(slopes=(0.5, 0.25), intercepts=(0.0, -10.0)),
    )
    oblique = replace(ct, layout=Layout(OBLIQUE))
    packed = Made(SMALL, Storing(JPEGLSLossless), sop_class=EnhancedCTImageStorage)
    rle = Made(storing=Storing(RLELossless), sop_class=EnhancedMRImageStorage)
    made: list[tuple[str, Enhanced]] = [
        ("enhanced CT", Enhanced(ct, range(12))),
        ("enhanced CT, frames shuffled", Enhanced(ct, SHUFFLED)),
        ("enhanced CT, oblique, all told by frame", Enhanced(oblique, SHUFFLED, shares=False)),
        ("enhanced MR, slope a frame, shuffled", Enhanced(mr, SHUFFLED)),
        ("enhanced MR, all told by frame", Enhanced(mr, SHUFFLED, shares=False)),
        ("enhanced CT, JPEG-LS, shuffled", Enhanced(packed, SHUFFLED)),
        ("enhanced MR, RLE, shuffled", Enhanced(rle, SHUFFLED)),
    ]
    return [Case(name, READ, enhanced.write, enhanced.made.truth) for name, enhanced in made]


def _folders() -> list[Case]:
    return [
        plain("junk beside the slices", build=_with_junk),
        plain("slices in folders of their own", build=_in_folders),
        plain("names in three scripts", build=_odd_names),
        plain("a report in the folder", build=_with_report),
        plain("a picture in color in the folder", build=_with_picture),
        plain("a series of scouts in the folder", build=_with_scouts),
        plain("a DICOMDIR in the folder", build=_with_directory),
        plain("a DICOMDIR", build=_by_directory),
        plain("a zip", build=_by_zip),
        plain("a zip whose members have paths", build=_by_zip_with_paths),
    ]


def _with_junk(folder: Path) -> None:
    Made().write(folder)
    (folder / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0" + bytes(600))
    (folder / "._IM0001.dcm").write_bytes(b"\x00\x05\x16\x07" + bytes(4000))
    (folder / "empty").write_bytes(b"")
    (folder / "notes.txt").write_text("the slices of a head " * 20)
    (folder / "autorun.inf").write_text("[autorun]\n")


def _in_folders(folder: Path) -> None:
    for number, path in enumerate(Made().write(folder)):
        (folder / f"{number % 3}" / "a b").mkdir(parents=True, exist_ok=True)
        path.rename(folder / f"{number % 3}" / "a b" / path.name)


def _odd_names(folder: Path) -> None:
    for number, path in enumerate(Made().write(folder)):
        path.rename(
            folder / ["Schädel {} ü.dcm", "頭{}", "no ending {}"][number % 3].format(number)
        )


def _with_report(folder: Path) -> None:
    Made().write(folder)
    save(report(), folder / "SR.dcm")
    save(dose_picture(placed=False), folder / "dose.dcm")


def _with_scouts(folder: Path) -> None:
    Made().write(folder)
    Made(series=2, header={"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}).write(folder)


def _with_picture(folder: Path) -> None:
    Made().write(folder)
    save(color_picture(), folder / "screen.dcm")


def _with_directory(folder: Path) -> None:
    Made().write(folder)
    directory_of([["NOT", "HERE"]], folder / "DICOMDIR")


def _by_directory(folder: Path) -> Path:
    paths = Made().write(folder / "DICOM" / "S1")
    (folder / "DICOM" / "S2").mkdir()
    shutil.copy(paths[0], folder / "DICOM" / "S2" / "NOTLISTED")
    renamed = [path.rename(path.with_name(f"I{n:03d}")) for n, path in enumerate(paths)]
    names = [path.relative_to(folder).parts for path in renamed]
    return directory_of(names, folder / "DICOMDIR")


def _by_zip(folder: Path) -> Path:
    return zipped({path.name: path.read_bytes() for path in Made().write(folder)}, _beside(folder))


def _by_zip_with_paths(folder: Path) -> Path:
    files = {
        f"patient/{number}/IM.dcm": path.read_bytes()
        for number, path in enumerate(Made().write(folder))
    }
    beside = {"patient/readme.txt": b"hello" * 10, "__MACOSX/._IM.dcm": b"\0\5\x16\7" + bytes(90)}
    return zipped({**files, **beside}, _beside(folder))


def _beside(folder: Path) -> Path:
    return folder.with_name("out.zip")


def _mended() -> list[Case]:
    fine = Layout(
        rows=40,
        columns=48,
        spacing_mm=(1.25, 1.0),
        places_mm=tuple(1.5 * place for place in range(25)),
    )
    tilted = replace(fine, tilt=0.3346)  # 18.5 degrees
    uneven = (*range(16), *(14.5 + 2.0 * n for n in range(1, 12)))
    gaps = replace(fine, places_mm=uneven)

    def thickness(place: int, image: FileDataset) -> None:
        image.SliceThickness = "1" if place < 16 else "2"

    def scouts(place: int, image: FileDataset) -> None:
        if place == 0:
            image.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
            image.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]

    def copied(folder: Path) -> None:
        for path in Made().write(folder)[:3]:
            shutil.copy(path, folder / f"copy of {path.name}")

    mended = {"within": bound(1.25, 1.5), "note": "resampled"}
    return [
        Case("tilted gantry", READ, Made(tilted).write, **mended),
        Case("tilted the other way", READ, Made(replace(fine, tilt=-0.2)).write, **mended),
        Case("tilted, oblique", READ, Made(replace(tilted, cosines=OBLIQUE)).write, **mended),
        Case("tilted, JPEG-LS", READ, Made(tilted, Storing(JPEGLSLossless)).write, **mended),
        Case(
            "gaps of two sizes, as thick as the slices",
            READ,
            Made(gaps, change=thickness).write,
            within=bound(2.0),
            note="1 to 2 mm apart",
        ),
        Case(
            "tilted, gaps of two sizes",
            READ,
            Made(replace(gaps, tilt=0.25), change=thickness).write,
            within=bound(1.25, 2.0),
            note="drift",
        ),
        Case(
            "a scout among the slices", READ, Made(change=scouts).write, _but_first(), note="scout"
        ),
        Case("three files twice", READ, copied, Made().truth, note="copies"),
    ]


def _but_first() -> Truth:
    truth = Made().truth
    affine = truth.affine.copy()
    affine[:3, 3] += affine[:3, 2]
    return replace(truth, array=truth.array[..., 1:], affine=affine)
