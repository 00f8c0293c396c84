"""Seconds, megabytes and peak memory of each format: 512x512x300 voxels and 20 labels.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.write_formats [FORMAT ...]

Each format runs in a process of its own; peak memory is that of the process, with the 79 MB of the
label map and what the libraries take. The labels are balls of an organ's size.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from medseg.io.formats import FORMATS, Origin, target
from medseg.volume import LabelTable, LabelVolume
from tests.io.made_series import MadeSeries, oblique

LABELS = 20
SERIES = MadeSeries(
    cosines=oblique(4, 2), rows=512, columns=512, count=300, spacing_mm=(0.8, 0.8), gap_mm=1.5
)


def made() -> LabelVolume:
    """Balls of 30 to 70 voxels' radius; later ones lie over earlier ones."""
    rng = np.random.default_rng(7)
    grid = SERIES.grid
    array = np.zeros(grid.shape, np.uint8)
    axes = [np.arange(side, dtype=np.float32) for side in grid.shape]
    i, j, k = np.meshgrid(*axes, indexing="ij", sparse=True)
    for value in range(1, LABELS + 1):
        center = rng.uniform(0.2, 0.8, 3) * grid.shape
        inside = (i - center[0]) ** 2 + (j - center[1]) ** 2 + (k - center[2]) ** 2
        array[inside < rng.uniform(30, 70) ** 2] = value
    names = {value: f"organ {value}" for value in range(1, LABELS + 1)}
    return LabelVolume(array, grid, LabelTable.from_names(names))


def measure(name: str, sources: list[Path]) -> None:
    """Write one format and print its row."""
    labels = made()
    with tempfile.TemporaryDirectory() as folder:
        path = target(name, Path(folder), "case")
        # What is paid once a process: the imports.
        small = LabelVolume(labels.array[:2, :2, :2] * 0, _corner(labels), labels.table)
        FORMATS[name].write(target(name, Path(folder) / "warm", "case"), small, _origin(sources))
        began, cpu = time.monotonic(), time.process_time()
        FORMATS[name].write(path, labels, _origin(sources))
        seconds, cpu = time.monotonic() - began, time.process_time() - cpu
        files = path.rglob("*") if path.is_dir() else [path]
        size = sum(file.stat().st_size for file in files)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{name:20} {seconds:7.1f} s {cpu:7.1f} s cpu {size / 1e6:8.1f} MB {peak:6.0f} MB peak")


def _corner(labels: LabelVolume):
    return type(labels.grid)((2, 2, 2), labels.grid.affine)


def _origin(sources: list[Path]) -> Origin:
    return Origin("benchmark", "1", sources)


def main() -> None:
    """Measure the formats named, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("formats", nargs="*", default=list(FORMATS))
    parser.add_argument("--sources", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.sources:
        measure(args.formats[0], sorted(args.sources.iterdir()))
        return
    with tempfile.TemporaryDirectory() as folder:
        SERIES.write(Path(folder))
        for name in args.formats:
            subprocess.run(
                [sys.executable, "-m", "tests.benchmarks.write_formats", name, "--sources", folder],
                check=True,
            )


if __name__ == "__main__":
    main()
