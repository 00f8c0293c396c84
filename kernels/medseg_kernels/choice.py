"""The choice of the form that serves a call, alike for every operation."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

from medseg_kernels import gpu

Name = TypeVar("Name", bound=str)


def chosen(
    operation: str,
    backends: Sequence[Name],
    asked: str | None,
    refuses: Callable[[Any], str | None],
) -> Name:
    """The backend that is `asked` for, or by default the first that does not refuse.

    The last of `backends` refuses nothing. Refusals are logged at debug level; Triton's
    interpreter, which is for tests, has to be asked for by name.

    Raises:
        ValueError: the backend that is asked for refuses, or there is none of that name.
    """
    if asked is not None and asked not in backends:
        raise ValueError(f"{operation}: there is no backend {asked!r}")
    for name in backends if asked is None else [name for name in backends if name == asked]:
        refusal = refuses(name)
        if refusal is None and asked is None and name == "triton" and gpu.interprets():
            refusal = "its interpreter is for tests, which ask for it by name"
        if refusal is None:
            return name
        if asked is not None:
            raise ValueError(f"{operation}: backend {name!r} refuses: {refusal}")
        if not torch.compiler.is_compiling():  # a traced graph would break here
            log = logging.getLogger(f"medseg_kernels.{operation}")
            log.debug("%s: backend %r refuses: %s", operation, name, refusal)
    raise AssertionError(f"{operation}: {backends[-1]} refuses nothing")
