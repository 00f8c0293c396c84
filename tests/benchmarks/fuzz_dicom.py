"""Random mutations of one file of a sound DICOM series, read and compared with what was made.

    python -m tests.benchmarks.fuzz_dicom [--count 20000] [--seed 0] [--keep FOLDER]

Each series is either refused with an InputFault, or read as it was made, or as the mutated element
itself says, which pydicom must then read the same. Any other exception, more than a second, and any
difference that no element accounts for is a finding: it is printed, the file is kept where --keep
says, and the process ends with 1. Memory is limited, so that a header cannot ask for all of it.
"""

import random
import struct
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedMRImageStorage, ImplicitVRLittleEndian, RLELossless

from medseg.fault import InputFault
from medseg.io.dicom.read import Reading, read_series
from medseg.io.dicom.series import find_series
from medseg.io.dicom.sources import dicom_files
from tests.benchmarks.fuzzing import Tally, run
from tests.io.dicom.enhanced import Enhanced
from tests.io.dicom.phantom import LPS_TO_RAS, OBLIQUE, Layout, Made, Storing

SLOW_S = 1.0
MEMORY = 3 << 30
SMALL = Layout(OBLIQUE, rows=8, columns=10, places_mm=tuple(3.0 * place for place in range(5)))
# Elements that decide where voxels lie and what they are worth. A changed one speaks for itself; a
# lost one does not.
DECIDING = {
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"),
    *("RescaleSlope", "RescaleIntercept", "PixelData", "BitsStored", "HighBit", "BitsAllocated"),
    *("PixelRepresentation", "Rows", "Columns", "NumberOfFrames", "ImageType", "Modality"),
    *("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence", "SOPInstanceUID"),
    *("SOPClassUID", "PhotometricInterpretation", "SeriesInstanceUID", "StudyInstanceUID"),
}
TEXTS = (
    *("", " ", "nan", "inf", "-inf", "1e999", "0", "-1", "1e-300", "1e300", "1,5", "\\", "\\\\\\"),
    *("1\\2\\3", "0\\0\\0", "LOCALIZER", "SR", "PT", "2147483648", "-2147483649", "1" * 70, "\0"),
    *("1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99", "..", "\x1b[2J", "1 2"),
)
NUMBERS = (0, 1, 2, 3, 4, 8, 12, 15, 16, 17, 31, 32, 64, 255, 256, 4096, 32767, 32768, 65534, 65535)
LENGTHS = (0, 1, 2, 3, 7, 8, 16, 255, 65534, 65535, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1)


@dataclass(frozen=True)
class Base:
    """A sound series in memory, what it is of, and the file that is to be mutated."""

    files: dict[str, bytes]
    array: np.ndarray
    affine: np.ndarray
    victim: str


def main() -> None:
    run(fuzz, says=__doc__ or "", count=20_000, memory=MEMORY)


def fuzz(count: int, seed: int, *, packed: bool = False, keep: Path | None = None) -> Tally:
    """Mutate and read `count` series; number n is the same for the same seed."""
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder:
        bases = _bases(Path(folder) / "made", packed=packed)
        for number in range(count):
            chance = random.Random(seed * 1_000_003 + number)
            base = chance.choice(bases)
            data = mutated(base.files[base.victim], chance)
            known = len(tally.findings)
            _read(base, data, Path(folder) / "read", tally, f"seed {seed}, number {number}")
            if keep and len(tally.findings) > known:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{seed}_{number}.dcm").write_bytes(data)
    return tally


def _bases(folder: Path, *, packed: bool) -> list[Base]:
    """The first, a middle and the last file of a plain series, and other kinds once."""
    scaled = Storing(slopes=(0.5,), intercepts=(-100.0,))
    plain = Made(SMALL, scaled)
    spare = Storing(ImplicitVRLittleEndian, stored=12, signed=True, intercepts=(200.0,), spare=6)
    enhanced = Made(SMALL, scaled, sop_class=EnhancedMRImageStorage)
    makers: list[tuple[Made, Callable[[Path], list[Path]], tuple[int, ...]]] = [
        (plain, plain.write, (0, 2, 4)),
        (Made(SMALL, spare), Made(SMALL, spare).write, (4,)),
        (enhanced, Enhanced(enhanced, (3, 0, 4, 1, 2)).write, (0,)),
    ]
    if packed:
        rle = Made(SMALL, Storing(RLELossless))
        makers.append((rle, rle.write, (4,)))
    bases = []
    for number, (made, write, victims) in enumerate(makers):
        paths = write(folder / str(number))
        files = {path.name: path.read_bytes() for path in paths}
        truth = made.truth
        array = truth.array[0].astype(np.float32)
        bases += [Base(files, array, truth.affine, paths[victim].name) for victim in victims]
    return bases


def mutated(data: bytes, chance: random.Random) -> bytes:
    """The file with one to three faults behind its preamble."""
    made = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        if len(made) > 200:
            chance.choice(MUTATIONS)(made, chance)
    return bytes(made)


def _somewhere(data: bytearray, chance: random.Random) -> int:
    return chance.randrange(128, max(129, min(len(data), data.rfind(b"\xe0\x7f\x10\x00") + 12)))


def _flip_bit(data: bytearray, chance: random.Random) -> None:
    data[_somewhere(data, chance)] ^= 1 << chance.randrange(8)


def _set_byte(data: bytearray, chance: random.Random) -> None:
    data[_somewhere(data, chance)] = chance.choice((0, 1, 32, 92, 127, 255, chance.randrange(256)))


def _noise(data: bytearray, chance: random.Random) -> None:
    at = _somewhere(data, chance)
    length = min(chance.randrange(1, 24), len(data) - at)
    data[at : at + length] = chance.randbytes(length)


def _cut(data: bytearray, chance: random.Random) -> None:
    del data[chance.randrange(100, len(data)) :]


def _lose(data: bytearray, chance: random.Random) -> None:
    at = _somewhere(data, chance)
    del data[at : at + chance.randrange(1, 20)]


def _insert(data: bytearray, chance: random.Random) -> None:
    at = _somewhere(data, chance)
    data[at:at] = chance.randbytes(chance.randrange(1, 20))


def _element(data: bytearray, chance: random.Random) -> tuple[int, int, int, int] | None:
    """Of a random explicit element: its start, where its length stands and how wide, its value."""
    found, at = [], 132
    while at + 12 <= len(data):
        is_long = bytes(data[at + 4 : at + 6]) in (b"OB", b"OW", b"SQ", b"UN", b"UT", b"OF")
        width = 4 if is_long else 2
        place = at + (8 if is_long else 6)
        length = int.from_bytes(data[place : place + width], "little")
        found.append((at, place, width, length))
        at = place + width + length
        if length > len(data):
            break
    return chance.choice(found) if found else None


def _set_length(data: bytearray, chance: random.Random) -> None:
    if one := _element(data, chance):
        _, place, width, length = one
        new = chance.choice((*LENGTHS, length + 1, length + 2, max(0, length - 2), length * 2))
        data[place : place + width] = (new % (1 << 8 * width)).to_bytes(width, "little")


def _set_text(data: bytearray, chance: random.Random) -> None:
    """A value becomes another text, with the length that it has."""
    if one := _element(data, chance):
        _, place, width, length = one
        text = chance.choice(TEXTS).encode()
        text += b" " * (len(text) % 2)
        data[place + width : place + width + length] = text
        data[place : place + width] = len(text).to_bytes(width, "little")


def _set_number(data: bytearray, chance: random.Random) -> None:
    if one := _element(data, chance):
        _, place, width, length = one
        if length in (2, 4):
            number = chance.choice(NUMBERS).to_bytes(2, "little")
            data[place + width : place + width + 2] = number


def _set_tag(data: bytearray, chance: random.Random) -> None:
    if one := _element(data, chance):
        group = chance.choice((0x0002, 0x0008, 0x0018, 0x0020, 0x0028, 0x5200, 0x7FE0, 0xFFFE))
        struct.pack_into("<HH", data, one[0], group, chance.choice((0x10, 0x11, 0x1053, 0xE000)))


def _set_kind(data: bytearray, chance: random.Random) -> None:
    if one := _element(data, chance):
        kinds = (b"SQ", b"UN", b"OB", b"DS", b"IS", b"US", b"FD", b"AT", b"UI", b"zz", b"\0\0")
        data[one[0] + 4 : one[0] + 6] = chance.choice(kinds)


def _remove(data: bytearray, chance: random.Random) -> None:
    if one := _element(data, chance):
        start, place, width, length = one
        del data[start : place + width + length]


def _repeat(data: bytearray, chance: random.Random) -> None:
    if one := _element(data, chance):
        start, place, width, length = one
        # Of two PixelData pydicom takes the other; that is no fault of a header.
        if length < 4096 and data[start : start + 2] != b"\xe0\x7f":
            data[start:start] = data[start : place + width + length]


Mutation = Callable[[bytearray, random.Random], None]
MUTATIONS: tuple[Mutation, ...] = (
    *(_flip_bit, _flip_bit, _set_byte, _set_byte, _noise, _cut, _lose, _insert, _set_length),
    *(_set_length, _set_text, _set_text, _set_text, _set_number, _set_tag, _set_kind, _remove),
    *(_remove, _repeat),
)


def _read(base: Base, data: bytes, folder: Path, tally: Tally, name: str) -> None:
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for file, content in base.files.items():
        (folder / file).write_bytes(data if file == base.victim else content)
    began = time.perf_counter()
    reading: Reading | None = None
    try:
        with dicom_files([folder]) as files:
            series = find_series(files)
            if len(series) == 1:
                reading = read_series(series[0], "CT")
        outcome = "read" if reading else "several series"
    except InputFault as fault:
        outcome = fault.code
        if str(folder) not in str(fault):
            tally.findings.append(f"{name}: the message names no file: {fault}")
    except Exception as error:  # noqa: BLE001
        outcome = "exception"
        tally.findings.append(f"{name}: {error!r}")
    seconds = time.perf_counter() - began
    tally.slowest_s = max(tally.slowest_s, seconds)
    if seconds > SLOW_S:
        tally.findings.append(f"{name}: {seconds:.1f} s")
    if reading is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outcome, finding = _judged(base, data, folder, reading)
        if finding:
            tally.findings.append(f"{name}: {finding}")
    tally.outcomes[outcome] += 1


def _judged(base: Base, data: bytes, folder: Path, reading: Reading) -> tuple[str, str]:
    """The kind of outcome, and the finding where there is one."""
    volume = reading.volume
    same = volume.array[0].shape == base.array.shape and bool(
        np.array_equal(volume.array[0], base.array)
        and np.abs(volume.grid.affine - base.affine).max() < 1e-5
    )
    if same:
        return "read as made", ""
    changed = _changed(base.files[base.victim], data)
    if not changed:
        return "read, other", "it differs from what was made, and no element accounts for it"
    if reading.notes:
        return "read with a note", ""
    apart = _apart_from_pydicom(folder, reading)
    return "read as the element says", apart


def _changed(before: bytes, after: bytes) -> set[str]:
    """The deciding elements that are in both files, with other values."""
    old, new = (_parsed(data) for data in (before, after))
    return {
        name
        for name in DECIDING
        if name in old and name in new and _raw(old, name) != _raw(new, name)
    }


def _raw(header: Dataset, name: str) -> str:
    try:
        return str(header[name].value)
    # Whatever pydicom makes of it, it is another value than the sound one.
    except Exception as error:  # noqa: BLE001
        return repr(error)


def _parsed(data: bytes) -> Dataset:
    return pydicom.dcmread(pydicom.filebase.DicomBytesIO(data), force=True)


def _apart_from_pydicom(folder: Path, reading: Reading) -> str:
    """In what pydicom reads a slice otherwise than it is at that place in the volume."""
    to_voxel = np.linalg.inv(LPS_TO_RAS @ reading.volume.grid.affine)
    seen = 0
    for path in folder.iterdir():
        try:
            image = pydicom.dcmread(path, force=True)
            if "NumberOfFrames" in image:
                return ""
            values = image.pixel_array * float(image.get("RescaleSlope") or 1)
            values = values + float(image.get("RescaleIntercept") or 0)
            first = to_voxel @ [*map(float, image.ImagePositionPatient), 1]
        except Exception:  # noqa: BLE001
            return ""
        k = round(float(first[2]))
        seen += 1
        if np.abs(first[:3] - [0, 0, k]).max() > 0.1:
            return f"pydicom sees {path.name} at voxel {first[:3]}"
        if not np.allclose(reading.volume.array[0, :, :, k], values.T, rtol=1e-6):
            return f"pydicom reads other values in {path.name}"
    return "" if seen == reading.volume.array.shape[3] else "another count of slices"


if __name__ == "__main__":
    main()
