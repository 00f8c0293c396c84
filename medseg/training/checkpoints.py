"""The checkpoints of a run: `last.ckpt`, `previous.ckpt` and `best.ckpt`.

Each is written whole beside its sha256. `last` becomes `previous` only after the new one is on
disk, and a checkpoint whose sum does not match is passed over, so that one loadable checkpoint
exists at every moment whatever moment the process is killed at.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medseg.fault import InputFault
from medseg.io.atomic import atomic_path, remove_leftovers, write_text
from medseg.io.pickled import checksum_path, file_sha256, load_pickled, write_pickled

log = logging.getLogger(__name__)

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"
FORMAT = 1


def save_last(folder: Path, content: dict[str, Any]) -> None:
    """Write `last.ckpt`; the one before it stays as `previous.ckpt`.

    The order of the moves matters: at any kill either `last` matches its sum, or `previous` does.

    Raises:
        InputFault: a weight is not finite (E_LOSS).
    """
    _refuse_broken_weights(content, folder)
    last, previous = folder / LAST, folder / PREVIOUS
    if last.exists():
        checksum_path(previous).unlink(missing_ok=True)
        last.replace(previous)
        if checksum_path(last).exists():
            checksum_path(last).replace(checksum_path(previous))
    _save(last, content)


def save_best(folder: Path, content: dict[str, Any]) -> None:
    """Write `best.ckpt` in the place of the one before."""
    _refuse_broken_weights(content, folder)
    _save(folder / BEST, content)


def exist(folder: Path) -> bool:
    """Whether a run has left something to continue from, whole or not."""
    return (folder / LAST).exists() or (folder / PREVIOUS).exists()


def tidy(folder: Path) -> None:
    """Remove what a killed run was about to write, and a `last` that is of no use.

    Else it would take the place of the `previous` that the run goes on from.
    """
    remove_leftovers(folder, older_than_s=0)
    last = folder / LAST
    if not last.exists():
        return
    try:
        load_checkpoint(last)
    except InputFault:
        # The file before its sum: without one it would pass for whole.
        last.unlink()
        checksum_path(last).unlink(missing_ok=True)


def load_last(folder: Path) -> dict[str, Any]:
    """The newest checkpoint that is whole; one that is passed over is logged with the reason.

    Raises:
        InputFault: there is none (E_CHECKPOINT).
    """
    reasons = []
    for path in (folder / LAST, folder / PREVIOUS):
        if not path.exists():
            continue
        try:
            return load_checkpoint(path)
        except InputFault as fault:
            log.warning("%s Trying the checkpoint before it.", fault)
            reasons.append(str(fault))
    raise InputFault(
        " ".join([f"{folder}: there is no checkpoint to resume from.", *reasons])
        + " Train again in another --output.",
        code="E_CHECKPOINT",
    )


def load_checkpoint(path: Path) -> dict[str, Any]:
    """One checkpoint, its sum and format checked."""
    content = load_pickled(path, in_run=True)
    if content.get("format") != FORMAT or not {"model", "state", "identity"} <= content.keys():
        raise InputFault(
            f"{path}: it is no checkpoint of this version of medseg (format "
            f"{content.get('format')}, not {FORMAT}); train again or use the version it is of.",
            code="E_CHECKPOINT",
        )
    return content


def refuse_other_run(content: Mapping[str, Any], identity: Mapping[str, str], folder: Path) -> None:
    """Raise InputFault where the checkpoint is of another model, data set or recipe."""
    then = content["identity"]
    changed = [key for key in {**identity, **then} if then.get(key) != identity.get(key)]
    if changed:
        shown = "; ".join(
            f"{key}: {then.get(key, 'none')} then, {identity.get(key, 'none')} now"
            for key in changed[:4]
        )
        raise InputFault(
            f"{folder}: the checkpoint is of another run ({shown}). Resume with the recipe it "
            "was made by, or choose another --output.",
            code="E_CHECKPOINT",
        )


def refuse_other_model(
    content: Mapping[str, Any], weights: Mapping[str, Tensor], folder: Path
) -> None:
    """Raise InputFault where the checkpoint's weights differ in name or shape from `weights`."""
    ours = {name: tuple(value.shape) for name, value in weights.items()}
    theirs = {name: tuple(value.shape) for name, value in content["model"].items()}
    changed = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
    if changed:
        shown = "; ".join(
            f"{name}: {theirs.get(name, 'none')} then, {ours.get(name, 'none')} now"
            for name in changed[:3]
        )
        raise InputFault(
            f"{folder}: the checkpoint is of another network, {len(changed)} of its weights differ "
            f"({shown}). Resume with the model section it was made by, or choose another --output.",
            code="E_CHECKPOINT",
        )


def _save(path: Path, content: dict[str, Any]) -> None:
    # A file without a sum is whole, by its atomic writing; one that differs from its sum is not.
    # So the sum of the old file goes before the new file comes.
    with atomic_path(path) as temporary:
        write_pickled(temporary, {"format": FORMAT, **content})
        digest = file_sha256(temporary)
        checksum_path(path).unlink(missing_ok=True)
    write_text(checksum_path(path), f"{digest}  {path.name}\n")


def _refuse_broken_weights(content: Mapping[str, Any], folder: Path) -> None:
    for name, value in content["model"].items():
        if not torch.isfinite(value).all():
            raise InputFault(
                f"{folder}: {name} is no longer finite after step {content['state']['step']}; "
                "nothing was written. Lower optimizer.lr or lengthen the warm-up; the checkpoint "
                "before is sound.",
                code="E_LOSS",
            )
