"""A network as a torch.export archive (.pt2): run by torch alone, without medseg."""

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medseg.export.network import plain_network, refuse_other_logits
from medseg.io.atomic import atomic_path

FACTS = "medseg.json"


def write_torch_export(
    path: Path, models: Sequence[nn.Module], windows: Sequence[Tensor], facts: Mapping[str, Any]
) -> float:
    """Write the mean of `models` for any number of windows of their size; the largest difference.

    `windows` (b, c, i, j, k) are what it is compared on once it is read back. `facts` are the extra
    file `medseg.json` of the archive.

    Raises:
        InputFault: it computes something else (E_SELFTEST), or cannot be written.
    """
    network = plain_network(models)
    program = exported_program(network, windows[0])
    with atomic_path(path) as temporary:
        named = temporary.with_name(f"{temporary.name}.pt2")
        try:
            torch.export.save(program, named, extra_files={FACTS: json.dumps(facts)})
            read_back = torch.export.load(named).module()
            apart = refuse_other_logits(models, read_back, windows, place=str(path))
            named.replace(temporary)
        finally:
            named.unlink(missing_ok=True)
    return apart


def exported_program(network: nn.Module, window: Tensor) -> torch.export.ExportedProgram:
    """The graph of `network` for any number of windows."""
    # Of one window torch would fix the number to one.
    several = torch.cat([window, window])
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        return torch.export.export(
            network, (several,), dynamic_shapes=({0: torch.export.Dim("batch")},)
        )
