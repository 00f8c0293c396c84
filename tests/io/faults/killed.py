"""Kill a process that writes label maps over each other, again and again.

    python -m tests.io.faults.killed FOLDER COUNT SEED

Each child is forked from this process and killed after a random time, of up to two pairs of maps.
Prints as JSON what stood under the final name after each kill, and how many left a temporary file.
"""

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

from medseg.io.nifti import write_labels
from tests.io.faults.maps import MAPS, standing, sums

# How often it is measured anew what a pair of maps takes: machines are busy now and then.
MEASURED_EVERY = 20


def main(folder: Path, count: int, seed: int) -> None:
    known = sums(folder)
    path = folder / "case.nii.gz"
    chance = random.Random(seed)
    stood: Counter[str] = Counter()
    left, others = 0, set()
    longest_s = 0.0
    for number in range(count):
        if number % MEASURED_EVERY == 0:
            longest_s = 2 * _pair_seconds(path)
        before = _names(folder)
        child = os.fork()
        if child == 0:
            _write_forever(path)
        time.sleep(chance.uniform(0, longest_s))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        stood[standing(path, known)] += 1
        new = _names(folder) - before - {path.name}
        left += bool(new)
        others |= {name for name in new if not name.startswith(".medseg-")}
    sys.stdout.write(f"{json.dumps({'stood': stood, 'left': left, 'others': sorted(others)})}\n")


def _pair_seconds(path: Path) -> float:
    """What a child takes that writes each map once, from its fork to its end."""
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        for labels in MAPS.values():
            write_labels(path, labels)
        os._exit(0)
    os.waitpid(child, 0)
    return time.monotonic() - start


def _write_forever(path: Path) -> None:
    while True:
        for labels in MAPS.values():
            write_labels(path, labels)


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
