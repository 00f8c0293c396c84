"""Write label maps to a disk that is too small: `python -m tests.io.faults.full FOLDER`."""

import json
import sys
from pathlib import Path

import numpy as np

from medseg.fault import InputFault
from medseg.io.nifti import write_labels
from medseg.volume import Grid, LabelVolume
from tests.io.faults.maps import TABLE

folder = Path(sys.argv[1])
path = folder / "small.nii.gz"
grid = Grid.from_spacing((96, 96, 96))
noise = np.random.default_rng(0).integers(0, 3, grid.shape).astype(np.uint8)
small = LabelVolume(np.where(np.indices(grid.shape)[0] < 4, noise, 0).astype(np.uint8), grid, TABLE)
write_labels(path, small)
before = path.read_bytes()
try:
    write_labels(path, LabelVolume(noise, grid, TABLE))
    code = "done"
except InputFault as fault:
    code = fault.code
same, names = path.read_bytes() == before, sorted(other.name for other in folder.iterdir())
write_labels(path, small)
sys.stdout.write(f"{json.dumps({'code': code, 'same': same, 'names': names, 'after': 'done'})}\n")
