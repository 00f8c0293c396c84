"""The verbs, and what becomes of an error: a sentence and an exit code.

0 all done, 1 a fault of ours, 2 wrong use, 3 some cases failed.
"""

import argparse
import errno
import sys
import traceback
from collections.abc import Sequence

from medseg import __version__
from medseg.cli import check, datasets, evaluate, models, plan, predict, recipes, train
from medseg.cli.terminal import Terminal
from medseg.fault import InputFault

VERBS = (train, predict, evaluate, check, plan, recipes, models, datasets)
OK, OURS, WRONG_USE, SOME_FAILED, INTERRUPTED = 0, 1, 2, 3, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code."""
    args = parser().parse_args(arguments)
    terminal = Terminal(quiet=args.quiet, as_json=args.json)
    try:
        return args.run(args, terminal)
    except InputFault as fault:
        terminal.error(str(fault), code=fault.code)
        return WRONG_USE
    except KeyboardInterrupt:
        terminal.error("interrupted; what was finished is kept.", code="E_INTERRUPTED")
        return INTERRUPTED
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            terminal.error(
                f"{error.filename or 'output'}: the disk is full; free some space and run the "
                "command again.",
                code="E_DISKFULL",
            )
            return WRONG_USE
        return _ours(terminal, error)
    except Exception as error:  # noqa: BLE001  # the last door: a fault of ours, told as such
        return _ours(terminal, error)


def parser() -> argparse.ArgumentParser:
    """The parser of all verbs."""
    top = argparse.ArgumentParser(
        prog="medseg",
        description="3D medical image segmentation: train, predict and evaluate.",
        epilog="Each verb has its own --help.",
    )
    top.add_argument("--version", action="version", version=f"medseg {__version__}")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--quiet", action="store_true", help="print errors and results alone")
    shared.add_argument("--json", action="store_true", help="print events as JSON lines")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb in VERBS:
        verb.add_parser(verbs, shared)
    return top


def _ours(terminal: Terminal, error: BaseException) -> int:
    traceback.print_exception(error, file=sys.stderr)
    terminal.error(
        f"this is a fault of medseg ({type(error).__name__}); please report it with the lines "
        "above and the command.",
        code="E_OURS",
    )
    return OURS
