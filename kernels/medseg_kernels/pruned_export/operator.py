"""All backends as one operator, a single node of an exported graph; it chooses among them.

It is defined by hand: a custom_op loads torch's compiler when it is called first.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from medseg_kernels.choice import chosen
from medseg_kernels.pruned_export import compiled, pruned, reference
from medseg_kernels.pruned_export.backends import BACKENDS, refuses
from medseg_kernels.pruned_export.places import Places
from medseg_kernels.pruned_export.source import Source

Triple = tuple[Places, Places, Places]


def export(
    source: Source, places: Sequence[Places], *, values: Sequence[int] = (), backend: str | None
) -> tuple[Tensor, Tensor]:
    """Labels (a, b, c), and the largest size of a mean (): NaN if there is one, 0 of logits."""
    left, beyond = [place.left for place in places], [place.beyond for place in places]
    made = source.counts, source.weight, source.bias
    return torch.ops.medseg.pruned_export(source.values, *made, left, beyond, values, backend)


def _export(
    values: Tensor,
    counts: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    left: Sequence[Tensor],
    beyond: Sequence[Tensor],
    regions: Sequence[int],
    backend: str | None,
) -> tuple[Tensor, Tensor]:
    i, j, k = map(Places, left, beyond)
    source, places = Source(values, counts, weight, bias), (i, j, k)
    refused = partial(refuses, source=source, values=regions)
    name = chosen("pruned_export", BACKENDS, backend, refused)
    for side, place in zip(values.shape[1:], places, strict=True):
        _check(side, place)
    if name != "compiled":
        return _labels(source, places, regions, name), source.largest()
    if regions:
        return compiled.regions(source, places, regions)
    return compiled.argmax(source, places)


def _export_fake(
    values: Tensor,
    counts: Tensor | None,  # noqa: ARG001
    weight: Tensor | None,
    bias: Tensor | None,  # noqa: ARG001
    left: Sequence[Tensor],
    beyond: Sequence[Tensor],  # noqa: ARG001
    regions: Sequence[int],
    backend: str | None,  # noqa: ARG001
) -> tuple[Tensor, Tensor]:
    count = max(regions) + 1 if regions else len(values if weight is None else weight)
    labels = values.new_empty([len(one) for one in left], dtype=reference.index_type(count))
    return labels, values.new_empty((), dtype=torch.float32)


def _labels(source: Source, places: Triple, regions: Sequence[int], backend: str) -> Tensor:
    if backend == "reference":
        logits = source.logits(0, source.values.shape[1])
        on_device = [place.to(logits.device) for place in places]
        if regions:
            return reference.regions(logits, on_device, regions)
        return reference.argmax(logits, on_device)
    if backend == "triton":
        from medseg_kernels.pruned_export import triton as form  # noqa: PLC0415
    else:
        form = pruned
    return form.regions(source, places, regions) if regions else form.argmax(source, places)


def _check(side: int, place: Places) -> None:
    if int(place.left.min()) < 0 or int(place.left.max()) >= side:
        raise ValueError(f"places reach beyond the {side} source voxels of their axis")
    if bool((torch.diff(place.left) < 0).any()):
        raise ValueError("the `left` of places must never fall")


_NAME = "medseg::pruned_export"
torch.library.define(_NAME, torch.library.infer_schema(_export, mutates_args=()))
torch.library.impl(_NAME, "default", _export)
torch.library.register_fake(_NAME, _export_fake)
