"""A catalogue of inputs as a table "input, expected, got", with its counts."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

READ = "read"


class Input(Protocol):
    """An input by its name, and what is to come of it: a code, or READ."""

    @property
    def name(self) -> str: ...

    @property
    def expected(self) -> str: ...


Kind = TypeVar("Kind", bound=Input)


@dataclass(frozen=True)
class Catalogue(Generic[Kind]):
    """Inputs to refuse, each with its code, and inputs to read right."""

    refused: Sequence[Kind]
    readable: Sequence[Kind]

    @property
    def cases(self) -> tuple[Kind, ...]:
        """All of them."""
        return (*self.refused, *self.readable)

    def table(self, got: Mapping[str, str]) -> str:
        """A line an input, those that came out otherwise marked, and the counts below."""
        width = max(len(case.name) for case in self.cases)
        lines = [f"{'input':{width}}  {'expected':13}  got"]
        for case in self.cases:
            mark = "" if got[case.name] == case.expected else "   <-- "
            lines.append(f"{case.name:{width}}  {case.expected:13}  {got[case.name]}{mark}")
        return "\n".join([*lines, "", self.counts(got)])

    def counts(self, got: Mapping[str, str]) -> str:
        """How many were refused as they must be, and how many were read right."""
        refused = sum(got[case.name] == case.expected for case in self.refused)
        read = sum(got[case.name] == READ for case in self.readable)
        codes = Counter(case.expected for case in self.refused)
        return (
            f"{refused} of {len(self.refused)} refused with their code, "
            f"{read} of {len(self.readable)} read right; "
            f"{len(codes)} codes: {', '.join(f'{code} {n}' for code, n in sorted(codes.items()))}"
        )
