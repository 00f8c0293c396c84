"""Stored values of slices: plain ones by numpy, packed ones through the codec's process."""

import json
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import IO

import numpy as np
from jaxtyping import Shaped

from medseg.fault import InputFault
from medseg.io.dicom.instance import Instance
from medseg.io.dicom.stack import Slice
from medseg.io.dicom.stored import Pixels

LONGEST_S = 60.0
Image = Shaped[np.ndarray, "rows columns"]


def stored_values(slices: Sequence[Slice]) -> Iterator[Image]:
    """The stored values of each slice, (rows, columns), in order.

    Raises:
        InputFault: a file was cut since (E_TRUNC), or its frames cannot be unpacked (E_CODEC).
    """
    with _Codec() as codec:
        for _, run in groupby(slices, key=lambda one: one.instance.file):
            group = list(run)
            instance = group[0].instance
            frames = [one.frame.number for one in group]
            if instance.pixels.length is None:
                yield from codec.frames(instance, frames)
            else:
                yield from _plain(instance, frames)


def _plain(instance: Instance, frames: Sequence[int]) -> Iterator[Image]:
    pixels = instance.pixels
    size = instance.rows * instance.columns * pixels.dtype.itemsize
    with instance.file.open("rb") as source:
        for number in frames:
            source.seek(pixels.offset + number * size)
            data = source.read(size)
            if len(data) != size:
                raise InputFault(
                    f"{instance.file}: it ends within its pixels; copy it from the archive again.",
                    code="E_TRUNC",
                )
            values = np.frombuffer(data, dtype=pixels.dtype)
            yield _used_bits(values, pixels).reshape(instance.rows, instance.columns)


def _used_bits(values: np.ndarray, pixels: Pixels) -> np.ndarray:
    """Values without what old devices left in their unused high bits (PS3.5 8.1.1)."""
    spare = pixels.bits_allocated - pixels.bits_stored
    if not spare:
        return values
    values = values.astype(values.dtype.newbyteorder("="))
    # Shifting up and down again drops the high bits; for signed types it extends the sign.
    return (values << spare) >> spare


class _Codec:
    """The codec's process, started when first asked, and no longer than it is needed."""

    def __init__(self) -> None:
        self._process: subprocess.Popen | None = None

    def __enter__(self) -> "_Codec":
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    def frames(self, instance: Instance, numbers: Sequence[int]) -> Iterator[Image]:
        """The frames of one file, each checked against its header."""
        process = self._started()
        request = json.dumps({"path": str(instance.file.absolute()), "frames": list(numbers)})
        _, out = _pipes(process)
        try:
            _ask(process, request)
            for _ in numbers:
                yield _received(out, instance)
        except InputFault:
            raise
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            raise _broken(instance.file, "its codec died on it") from error

    def _started(self) -> subprocess.Popen:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "medseg.io.dicom.codec"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
            )
        return self._process


def _pipes(process: subprocess.Popen) -> tuple[IO[bytes], IO[bytes]]:
    assert process.stdin is not None
    assert process.stdout is not None
    return process.stdin, process.stdout


def _ask(process: subprocess.Popen, request: str) -> None:
    stdin, _ = _pipes(process)
    stdin.write(request.encode() + b"\n")
    stdin.flush()


def _received(out: IO[bytes], instance: Instance) -> Image:
    until = time.monotonic() + LONGEST_S
    answer = json.loads(_line(out, until, instance.file))
    if "fault" in answer:
        raise _broken(instance.file, answer["fault"])
    shape, dtype = tuple(answer["shape"]), np.dtype(answer["dtype"])
    right = shape == (instance.rows, instance.columns) and dtype.kind in "iu"
    if not right or answer["bytes"] != np.prod(shape, dtype=int) * dtype.itemsize:
        raise _broken(instance.file, f"unpacked to {shape} of {dtype}, its header says otherwise")
    data = _exactly(out, answer["bytes"], until, instance.file)
    return np.frombuffer(data, dtype=dtype).reshape(shape)


def _line(out: IO[bytes], until: float, file: Path) -> bytes:
    line = bytearray()
    while not line.endswith(b"\n"):
        line += _exactly(out, 1, until, file)
    return bytes(line)


def _exactly(out: IO[bytes], count: int, until: float, file: Path) -> bytearray:
    data = bytearray(count)
    view = memoryview(data)
    with selectors.DefaultSelector() as selector:
        selector.register(out, selectors.EVENT_READ)
        while view:
            if not selector.select(max(0.0, until - time.monotonic())):
                raise _broken(file, f"its codec needs more than {LONGEST_S:g} s a slice")
            taken = out.readinto(view)  # type: ignore[attr-defined]
            if not taken:
                raise EOFError
            view = view[taken:]
    return data


def _broken(file: Path, reason: str) -> InputFault:
    return InputFault(
        f"{file}: its packed pixels cannot be read ({reason}); copy it from the archive again, "
        "or store the series uncompressed. JPEG needs `pip install medseg[jpeg]`.",
        code="E_CODEC",
    )
