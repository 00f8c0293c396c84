"""The one exception for what a user gave: a sentence with place, value, rule and way out."""

from collections.abc import Sequence


class InputFault(ValueError):
    """What the user gave cannot be used; the command line prints it and ends with code 2.

    The message is whole sentences: where (file, line, case), what value, which rule, what to do.
    `code` is stable over releases (`E_GRID`, `E_LABEL`, ...), for reports and for programs.
    """

    def __init__(self, message: str, *, code: str = "E_INPUT") -> None:
        super().__init__(message)
        self.code = code


def all_at_once(faults: Sequence[str], *, summary: str, code: str, most: int = 20) -> InputFault:
    """One fault that lists many: the summary, then a line each, at most `most` of them."""
    shown = [f"  {fault}" for fault in faults[:most]]
    if len(faults) > most:
        shown.append(f"  ... and {len(faults) - most} more")
    return InputFault("\n".join([summary, *shown]), code=code)
