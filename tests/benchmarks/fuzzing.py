"""What both fuzzers share: the tally of a run, and its command line."""

import argparse
import resource
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


@dataclass
class Tally:
    """What became of the inputs: a count by outcome, and the findings.

    `compared` inputs were read as another reader reads them, where there is another.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    compared: int | None = None


class Fuzz(Protocol):
    """Mutates and reads `count` inputs; files of findings go to `keep`."""

    def __call__(self, count: int, seed: int, *, keep: Path | None = None) -> Tally: ...


def run(fuzz: Fuzz, *, says: str, count: int, memory: int) -> None:
    """The command line of a fuzzer: within `memory` bytes more, with its counts printed."""
    parser = argparse.ArgumentParser(description=says.partition("\n")[0])
    parser.add_argument("--count", type=int, default=count)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the files of findings")
    args = parser.parse_args()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))
    began = time.monotonic()
    tally = fuzz(args.count, args.seed, keep=args.keep)
    for outcome, number in sorted(tally.outcomes.items()):
        print(f"{outcome:36}{number:8}")
    compared = "" if tally.compared is None else f"{tally.compared} were equal to the peer's; "
    print(
        f"{args.count} inputs in {time.monotonic() - began:.0f} s; the slowest took "
        f"{tally.slowest_s * 1000:.0f} ms; {compared}{len(tally.findings)} findings"
    )
    for finding in tally.findings[:20]:
        print(finding)
    raise SystemExit(bool(tally.findings))
