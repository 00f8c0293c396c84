"""Random mutations of sound NIfTI files, read by medseg and compared with nibabel.

    python -m tests.benchmarks.fuzz_nifti [--count 100000] [--seed 0] [--keep FOLDER]

Each file is either refused with an InputFault or read as nibabel reads it: the same voxels at the
same place, but for the units of length, which nibabel leaves to its caller. Any other exception,
more than a second, and any difference is a finding: it is printed, the file is kept where --keep
says, and the process ends with 1. Memory is limited, so that a header cannot ask for all of it.
"""

import logging
import math
import random
import struct
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np

from medseg.fault import InputFault
from medseg.io.nifti import read_header, read_labels, read_volume
from medseg.volume import LabelTable
from tests.benchmarks.fuzzing import Tally, run
from tests.io.catalogue.packing import CODES, FIELDS, SIZES, member, packed_nifti
from tests.io.catalogue.phantom import Place, image_on, lesion_on

TABLE = LabelTable.from_names({1: "rim", 2: "core"})
SHAPE = (7, 6, 5)
PLACES = (
    Place(),
    Place(angle=0.0, handedness=-1),
    Place(axis=(0, 0, 1), angle=math.pi),
    Place(axis=(1, -2, 3), angle=2.0, spacing_mm=(0.5, 0.5, 5.0), handedness=-1),
)
SLOW_S = 1.0
SMALLEST = 1.5e-45  # of what float32 tells from 0
MEMORY = 2 << 30
UNIT_MM = {"unknown": 1.0, "mm": 1.0, "meter": 1e3, "micron": 1e-3}
REAL = (
    *(0.0, -0.0, 1.0, -1.0, 0.5, 2.0, 1e-3, 1e3, 1e-45, 1e-30, 1e30, 3.4e38, -3.4e38),
    *(math.nan, math.inf, -math.inf, 0.1, 352.0, 348.0, 351.5, 1e9, 2.0**31, 2.0**63),
)
WHOLE = (
    0,
    1,
    -1,
    2,
    3,
    4,
    5,
    7,
    8,
    9,
    10,
    16,
    127,
    128,
    255,
    256,
    348,
    352,
    540,
    544,
    32767,
    -32768,
)
WIDE = (2**31 - 1, -(2**31), 2**32, 2**40, 2**62, 2**63 - 1, -(2**63))
RANGES = {"b": 2**7, "h": 2**15, "i": 2**31, "q": 2**63}


def main() -> None:
    run(fuzz, says=__doc__ or "", count=100_000, memory=MEMORY)


def fuzz(count: int, seed: int, *, keep: Path | None = None) -> Tally:
    """Mutate and read `count` files; number n is the same for the same seed."""
    tally = Tally(compared=0)
    # nibabel tells what it thinks of a header, thousands of times.
    logging.getLogger("nibabel.global").setLevel(logging.CRITICAL + 1)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(count):
            chance = random.Random(seed * 1_000_003 + number)
            path = Path(folder) / chance.choice(("a.nii", "a.nii.gz"))
            data, is_labels = mutated(chance, packed=path.suffix == ".gz")
            path.write_bytes(data)
            known = len(tally.findings)
            _read(path, tally, f"seed {seed}, number {number}", is_labels=is_labels)
            if keep and len(tally.findings) > known:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{seed}_{number}_{path.name}").write_bytes(data)
    return tally


def mutated(chance: random.Random, *, packed: bool) -> tuple[bytes, bool]:
    """A file with one to four faults, and whether it holds labels."""
    is_labels = chance.random() < 0.25
    version, order = chance.choice((1, 1, 2)), chance.choice("<<>")
    place = chance.choice(PLACES)
    voxels = (lesion_on if is_labels else image_on)(place.affine, SHAPE)
    if np.ptp(voxels) == 0:
        voxels = np.arange(voxels.size).reshape(SHAPE, order="F").astype(voxels.dtype) % 3
    if chance.random() < 0.5:
        voxels = voxels.astype(chance.choice([kind for kind in CODES if kind != "u1"]))
    if not is_labels and chance.random() < 0.1:
        voxels = np.stack([voxels, voxels + voxels.dtype.type(1)], axis=3)
    codes = chance.choice(((1, 1), (1, 1), (0, 1), (1, 0), (2, 4)))
    data = bytearray(
        packed_nifti(
            voxels,
            place,
            version=version,
            order=order,
            extension=bytes(4) if chance.random() < 0.8 else b"\1\0\0\0" + _extension(chance),
            qform_code=codes[0],
            sform_code=codes[1],
        )
    )
    for _ in range(chance.choice((0, 1, 1, 1, 2, 4))):
        if len(data) >= SIZES[version]:
            chance.choice(MUTATIONS)(data, version, order, chance)
    return (_packed(bytes(data), chance) if packed else bytes(data)), is_labels


def _extension(chance: random.Random) -> bytes:
    size = chance.choice((16, 32, 48, 160))
    return struct.pack("<2i", chance.choice((size, size, 0, -16, 10**9)), 6) + bytes(size - 8)


def _packed(data: bytes, chance: random.Random) -> bytes:
    made = bytearray(member(data, level=chance.choice((0, 1, 9))))
    if chance.random() < 0.1:
        made[chance.randrange(len(made))] ^= 1 << chance.randrange(8)
    if chance.random() < 0.05:
        del made[chance.randrange(len(made)) :]
    if chance.random() < 0.05:
        made += chance.randbytes(chance.randrange(40))
    return bytes(made)


def _flip_bits(data: bytearray, version: int, _order: str, chance: random.Random) -> None:
    at = chance.randrange(min(SIZES[version] + 4, len(data)))
    data[at] ^= 1 << chance.randrange(8)


def _set_byte(data: bytearray, version: int, _order: str, chance: random.Random) -> None:
    at = chance.randrange(min(SIZES[version] + 4, len(data)))
    data[at] = chance.choice((0, 1, 127, 128, 255, chance.randrange(256)))


def _set_field(data: bytearray, version: int, order: str, chance: random.Random) -> None:
    """One number of a field becomes one that is likely to hurt."""
    form, at = FIELDS[version][chance.choice(list(FIELDS[version]))]
    kind = form[-1]
    place = at + chance.randrange(int(form[:-1] or 1)) * struct.calcsize(kind)
    if kind == "s":
        data[place] = chance.randrange(256)
        return
    if kind in RANGES:
        value = chance.choice((*WHOLE, *WIDE, chance.randrange(-40, 40)))
        value = (value + RANGES[kind]) % (2 * RANGES[kind]) - RANGES[kind]
    else:
        value = chance.choice((*REAL, chance.uniform(-5, 5), chance.uniform(-300, 300)))
    struct.pack_into(order + kind, data, place, value)


def _nudge_field(data: bytearray, version: int, order: str, chance: random.Random) -> None:
    """One number of a floating field changes a little: the faults that hide best."""
    real = [(form, at) for form, at in FIELDS[version].values() if form[-1] in "fd"]
    form, at = chance.choice(real)
    place = at + chance.randrange(int(form[:-1] or 1)) * struct.calcsize(form[-1])
    (value,) = struct.unpack_from(order + form[-1], data, place)
    changed = value * (1 + chance.gauss(0, 1) * 10 ** chance.uniform(-7, 0)) + chance.choice(
        (0, 1e-4)
    )
    struct.pack_into(order + form[-1], data, place, min(max(changed, -3e38), 3e38))


def _swap_field(data: bytearray, version: int, _order: str, chance: random.Random) -> None:
    form, at = FIELDS[version][chance.choice(list(FIELDS[version]))]
    size = struct.calcsize(form[-1])
    place = at + chance.randrange(int(form[:-1] or 1)) * size
    data[place : place + size] = data[place : place + size][::-1]


def _noise(data: bytearray, version: int, _order: str, chance: random.Random) -> None:
    at = chance.randrange(min(SIZES[version], len(data)))
    length = min(chance.randrange(1, 64), len(data) - at)
    data[at : at + length] = chance.randbytes(length)


def _cut(data: bytearray, _version: int, _order: str, chance: random.Random) -> None:
    del data[chance.randrange(4, len(data)) :]
    data += bytes(8) if len(data) < 8 else b""


def _lengthen(data: bytearray, _version: int, _order: str, chance: random.Random) -> None:
    data += chance.randbytes(chance.randrange(1, 200))


Mutation = Callable[[bytearray, int, str, random.Random], None]
MUTATIONS: tuple[Mutation, ...] = (
    *(_flip_bits, _set_byte, _set_field, _set_field, _set_field, _set_field),
    *(_nudge_field, _nudge_field, _swap_field, _noise, _cut, _lengthen),
)


def _read(path: Path, tally: Tally, name: str, *, is_labels: bool) -> None:
    began = time.perf_counter()
    try:
        array, affine = _by_medseg(path, is_labels=is_labels)
        outcome = "read"
    except InputFault as fault:
        outcome = fault.code
        if not str(fault).startswith(str(path)):
            tally.findings.append(f"{name}: the message does not begin with the file: {fault}")
    except Exception as error:  # noqa: BLE001
        outcome = "exception"
        tally.findings.append(f"{name}: {error!r}")
    seconds = time.perf_counter() - began
    tally.slowest_s = max(tally.slowest_s, seconds)
    if seconds > SLOW_S:
        tally.findings.append(f"{name}: {seconds:.1f} s")
    if outcome == "read":
        apart = _difference(path, array, affine)
        outcome = "read, nibabel refuses" if apart == "refused" else "read"
        if apart is None:
            tally.compared = (tally.compared or 0) + 1
        elif apart != "refused":
            tally.findings.append(f"{name}: {apart}")
    tally.outcomes[outcome] += 1


def _by_medseg(path: Path, *, is_labels: bool) -> tuple[np.ndarray, np.ndarray]:
    if is_labels:
        labels = read_labels(path, TABLE)
        return labels.array[None], labels.grid.affine
    channels = [str(number) for number in range(read_header(path).channels)]
    volume = read_volume([path], channels)
    return volume.array, volume.grid.affine


def _difference(path: Path, array: np.ndarray, affine: np.ndarray) -> str | None:
    """In what nibabel's reading differs; "refused" where it gives none."""
    try:
        plain = _plain(path)
        image = (nib.Nifti2Image if _is_nifti_2(plain) else nib.Nifti1Image).from_bytes(plain)
        theirs = np.asanyarray(image.dataobj).reshape((*array.shape[1:], array.shape[0]))
        place = np.diag([*[UNIT_MM[image.header.get_xyzt_units()[0]]] * 3, 1]) @ image.affine
    except Exception:  # noqa: BLE001
        return "refused"
    with np.errstate(all="ignore"):
        theirs = np.moveaxis(theirs, 3, 0).astype(np.float64)
        # A scaling is computed in float32 by one and in float64 by the other.
        apart = 1e-6 * np.abs(theirs).max() + SMALLEST
        if not np.allclose(array, theirs, rtol=1e-6, atol=apart):
            return "other voxels than nibabel's"
    apart_mm = np.abs(place - affine)[:3]
    if (apart_mm > 1e-3 + 1e-6 * np.abs(affine[:3])).any():
        return f"another place than nibabel's: {affine.tolist()} against {place.tolist()}"
    return None


def _plain(path: Path) -> bytes:
    data = path.read_bytes()
    return zlib.decompressobj(31).decompress(data) if data.startswith(b"\x1f\x8b") else data


def _is_nifti_2(plain: bytes) -> bool:
    return 540 in struct.unpack("<i", plain[:4]) + struct.unpack(">i", plain[:4])


if __name__ == "__main__":
    main()
