"""The command line: `medseg VERB ...`. The only place that prints."""

from medseg.cli.main import main

__all__ = ["main"]
