"""Cases in the Brain Imaging Data Structure: which files of a data set are a bundle's channels."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from medseg.fault import InputFault
from medseg.io.nifti import stem

SUBJECT = re.compile(r"sub-[A-Za-z0-9]+")
SESSION = re.compile(r"ses-[A-Za-z0-9]+")
# What was drawn or computed on an image is no image.
NO_IMAGES = ("dseg", "probseg", "mask")

Found = Mapping[str, tuple[Path, ...] | InputFault]


def is_bids(given: Path, files: Sequence[Path]) -> bool:
    """Whether `files` below `given` lie and are named as BIDS has it."""
    return any(_subject(file, given) and stem(file).startswith("sub-") for file in files)


def bids_cases(given: Path, files: Sequence[Path], channels: Sequence[str]) -> Found:
    """The channels of each case among `files`, or why there is a case and not all its channels.

    A file's suffix (T1w, FLAIR) is held against the channels' names, with or without its w. Where a
    bundle has one channel and no suffix is its name, each anatomical image is a case.
    """
    images = [file for file in files if _subject(file, given) and _suffix(file) not in NO_IMAGES]
    if len(channels) == 1:
        named = [file for file in images if _is_of(file, channels[0])]
        anatomical = [file for file in images if file.parent.name == "anat"]
        return {stem(file): (file,) for file in named or anatomical or images}
    groups: dict[str, list[Path]] = {}
    for file in images:
        if any(_is_of(file, channel) for channel in channels):
            groups.setdefault(stem(file).rpartition("_")[0], []).append(file)
    return {name: _ordered(name, group, channels) for name, group in groups.items()}


def with_entities(name: str, path: Path) -> str:
    """`name` with the subject and session of the BIDS folders that `path` lies in, if it does."""
    if name.startswith("sub-"):
        return name
    parts = path.resolve().parts
    for place in range(len(parts) - 1, -1, -1):
        if SUBJECT.fullmatch(parts[place]):
            after = parts[place + 1] if place + 1 < len(parts) else ""
            entities = [parts[place], *([after] if SESSION.fullmatch(after) else [])]
            rest = [] if name in entities else [name]
            return "_".join([*entities, *rest])
    return name


def _ordered(
    name: str, files: Sequence[Path], channels: Sequence[str]
) -> tuple[Path, ...] | InputFault:
    chosen = []
    for channel in channels:
        fits = [file for file in files if _is_of(file, channel)]
        if len(fits) != 1:
            return InputFault(
                f"{name}: channel {channel} is {'there more than once' if fits else 'missing'} "
                f"({', '.join(file.name for file in fits or files)}); say which file is which in a "
                "list with the columns case and the channels' names (--list).",
                code="E_CASES",
            )
        chosen.append(fits[0])
    return tuple(chosen)


def _subject(file: Path, given: Path) -> bool:
    """Whether one of the folders between `given`, itself included, and `file` is a subject's."""
    between = (given.resolve().name, *file.relative_to(given).parts[:-1])
    return "derivatives" not in between[1:] and any(SUBJECT.fullmatch(part) for part in between)


def _suffix(file: Path) -> str:
    return stem(file).rpartition("_")[2]


def _is_of(file: Path, channel: str) -> bool:
    suffix, wanted = _suffix(file).lower(), channel.lower()
    return wanted in (suffix, suffix.removesuffix("w"))
