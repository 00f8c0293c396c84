"""What becomes of a verb: an exit code, and where something is wrong, a sentence.

0 all done, 1 a fault of ours, 2 wrong use, 3 some cases failed; 130 interrupted, 141 nobody reads.
"""

import errno
import os
import sys
import traceback
from collections.abc import Sequence

from medseg.cli.parser import parsed
from medseg.cli.terminal import Terminal
from medseg.fault import InputFault
from medseg.nn import memory

OURS, WRONG_USE, INTERRUPTED, UNREAD = 1, 2, 130, 141
FULL = (errno.ENOSPC, errno.EDQUOT)
# What the user's own paths can be: not allowed, read-only, a file for a folder, too long a name.
THEIRS = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ELOOP,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code."""
    memory.prepare()
    given = list(sys.argv[1:] if arguments is None else arguments)
    terminal = Terminal(quiet="--quiet" in given, as_json="--json" in given)
    try:
        args = parsed(given)
        return args.run(args, terminal)
    except InputFault as fault:
        terminal.error(str(fault), code=fault.code)
        return WRONG_USE
    except KeyboardInterrupt:
        return _interrupted(terminal)
    except SystemExit as end:
        # Lightning and rich end the program themselves on Ctrl-C and a closed pipe.
        if isinstance(end.__context__, KeyboardInterrupt):
            return _interrupted(terminal)
        if isinstance(end.__context__, BrokenPipeError):
            return UNREAD
        raise
    except OSError as error:
        return _of_the_machine(terminal, error)
    except Exception as error:  # noqa: BLE001  # the last door: a fault of ours, told as such
        return _ours(terminal, error)


def _interrupted(terminal: Terminal) -> int:
    terminal.error("interrupted; what was finished is kept.", code="E_INTERRUPTED")
    return INTERRUPTED


def _of_the_machine(terminal: Terminal, error: OSError) -> int:
    place = error.filename or "output"
    if isinstance(error, BrokenPipeError):
        # What is still buffered has nowhere to go; say so to nobody.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNREAD
    if error.errno in FULL:
        terminal.error(
            f"{place}: the disk is full; free some space and run the command again.",
            code="E_DISKFULL",
        )
        return WRONG_USE
    if error.errno in THEIRS and error.filename:
        terminal.error(
            f"{place}: it cannot be used ({error.strerror}); choose another path, or change its "
            "permissions.",
            code="E_PATH",
        )
        return WRONG_USE
    return _ours(terminal, error)


def _ours(terminal: Terminal, error: BaseException) -> int:
    traceback.print_exception(error, file=sys.stderr)
    terminal.error(
        f"this is a fault of medseg ({type(error).__name__}); please report it with the lines "
        "above and the command.",
        code="E_OURS",
    )
    return OURS
