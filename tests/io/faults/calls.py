"""Fail the N-th of Python's calls to the system, within one process."""

import builtins
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PLAIN = ("open", "fsync", "replace", "unlink", "mkdir", "scandir", "stat")


class Calls:
    """Counts calls; number `at` raises OSError(`number`). `made` tells what was called."""

    def __init__(self, at: int, number: int) -> None:
        self.at = at
        self.number = number
        self.made: list[str] = []

    @property
    def fired(self) -> bool:
        """Whether the call that fails was made."""
        return len(self.made) > self.at

    def count(self, name: str) -> None:
        """Count one call of `name`, or fail it."""
        self.made.append(name)
        if len(self.made) == self.at + 1:
            raise OSError(self.number, os.strerror(self.number))


class _File(io.FileIO):
    """A file each of whose calls is counted; a close that fails has closed it."""

    calls: Calls

    def write(self, data: Any) -> int:
        self.calls.count("write")
        return super().write(data)

    def readinto(self, buffer: Any) -> int | None:
        self.calls.count("read")
        return super().readinto(buffer)

    def readall(self) -> bytes:
        self.calls.count("read")
        return super().readall()

    def close(self) -> None:
        was_open = not self.closed
        super().close()
        if was_open:
            self.calls.count("close")


class _Watch:
    """Stands in for the calls of `os` and `io` that touch `folder`, a file in it, or its handle."""

    def __init__(self, folder: Path, calls: Calls) -> None:
        self.folder = folder
        self.calls = calls
        self.inside: set[int] = set()
        self.real_close, self.real_io = os.close, io.open

    def concerns(self, target: Any) -> bool:
        return target in self.inside if isinstance(target, int) else str(self.folder) in str(target)

    def plain(self, name: str) -> Any:
        real = getattr(os, name)

        def call(target: Any, *args: Any, **kwargs: Any) -> Any:
            if self.concerns(target):
                self.calls.count(name)
            result = real(target, *args, **kwargs)
            if name == "open" and self.concerns(target):
                self.inside.add(result)
            return result

        return call

    def close(self, handle: int) -> None:
        self.real_close(handle)
        if handle in self.inside:
            self.inside.discard(handle)
            self.calls.count("close")

    def open(self, file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if not self.concerns(file) or "b" not in mode:
            return self.real_io(file, mode, *args, **kwargs)
        self.calls.count("open")
        raw = _File(file, mode)
        raw.calls = self.calls
        return io.BufferedWriter(raw) if "w" in mode else io.BufferedReader(raw)


@contextmanager
def failing(folder: Path, at: int, number: int) -> Iterator[Calls]:
    """Within it, call number `at` that touches `folder` or a file in it raises OSError."""
    watch = _Watch(folder, Calls(at, number))
    with pytest.MonkeyPatch.context() as patch:
        for name in PLAIN:
            patch.setattr(os, name, watch.plain(name))
        patch.setattr(os, "close", watch.close)
        patch.setattr(io, "open", watch.open)
        patch.setattr(builtins, "open", watch.open)
        yield watch.calls
