"""Fail the N-th system call of a writing, for every N; run with failing.so preloaded.

    LD_PRELOAD=failing.so python -m tests.io.faults.system FOLDER KIND

KIND is an errno by its name, SHORT (a write takes half of its bytes) or KILL. Prints as JSON a line
for each N: what stood under the final name, what was left beside it, and how the writing ended.
"""

import ctypes
import errno
import json
import os
import sys
from pathlib import Path

from medseg.fault import InputFault
from medseg.io.nifti import write_labels
from tests.io.faults.maps import MAPS, standing, sums

KINDS = {"SHORT": -1, "KILL": -2}
MOST = 1000


def main(folder: Path, kind: str) -> None:
    shim = ctypes.CDLL(None)
    shim.fault_arm.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_int]
    known = sums(folder)
    path = folder / "case.nii.gz"
    for at in range(MOST):
        write_labels(path, MAPS["old"])
        end, more = _one(shim, path, at, kind)
        left = sorted(other.name for other in folder.iterdir() if other != path)
        stood = standing(path, known)
        sys.stdout.write(f"{json.dumps({'at': at, 'end': end, 'stood': stood, 'left': left})}\n")
        for name in left:
            (folder / name).unlink()
        if not more:
            return
    raise SystemExit("it never came to an end")


def _one(shim: ctypes.CDLL, path: Path, at: int, kind: str) -> tuple[str, bool]:
    """How the writing ended, and whether its N-th call was made at all."""
    if kind == "KILL":
        child = os.fork()
        if child == 0:
            _armed(shim, path, at, kind)
            os._exit(0)
        killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
        return ("killed" if killed else "done"), killed
    return _armed(shim, path, at, kind)


def _armed(shim: ctypes.CDLL, path: Path, at: int, kind: str) -> tuple[str, bool]:
    number = KINDS.get(kind) or getattr(errno, kind)
    shim.fault_arm(os.fsencode(path.parent), at, number)
    try:
        write_labels(path, MAPS["new"])
        end = "done"
    except InputFault as fault:
        end = fault.code
    except OSError as error:
        end = f"OSError {error}"
    counted = shim.fault_disarm()
    calls = counted if counted >= 0 else -counted - 1
    return end, at < calls


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
