"""How a walk fits into the memory it may take, decided before it starts."""

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from medseg.fault import InputFault
from medseg.inference import memory
from medseg.inference.blend import Network
from medseg.inference.cuts import most_voxels
from medseg.inference.settings import WalkSettings
from medseg.inference.window import Triple, Windows

log = logging.getLogger(__name__)

# What the export computes with: logits of a few voxels at a time, and what belongs to them; and
# what each further thread takes for its own.
EXPORT, A_THREAD = 64 << 20, 16 << 20
BYTES = {torch.float32: 4, torch.float16: 2}
# A walk that takes no more than this share of what is free need not be measured first.
CLEARLY_FREE = 0.25
# What a network takes more, as a share, where blocks that it freed wait for their next use: they
# do not fit each other as pages do.
BETWEEN_BLOCKS = 0.75


@dataclass(frozen=True)
class Need:
    """Bytes that a walk takes, beside what the process holds already.

    `sums` of the open bricks, `export` of a finished one, `labels` of the result, and `network` for
    one window.
    """

    sums: int
    export: int
    labels: int
    network: int

    @property
    def total(self) -> int:
        """All of it at once."""
        return self.sums + self.export + self.labels + self.network


@dataclass(frozen=True)
class Fit:
    """What was chosen so that the walk fits, and what it then takes.

    `keeps_memory`: there is room for memory that one window frees to wait for the next.
    """

    sums: torch.dtype
    sums_device: torch.device
    batch_size: int
    need: Need
    keeps_memory: bool = False


@dataclass(frozen=True, kw_only=True)
class Demand:
    """A walk as far as its memory goes.

    `blended` channels are summed over `windows`, which are walked along `axes`; `label_bytes` hold
    the result. A window takes `forwards` of a network, one after the other, and each
    `window_bytes`.
    """

    windows: Windows
    axes: Triple
    blended: int
    label_bytes: int
    window_bytes: int
    forwards: int = 1

    def need(self, sums: torch.dtype, batch_size: int) -> Need:
        """The bytes of one choice."""
        window = math.prod(self.windows.patch_size)
        # Folds and mirrorings are added up: their sum, and the next sum.
        copies = 2 if self.forwards > 1 else 0
        results = copies * 4 * window * self.blended * batch_size
        held = most_voxels(self.windows, self.axes)
        return Need(
            sums=(self.blended + 1) * held * BYTES[sums] + 4 * window,
            export=EXPORT + (torch.get_num_threads() - 1) * A_THREAD,
            labels=self.label_bytes,
            network=self.window_bytes * batch_size + results,
        )


def fitted(demand: Demand, settings: WalkSettings, device: torch.device) -> Fit:
    """The first choice of sums, batch and place that fits, the exact and fast ones first.

    Raises:
        InputFault: not even the smallest does (E_MEMORY); nothing was computed yet.
    """
    allowed = _allowed_ram(settings)
    smallest: Fit | None = None
    for fit in _choices(demand, settings, device):
        smallest = fit
        on_device = fit.sums_device.type != "cpu"
        ram = fit.need.labels if on_device else fit.need.total - _network_elsewhere(fit, device)
        if ram <= allowed and _fits_on(device, fit, settings):
            _tell(fit, settings)
            between = int(BETWEEN_BLOCKS * fit.need.network)
            return replace(fit, keeps_memory=device.type == "cpu" and ram + between <= allowed)
    assert smallest is not None
    shape = "x".join(map(str, demand.windows.shape))
    needed, held = memory.shown(smallest.need.total), memory.shown(memory.resident())
    raise InputFault(
        f"an image of {shape} voxels on the network's grid needs {needed} of memory; {held} are "
        f"held already and {memory.shown(max(allowed, 0))} more may be taken. Allow more "
        "(--max-ram, --max-vram), or predict on a machine with more.",
        code="E_MEMORY",
    )


def window_bytes(network: Network, shape: tuple[int, ...], device: torch.device) -> int:
    """What `network` takes while it runs on one window (b, c, i, j, k), measured by running it."""
    window = torch.zeros(shape, device=device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    else:
        memory.reset_peak()
        before = memory.resident()
    with torch.no_grad():
        network(window)
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) - before
    return max(memory.peak() - before, 0)


def is_clearly_enough(demand: Demand, settings: WalkSettings, device: torch.device) -> bool:
    """Whether the walk is so small that the network's own memory need not be measured."""
    if device.type != "cpu" or settings.max_ram is not None:
        return False
    need = demand.need(torch.float32, settings.batch_size)
    return need.total <= CLEARLY_FREE * _allowed_ram(settings)


def _choices(demand: Demand, settings: WalkSettings, device: torch.device) -> Iterator[Fit]:
    kinds = {
        "auto": (torch.float32, torch.float16),
        "float32": (torch.float32,),
        "float16": (torch.float16,),
    }
    places = [device] if device.type == "cpu" else [device, torch.device("cpu")]
    for kind in kinds[settings.sums]:
        for place in places:
            for batch_size in dict.fromkeys((settings.batch_size, 1)):
                yield Fit(kind, place, batch_size, demand.need(kind, batch_size))


def _allowed_ram(settings: WalkSettings) -> int:
    free = memory.available()
    if settings.max_ram is None:
        return 1 << 62 if free is None else free
    return settings.max_ram - memory.resident()


def _network_elsewhere(fit: Fit, device: torch.device) -> int:
    return 0 if device.type == "cpu" else fit.need.network


def _fits_on(device: torch.device, fit: Fit, settings: WalkSettings) -> bool:
    if device.type != "cuda":
        return True
    free = memory.available_on(device)
    if settings.max_vram is not None:
        free = min(free, settings.max_vram - torch.cuda.memory_allocated(device))
    sums = fit.need.sums + fit.need.export if fit.sums_device.type == "cuda" else 0
    return sums + fit.need.network <= free


def _tell(fit: Fit, settings: WalkSettings) -> None:
    if fit.sums is torch.float16 and settings.sums == "auto":
        log.info("sums over windows are float16: float32 would not fit into the memory allowed.")
    if fit.batch_size < settings.batch_size:
        log.info("one window at a time: %d would not fit.", settings.batch_size)
