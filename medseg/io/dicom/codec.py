"""Decodes compressed frames in a process of its own: `python -m medseg.io.dicom.codec`.

Codecs are C and C++ that parse what a stranger sent. What kills one of them or makes it hang ends
this process, not the batch. Requests are lines of JSON, {"path": ..., "frames": [...]}; each frame
is answered by a line of JSON and, where that has no "fault", the bytes it announces.
"""

import json
import os
import sys
import warnings
from typing import BinaryIO

from pydicom.pixels.utils import iter_pixels

MOST_BYTES = 8 << 30


def main() -> None:
    """Answer requests until standard input ends."""
    _limit_memory()
    # A library that prints would write among the answers: its output goes to the errors.
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)
        for line in sys.stdin:
            request = json.loads(line)
            try:
                _answer(request, answers)
            # Whatever a codec raises goes to the parent as a sentence; it has no common class.
            except Exception as error:  # noqa: BLE001
                reason = f"{type(error).__name__}: {error}".splitlines()[0][:300]
                _send({"fault": reason}, answers)


def _answer(request: dict, answers: BinaryIO) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for array in iter_pixels(request["path"], indices=request["frames"], raw=True):
            data = array.tobytes()
            _send({"shape": array.shape, "dtype": array.dtype.str, "bytes": len(data)}, answers)
            answers.write(data)
            answers.flush()


def _send(message: dict, answers: BinaryIO) -> None:
    answers.write(json.dumps(message).encode() + b"\n")
    answers.flush()


def _limit_memory() -> None:
    if sys.platform == "win32":
        return
    import resource  # noqa: PLC0415 - Windows has none

    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = MOST_BYTES if hard == resource.RLIM_INFINITY else min(MOST_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


if __name__ == "__main__":
    main()
