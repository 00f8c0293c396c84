"""Time and memory of reading one volume whole, beside nibabel, with one thread.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.read_nifti [--shape 512 512 300] [--repeats 5]

medseg checks the gzip sum, every voxel and the header, and gives float32 of shape (c, i, j, k) in
C order. nibabel is timed three ways: the stored values (np.asanyarray of dataobj), float32
(get_fdata), and float32 in C order with a check that all are finite, which is what ours gives.
The readers take turns, the best of all turns counts; memory is the peak of a process that does
nothing else, less what it had when its modules were loaded.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np

from medseg.io.nifti import read_volume


def ours(path: Path) -> np.ndarray:
    return read_volume([path], ["CT"]).array


def nibabel_stored(path: Path) -> np.ndarray:
    return np.asanyarray(nib.load(path, mmap=False).dataobj)


def nibabel_float32(path: Path) -> np.ndarray:
    return nib.load(path, mmap=False).get_fdata(dtype=np.float32)


def nibabel_checked(path: Path) -> np.ndarray:
    array = np.ascontiguousarray(nib.load(path, mmap=False).get_fdata(dtype=np.float32))
    assert np.isfinite(array).all()
    return array


READERS = {
    "medseg": ours,
    "nibabel, stored": nibabel_stored,
    "nibabel, float32": nibabel_float32,
    "nibabel, float32, C order, finite": nibabel_checked,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shape", type=int, nargs=3, default=(512, 512, 300))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peak", choices=READERS, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak:
        print(_peak_mib(args.peak, args.file))
        return
    with tempfile.TemporaryDirectory() as folder:
        for name in ("a.nii.gz", "a.nii"):
            path = Path(folder) / name
            _write(path, tuple(args.shape))
            _report(path, tuple(args.shape), args.repeats)


def _write(path: Path, shape: tuple[int, ...]) -> None:
    """Noise of a CT's kind in a body and in the air about it, and the empty corners of the scan."""
    chance = np.random.default_rng(0)
    i, j, _ = np.meshgrid(*(np.linspace(-1, 1, side) for side in shape[:2]), [0], indexing="ij")
    radius = np.hypot(i, j)
    array = np.empty(shape, np.int16, order="F")
    for k in range(shape[2]):
        noise = chance.normal(0, 12, shape[:2])
        body = np.where(radius[..., 0] < 0.7, 40, -1000) + noise
        array[..., k] = np.where(radius[..., 0] < 1, body, -1024)
    image = nib.Nifti1Image(array, np.diag([0.7, 0.7, 1.0, 1]))
    image.header.set_xyzt_units("mm")
    image.set_sform(image.affine, 1)
    image.set_qform(image.affine, 1)
    nib.save(image, path)


def _report(path: Path, shape: tuple[int, ...], repeats: int) -> None:
    best = dict.fromkeys(READERS, float("inf"))
    for _ in range(repeats):
        for name, read in READERS.items():
            start = time.perf_counter()
            read(path)
            best[name] = min(best[name], time.perf_counter() - start)
    voxels = "x".join(map(str, shape))
    print(f"\n{path.name}: {voxels} int16, {path.stat().st_size / 2**20:.0f} MiB on disk")
    for name, seconds in best.items():
        ratio = best["medseg"] / seconds
        peak = _peak_of_child(name, path)
        print(f"{name:36}{seconds:7.2f} s  medseg takes {ratio:5.2f} of it {peak:7.0f} MiB")


def _peak_of_child(name: str, path: Path) -> float:
    command = [sys.executable, "-m", "tests.benchmarks.read_nifti", "--peak", name]
    out = subprocess.run(
        [*command, "--file", str(path)], capture_output=True, text=True, check=True
    )
    return float(out.stdout)


def _peak_mib(name: str, path: Path) -> float:
    before = _status_kib("VmRSS:")
    READERS[name](path)
    return (_status_kib("VmHWM:") - before) / 1024


def _status_kib(name: str) -> int:
    words = Path("/proc/self/status").read_text().split()
    return int(words[words.index(name) + 1])


if __name__ == "__main__":
    main()
