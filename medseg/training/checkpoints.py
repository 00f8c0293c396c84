"""The checkpoints of a run: `last.ckpt`, `previous.ckpt` and `best.ckpt`.

Each is written whole beside its sha256. `last` becomes `previous` only after the new one is on
disk, and a checkpoint whose sum does not match is passed over, so that one loadable checkpoint
exists at every moment whatever moment the process is killed at.
"""

import logging
from pathlib import Path
from typing import Any

import torch

from medseg.fault import InputFault
from medseg.io.atomic import atomic_path, write_text
from medseg.io.pickled import checksum_path, file_sha256, load_pickled

log = logging.getLogger(__name__)

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"
FORMAT = 1


def save_last(folder: Path, content: dict[str, Any]) -> None:
    """Write `last.ckpt`; the one before it stays as `previous.ckpt`.

    The order of the moves matters: at any kill either `last` matches its sum, or `previous` does.
    """
    last, previous = folder / LAST, folder / PREVIOUS
    if last.exists() and not _damaged(last):
        checksum_path(previous).unlink(missing_ok=True)
        last.replace(previous)
        if checksum_path(last).exists():
            checksum_path(last).replace(checksum_path(previous))
    _save(last, content)


def save_best(folder: Path, content: dict[str, Any]) -> None:
    """Write `best.ckpt` in the place of the one before."""
    _save(folder / BEST, content)


def load_last(folder: Path) -> dict[str, Any]:
    """The newest checkpoint that is whole.

    Raises:
        InputFault: there is none (E_CHECKPOINT).
    """
    reasons = []
    for path in (folder / LAST, folder / PREVIOUS):
        if not path.exists():
            continue
        try:
            content = load_checkpoint(path)
        except InputFault as fault:
            log.warning("%s; trying the one before it", fault)
            reasons.append(str(fault))
            continue
        return content
    raise InputFault(
        f"{folder}: there is no checkpoint to resume from"
        f"{' (' + '; '.join(reasons) + ')' if reasons else ''}; start without --resume.",
        code="E_CHECKPOINT",
    )


def load_checkpoint(path: Path) -> dict[str, Any]:
    """One checkpoint, its sum and format checked."""
    content = load_pickled(path)
    if content.get("format") != FORMAT:
        raise InputFault(
            f"{path}: it is no checkpoint of this version of medseg (format "
            f"{content.get('format')}, not {FORMAT}); train again or use the version it is of.",
            code="E_CHECKPOINT",
        )
    return content


def refuse_other_run(content: dict[str, Any], identity: dict[str, str], folder: Path) -> None:
    """Raise InputFault where the checkpoint is of another model, data set or recipe."""
    stored = content["identity"]
    changed = [key for key, value in identity.items() if stored.get(key) != value]
    if changed:
        shown = "; ".join(
            f"{key}: {stored.get(key)} then, {identity[key]} now" for key in changed[:4]
        )
        raise InputFault(
            f"{folder}: the checkpoint is of another run ({shown}). Resume with the recipe it "
            "was made by, or choose another --output.",
            code="E_CHECKPOINT",
        )


def _save(path: Path, content: dict[str, Any]) -> None:
    # A file without a sum is whole, by its atomic writing; one that differs from its sum is not.
    # So the sum of the old file goes before the new file comes.
    with atomic_path(path) as temporary:
        torch.save({"format": FORMAT, **content}, temporary)
        digest = file_sha256(temporary)
        checksum_path(path).unlink(missing_ok=True)
    write_text(checksum_path(path), f"{digest}  {path.name}\n")


def _damaged(path: Path) -> bool:
    expected = checksum_path(path)
    return expected.is_file() and expected.read_text().split()[:1] != [file_sha256(path)]
