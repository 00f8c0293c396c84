"""What to train with: nnU-Net's published rules, from a data set's fingerprint to a plan.

Isensee et al., nnU-Net (Nature Methods 2021), supplementary note on the rule-based parameters, and
nnU-Net Revisited (MICCAI 2024) for the residual-encoder presets; numbers as in nnunetv2 2.8.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from medseg.data.facts import ChannelIntensities, Fingerprint
from medseg.data.patch_search import BASE_FEATURES, MAX_FEATURES, PRESETS, Network, PatchSearch
from medseg.fault import InputFault
from medseg.models.topology import Axes, Spacing, Topology

ANISOTROPY = 3
COARSE_AXIS_PERCENTILE = 10
MASKED_BELOW = 0.75


@dataclass(frozen=True)
class NetworkPlan:
    """The UNet of a plan, a number a stage from full resolution to the bottleneck.

    `blocks` are convolutions in a plain encoder and residual blocks in a residual one;
    `decoder_blocks` are convolutions, one number fewer than the stages.
    """

    kind: Network
    features: tuple[int, ...]
    strides: tuple[Axes, ...]
    kernel_sizes: tuple[Axes, ...]
    blocks: tuple[int, ...]
    decoder_blocks: tuple[int, ...]

    @property
    def pool_counts(self) -> Axes:
        """How often each axis is halved."""
        return Topology(self.strides, self.kernel_sizes).pool_counts


@dataclass(frozen=True)
class Plan:
    """Spacing, patch, batch, normalization and UNet for one data set; axes i, j, k (RAS).

    `normalisation` holds a mapping a channel: the arguments of preprocess' `Normalisation`.
    `median_shape` is in voxels of `spacing_mm`.
    """

    spacing_mm: Spacing
    patch_size: Axes
    batch_size: int
    normalisation: tuple[Mapping[str, Any], ...]
    crop: Literal["nonzero", "none"]
    median_shape: tuple[float, float, float]
    network: NetworkPlan

    def to_json(self) -> dict[str, Any]:
        """The plan as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Plan":
        """The plan that `to_json` wrote."""
        return cls(
            spacing_mm=_tupled(data["spacing_mm"]),
            patch_size=_tupled(data["patch_size"]),
            batch_size=data["batch_size"],
            normalisation=tuple(data["normalisation"]),
            crop=data["crop"],
            median_shape=_tupled(data["median_shape"]),
            network=NetworkPlan(**{key: _tupled(part) for key, part in data["network"].items()}),
        )


def plan(
    fingerprint: Fingerprint,
    *,
    network: Network = "plain",
    memory_gb: float | None = None,
    spacing_mm: Spacing | None = None,
    out_channels: int | None = None,
) -> Plan:
    """The plan for a data set and a `network` that is to train in `memory_gb` of a GPU.

    Where they are None, `memory_gb` is the preset's own (8 for plain and resenc_m, 24 for resenc_l,
    40 for resenc_xl), `spacing_mm` is by rule, and `out_channels` counts labels and background.

    Raises:
        InputFault: no patch fits the memory.
    """
    preset = PRESETS[network]
    spacing = spacing_mm or target_spacing_mm(fingerprint)
    median_shape = median_shape_at(fingerprint, spacing)
    order = _order_of_search(spacing)
    search = PatchSearch(
        spacing_mm=_taken(spacing, order),
        median_shape=_taken(median_shape, order),
        out_channels=out_channels or fingerprint.classes,
        preset=preset,
        memory_gb=memory_gb or preset.reference_gb,
    )
    found = search.largest_that_fits()
    if found is None:
        sides = " x ".join(f"{side:g}" for side in median_shape)
        raise InputFault(
            f"median shape {sides} voxels, memory_gb {search.memory_gb:g}: no patch that a UNet "
            "can halve fits both; give the plan a finer spacing_mm or more memory, or state "
            "patch_size and batch_size.",
            code="E_PLAN",
        )
    patch, form = found
    voxels = float(np.prod(median_shape)) * len(fingerprint.shapes)
    return Plan(
        spacing_mm=spacing,
        patch_size=_put_back(patch, order),
        batch_size=search.batch_size(patch, form, dataset_voxels=voxels),
        normalisation=normalisation_of(fingerprint),
        crop="nonzero",
        median_shape=median_shape,
        network=NetworkPlan(
            kind=network,
            features=form.features(base=BASE_FEATURES, most=MAX_FEATURES),
            strides=tuple(_put_back(stride, order) for stride in form.strides),
            kernel_sizes=tuple(_put_back(size, order) for size in form.kernel_sizes),
            blocks=preset.blocks_of(form),
            decoder_blocks=(preset.decoder_blocks,) * (form.stages - 1),
        ),
    )


def target_spacing_mm(fingerprint: Fingerprint) -> Spacing:
    """The median spacing, finer along an axis that is coarse in spacing and short in voxels.

    Coarse is three times the next coarsest axis, short a third of the shortest other one. Such an
    axis takes the tenth percentile of its spacings, but never less than the other axes have.
    """
    spacings = np.asarray(fingerprint.spacings_mm)
    # Percentile 50, not median: the two differ in the last bit, which a resampling would notice.
    target = np.percentile(spacings, 50, axis=0)
    shape = np.percentile(np.asarray(fingerprint.shapes), 50, axis=0)
    coarse = int(np.argmax(target))
    others = [axis for axis in range(3) if axis != coarse]
    next_coarsest = target[others].max()
    short = shape[coarse] * ANISOTROPY < shape[others].min()
    if target[coarse] > ANISOTROPY * next_coarsest and short:
        finer = np.percentile(spacings[:, coarse], COARSE_AXIS_PERCENTILE)
        target[coarse] = finer if finer >= next_coarsest else next_coarsest + 1e-5
    return float(target[0]), float(target[1]), float(target[2])


def median_shape_at(fingerprint: Fingerprint, spacing_mm: Spacing) -> tuple[float, float, float]:
    """The median shape that the cases have once they are resampled to `spacing_mm`."""
    shapes = [
        [round(mm / to * side) for mm, to, side in zip(source, spacing_mm, shape, strict=True)]
        for source, shape in zip(fingerprint.spacings_mm, fingerprint.shapes, strict=True)
    ]
    i, j, k = np.median(shapes, axis=0)
    return float(i), float(j), float(k)


def normalisation_of(fingerprint: Fingerprint) -> tuple[Mapping[str, Any], ...]:
    """What each channel is normalized with, by its name.

    CT is clipped to its foreground percentiles and scaled by its foreground statistics. Anything
    else is a z-score of each case, over the nonzero voxels where the crop takes off a quarter.
    """
    masked = fingerprint.median_relative_size < MASKED_BELOW
    return tuple(
        _normalisation_of_channel(name, numbers, masked=masked)
        for name, numbers in zip(fingerprint.channels, fingerprint.intensities, strict=True)
    )


def _normalisation_of_channel(
    name: str, numbers: ChannelIntensities, *, masked: bool
) -> Mapping[str, Any]:
    match name.casefold():
        case "ct":
            return {
                "kind": "ct",
                "lower": numbers.percentile_00_5,
                "upper": numbers.percentile_99_5,
                "mean": numbers.mean,
                "std": numbers.std,
            }
        case "nonorm":
            return {"kind": "none"}
        case "rescale_to_0_1":
            # nnU-Net takes each image's own range; the data set's foreground range is nearest.
            return {"kind": "range", "lower": numbers.minimum, "upper": numbers.maximum}
        case "rgb_to_0_1":
            return {"kind": "range", "lower": 0.0, "upper": 255.0}
        case _:
            return {"kind": "zscore_nonzero" if masked else "zscore"}


def _order_of_search(spacing_mm: Spacing) -> Axes:
    # Ties between axes go by their order, so the search runs in nnU-Net's own: k, j, i, as
    # SimpleITK hands arrays out, with the coarsest axis taken to the front.
    coarse = max((2, 1, 0), key=lambda axis: spacing_mm[axis])
    second, third = (axis for axis in (2, 1, 0) if axis != coarse)
    return coarse, second, third


def _taken(values: tuple[float, float, float], order: Axes) -> tuple[float, float, float]:
    first, second, third = (values[axis] for axis in order)
    return first, second, third


def _put_back(values: Axes, order: Axes) -> Axes:
    i, j, k = (values[order.index(axis)] for axis in range(3))
    return i, j, k


def _tupled(part: Any) -> Any:
    return tuple(_tupled(item) for item in part) if isinstance(part, list) else part
