"""The whole catalogue, and its table "input, expected, got"."""

from collections import Counter
from collections.abc import Mapping

from tests.io.dicom.case import READ, Case
from tests.io.dicom.refused_files import refused_files
from tests.io.dicom.refused_series import refused_series
from tests.io.dicom.sound_series import readable

REFUSED: tuple[Case, ...] = (*refused_series(), *refused_files())
READABLE: tuple[Case, ...] = tuple(readable())
CASES: tuple[Case, ...] = (*REFUSED, *READABLE)


def table(got: Mapping[str, str]) -> str:
    """A line an input, those that came out otherwise marked, and the counts below."""
    width = max(len(case.name) for case in CASES)
    lines = [f"{'input':{width}}  {'expected':13}  got"]
    for case in CASES:
        mark = "" if got[case.name] == case.expected else "   <-- "
        lines.append(f"{case.name:{width}}  {case.expected:13}  {got[case.name]}{mark}")
    return "\n".join([*lines, "", counts(got)])


def counts(got: Mapping[str, str]) -> str:
    """How many were refused as they must be, and how many were read right."""
    refused = sum(got[case.name] == case.expected for case in REFUSED)
    read = sum(got[case.name] == READ for case in READABLE)
    codes = Counter(case.expected for case in REFUSED)
    return (
        f"{refused} of {len(REFUSED)} refused with their code, "
        f"{read} of {len(READABLE)} read right; "
        f"{len(codes)} codes: {', '.join(f'{code} {n}' for code, n in sorted(codes.items()))}"
    )
