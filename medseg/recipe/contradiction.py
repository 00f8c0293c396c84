"""Settings that are sound by themselves, but not together."""

from dataclasses import dataclass

Path = tuple[str, ...]


@dataclass(frozen=True)
class Contradiction:
    """The setting at `path` does not go with others; `because` are those others."""

    path: Path
    rule: str
    because: tuple[Path, ...] = ()
