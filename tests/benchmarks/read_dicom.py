"""Time of reading a DICOM series whole, beside plain pydicom and SimpleITK, with one thread.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.read_dicom [--slices 40 300] [--repeats 5]

medseg checks each header and length and gives float32 of shape (c, i, j, k) in C order. pydicom is
the loop that people write: dcmread, sort by position, stack pixel_array, rescale. SimpleITK is its
usual recipe of two lines. The readers take turns; the median of all turns counts.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK

from medseg.io.dicom.read import read_series
from medseg.io.dicom.series import find_series
from medseg.io.dicom.sources import dicom_files
from tests.io.dicom.phantom import Layout, Made, save

SIDE = 512


def ours(folder: Path) -> np.ndarray:
    with dicom_files([folder]) as files:
        (series,) = find_series(files)
        return read_series(series, "CT").volume.array


def by_pydicom(folder: Path) -> np.ndarray:
    slices = [pydicom.dcmread(path) for path in folder.iterdir()]
    slices.sort(key=lambda one: float(one.ImagePositionPatient[2]))
    scaled = [
        one.pixel_array.astype(np.float32) * float(one.RescaleSlope) + float(one.RescaleIntercept)
        for one in slices
    ]
    return np.ascontiguousarray(np.stack(scaled).transpose(2, 1, 0))


def by_simpleitk(folder: Path) -> np.ndarray:
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return SimpleITK.GetArrayFromImage(SimpleITK.Cast(reader.Execute(), SimpleITK.sitkFloat32))


READERS = {"medseg": ours, "pydicom and numpy": by_pydicom, "SimpleITK": by_simpleitk}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--slices", type=int, nargs="+", default=(40, 300))
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    for count in args.slices:
        with tempfile.TemporaryDirectory() as folder:
            _write(Path(folder), count)
            _report(Path(folder), count, args.repeats)


def _write(folder: Path, count: int) -> None:
    """Noise of a CT's kind; each slice as a scanner writes it."""
    places = tuple(1.0 * place for place in range(count))
    made = Made(Layout(rows=SIDE, columns=SIDE, spacing_mm=(0.7, 0.7), places_mm=places))
    chance = np.random.default_rng(0)
    noise = chance.normal(1060, 12, (SIDE, SIDE)).astype(np.uint16)
    image = made.dataset(0)
    for place, position in enumerate(made.layout.positions_lps_mm):
        image.ImagePositionPatient = [f"{one:.6f}" for one in position]
        image.SOPInstanceUID = f"1.2.3.{place + 1}"
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        image.PixelData = np.roll(noise, place, axis=0).tobytes()
        save(image, folder / f"{place:04d}.dcm")


def _report(folder: Path, count: int, repeats: int) -> None:
    times: dict[str, list[float]] = {name: [] for name in READERS}
    for _ in range(repeats):
        for name, read in READERS.items():
            start = time.perf_counter()
            read(folder)
            times[name].append(time.perf_counter() - start)
    print(f"\n{count} slices of {SIDE}x{SIDE} int16")
    own = statistics.median(times["medseg"])
    for name, all_of_it in times.items():
        median = statistics.median(all_of_it)
        print(f"{name:20}{median * 1000:8.0f} ms  medseg takes {own / median:5.2f} of it")


if __name__ == "__main__":
    main()
