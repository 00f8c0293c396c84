"""What work takes at least on an H200, for benchmarks that ask for a device which is not there."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Work:
    """Bytes moved, operations of matrix products, and exponentials: what cannot be left out."""

    bytes: float
    flops: float = 0
    exponentials: float = 0

    def times(self, count: float, *, flops: float, exponentials: float) -> "Work":
        """So many times the bytes, operations and exponentials."""
        return Work(count * self.bytes, flops * self.flops, exponentials * self.exponentials)

    def seconds(self, rates: "Work") -> "Work":
        """How long each of them takes where that of `rates` is done in a second."""
        return Work(
            self.bytes / rates.bytes,
            self.flops / rates.flops,
            self.exponentials / rates.exponentials,
        )


# A second's copies, bfloat16 products, and exponentials: 132 multiprocessors, 16 a clock.
STATED = Work(bytes=4.3e12, flops=788e12, exponentials=132 * 16 * 1.755e9)


def add_device(parser: argparse.ArgumentParser) -> None:
    """The option --device."""
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])


def is_there(device: str, works: Callable[[], dict[str, Work]]) -> bool:
    """Whether the device can be measured; if not, what these works take at least is printed."""
    if device == "cpu" or torch.cuda.is_available():
        return True
    print("not measured: there is no CUDA device")
    expect(works())
    return False


def expect(works: dict[str, Work]) -> None:
    """A table of what works need, and of how long that takes at the stated rates."""
    print("\nAt least, at the stated rates of an H200; not measured:\n")
    print("| what | MB | 1e6 exponentials | GFLOP | bytes | exponentials | products | at least |")
    print("|---|---|---|---|---|---|---|---|")
    for name, work in works.items():
        took = work.seconds(STATED)
        times = [1e6 * one for one in (took.bytes, took.exponentials, took.flops)]
        shown = [
            f"{work.bytes / 1e6:.1f}",
            f"{work.exponentials / 1e6:.1f}",
            f"{work.flops / 1e9:.2f}",
            *(f"{time:.1f} us" for time in (*times, max(times))),
        ]
        print("| " + " | ".join([name, *shown]) + " |")
