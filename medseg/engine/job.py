"""One case to be predicted, and what became of it: plain values that travel between processes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from medseg.bundle.inputs import Case
from medseg.bundle.outputs import Outputs
from medseg.inference.postprocess import Rule
from medseg.io.formats import Origin

State = Literal["done", "present", "failed", "quarantined", "claimed"]


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What the cases of a run have in common.

    `bundle_sha256` is that of `bundle.json`, which holds those of all other files. `settings` are
    the values that decide the labels: a receipt with others is no reason to skip a case. `device`
    and the like are `facts`: noted, not compared. `rules` are those of post-processing.
    """

    origin: Origin
    bundle_sha256: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
    pictures: bool = True
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class Job:
    """A case, what is written of it and where, and on what terms."""

    name: str
    case: Case
    outputs: Outputs
    terms: Terms

    @property
    def path(self) -> Path:
        """Where its label map goes: in the first of the formats."""
        return self.outputs.targets(self.name)[0]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a case; `code` and `message` tell why it failed, or what was mended.

    done: predicted now. present: its receipt says that it was, from the same input by the same
    bundle. failed: a fault of its own. quarantined: its worker was lost. claimed: another run is at
    it. `peak_mb` is the most memory that the process held meanwhile; `forwards` of a network and
    `image_voxels` are what the times are of.
    """

    case: str
    state: State
    code: str = ""
    message: str = ""
    read_s: float = 0.0
    network_s: float = 0.0
    write_s: float = 0.0
    peak_mb: float = 0.0
    forwards: int = 0
    image_voxels: int = 0
    voxels: Mapping[str, int] = field(default_factory=dict)
    volumes_ml: Mapping[str, float] = field(default_factory=dict)
    path: Path | None = None

    @property
    def seconds(self) -> float:
        """What the case took in all."""
        return self.read_s + self.network_s + self.write_s

    @property
    def is_fault(self) -> bool:
        """Whether there is no result, and why is told."""
        return self.state in ("failed", "quarantined")
