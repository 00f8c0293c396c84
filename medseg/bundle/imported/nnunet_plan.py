"""An nnU-Net plans file and data set file, told as medseg's task, preprocessing and network."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from medseg.fault import InputFault
from medseg.preprocess.geometry import Axes, Orientation
from medseg.preprocess.normalise import Normalisation
from medseg.preprocess.record import Preprocessing, Spacing
from medseg.volume import Task
from medseg.volume.labels import LabelTable
from medseg.volume.target import Region, Target

# The readers that give volumes, and whether they turn them to RAS. All give axes as k, j, i.
READERS: Mapping[str, Orientation] = {
    "SimpleITKIO": "stored",
    "NibabelIO": "stored",
    "SimpleITKIOWithReorient": "RAS",
    "NibabelIOWithReorient": "RAS",
}
STORED_ORDER = (2, 1, 0)
CUBIC = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}
LINEAR = {**CUBIC, "order": 1}
DEFAULT, NOTHING = "resample_data_or_seg_to_shape", "no_resampling_hack"
IMAGES, LOGITS = "resampling_fn_data", "resampling_fn_probabilities"
# Before 2.2 a network was told by these, and by nothing that could be imported.
OLD_BLOCKS = {"PlainConvUNet": "n_conv_per_stage", "ResidualEncoderUNet": "n_blocks_per_stage"}


@dataclass(frozen=True, eq=False)
class NnUNetPlan:
    """One configuration of a plans file; `previous` names that of a cascade's first stage."""

    configuration: str
    task: Task
    preprocessing: Preprocessing
    architecture: str
    arguments: Mapping[str, Any]
    previous: str | None

    def model_section(self, *, batch_norm: bool) -> dict[str, Any]:
        """The network as a bundle keeps it; `batch_norm` if its trainer chose that instead."""
        arguments = dict(self.arguments)
        if batch_norm:
            dims = str(arguments["conv_op"])[-2:]
            arguments["norm_op"] = f"torch.nn.BatchNorm{dims}"
            arguments["norm_op_kwargs"] = {"eps": 1e-5, "affine": True}
        return {
            "name": "nnunet_plan",
            "architecture": self.architecture,
            "arguments": arguments,
        }

    def model_axes(self, mirroring: tuple[int, ...]) -> tuple[int, ...]:
        """Mirroring axes of the checkpoint, counted on the three axes of the model."""
        flat = self.task.patch_size[0] == 1 and str(self.arguments["conv_op"]).endswith("2d")
        return tuple(axis + 1 if flat else axis for axis in mirroring)


def plan_of(plans: Mapping[str, Any], dataset: Mapping[str, Any], configuration: str) -> NnUNetPlan:
    """What `plans` and `dataset` say about `configuration`.

    Raises:
        InputFault: something is missing, or medseg has no equal for it (E_PLANS).
    """
    try:
        return _plan_of(plans, dataset, configuration)
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        if isinstance(error, InputFault):
            raise
        raise InputFault(
            f"plans.json or dataset.json, configuration {configuration}: {error!r}; it is not "
            "what nnU-Net v2 writes. Copy both files again.",
            code="E_PLANS",
        ) from error


def _plan_of(
    plans: Mapping[str, Any], dataset: Mapping[str, Any], configuration: str
) -> NnUNetPlan:
    settings = _inherited(plans["configurations"], configuration)
    target = _target(dataset)
    previous = settings.get("previous_stage")
    a, b, c = (STORED_ORDER[int(axis)] for axis in plans["transpose_forward"])
    channels = _channels(dataset)
    _, middle_mm, last_mm = spacing = _three(settings["spacing"], fill=None)
    median = plans.get("original_median_spacing_after_transp") or [1.0]
    first_mm = spacing[0] if spacing[0] is not None else float(median[0])
    i, j, k = _three(settings["patch_size"], fill=1)
    architecture, arguments = _network(settings)
    return NnUNetPlan(
        configuration=configuration,
        task=Task(
            channels=channels,
            target=target,
            spacing_mm=(first_mm, cast("float", middle_mm), cast("float", last_mm)),
            patch_size=(int(i), int(j), int(k)),
            stage_labels=target.labels.values if previous else (),
        ),
        preprocessing=Preprocessing(
            spacing_mm=_resampled_to(settings, spacing),
            normalisation=_normalisation(settings, plans, len(channels)),
            crop="nonzero",
            orientation=_orientation(str(plans["image_reader_writer"])),
            axes=cast("Axes", (a, b, c)),
        ),
        architecture=architecture,
        arguments=arguments,
        previous=previous,
    )


def _inherited(configurations: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A configuration with what it inherits, nearest first."""
    settings: dict[str, Any] = {}
    visited: list[str] = []
    while name not in visited:
        if name not in configurations:
            raise InputFault(
                f"plans.json: it has no configuration {name}; it has {', '.join(configurations)}.",
                code="E_PLANS",
            )
        visited.append(name)
        settings = {**configurations[name], **settings}
        if "inherits_from" not in configurations[name]:
            return settings
        name = configurations[name]["inherits_from"]
    raise InputFault(
        f"plans.json: configurations {', '.join(visited)} inherit from each other.", code="E_PLANS"
    )


def _three(values: list, *, fill: float | None) -> tuple[Any, Any, Any]:
    """Three values; a configuration of planes tells two, and `fill` stands for the first axis."""
    first, second, third = values if len(values) == 3 else (fill, *values)
    return first, second, third


def _channels(dataset: Mapping[str, Any]) -> tuple[str, ...]:
    told = dataset["channel_names"] if "channel_names" in dataset else dataset["modality"]
    names = [str(told[number]) for number in sorted(told, key=int)]
    return tuple(
        name if names.count(name) == 1 else f"{name}_{place}" for place, name in enumerate(names)
    )


def _target(dataset: Mapping[str, Any]) -> Target:
    told = {name: value for name, value in dataset["labels"].items() if name != "ignore"}
    values = {name: _values(value) for name, value in told.items()}
    foreground = {name: value for name, value in values.items() if set(value) != {0}}
    everything = sorted({0}.union(*values.values()))
    if everything != list(range(len(everything))) or any(0 in one for one in foreground.values()):
        raise InputFault(
            f"dataset.json: its labels are {everything}; nnU-Net takes whole numbers from 0 "
            "(background, in no region) without a gap.",
            code="E_PLANS",
        )
    alone = {value[0]: name for name, value in foreground.items() if len(value) == 1}
    table = LabelTable.from_names(
        {value: alone.get(value, f"label {value}") for value in everything}
    )
    if all(len(value) == 1 for value in foreground.values()):
        return Target(table)
    order = [int(value) for value in dataset["regions_class_order"]]
    regions = tuple(
        Region(name, members, value)
        for (name, members), value in zip(foreground.items(), order, strict=True)
    )
    return Target(table, regions)


def _values(told: int | list[int]) -> tuple[int, ...]:
    return tuple(int(value) for value in told) if isinstance(told, list) else (int(told),)


def _orientation(reader: str) -> Orientation:
    if reader not in READERS:
        raise InputFault(
            f"plans.json: its images are read by {reader}; medseg predicts volumes that are read "
            f"by {', '.join(READERS)}.",
            code="E_PLANS",
        )
    return READERS[reader]


def _resampled_to(settings: Mapping[str, Any], spacing: Spacing) -> Spacing | None:
    """The spacing that images are brought to; None where the plans resample nothing."""
    names = {settings.get(IMAGES, DEFAULT), settings.get(LOGITS, DEFAULT)}
    if names == {NOTHING}:
        return None
    kwargs = {
        what: {**usual, **settings.get(f"{what}_kwargs", {})}
        for what, usual in ((IMAGES, CUBIC), (LOGITS, LINEAR))
    }
    if names != {DEFAULT} or kwargs != {IMAGES: CUBIC, LOGITS: LINEAR}:
        raise InputFault(
            f"plans.json: it resamples by {', '.join(sorted(map(str, names)))} with {kwargs}; "
            f"medseg has nnU-Net's default ({DEFAULT}, order 3 for images and 1 for logits, 0 "
            f"across thick slices) and {NOTHING}.",
            code="E_PLANS",
        )
    return spacing


def _normalisation(
    settings: Mapping[str, Any], plans: Mapping[str, Any], channels: int
) -> tuple[Normalisation, ...]:
    told = plans.get("foreground_intensity_properties_per_channel") or plans.get(
        "foreground_intensity_properties_by_modality", {}
    )
    schemes, masked = settings["normalization_schemes"], settings["use_mask_for_norm"]
    if len(schemes) < channels or len(masked) < channels:
        raise InputFault(
            f"plans.json: it normalizes {len(schemes)} channels and dataset.json names "
            f"{channels}; the two are of different data sets.",
            code="E_PLANS",
        )
    return tuple(
        _one_normalisation(schemes[n], told.get(str(n), {}), masked=bool(masked[n]))
        for n in range(channels)
    )


def _one_normalisation(scheme: str, facts: Mapping[str, float], *, masked: bool) -> Normalisation:
    if scheme == "ZScoreNormalization":
        return Normalisation("zscore_inside" if masked else "zscore")
    if scheme == "CTNormalization":
        return Normalisation(
            "ct",
            lower=float(facts["percentile_00_5"]),
            upper=float(facts["percentile_99_5"]),
            mean=float(facts["mean"]),
            std=float(facts["std"]),
        )
    if scheme == "RGBTo01Normalization":
        return Normalisation("range", lower=0.0, upper=255.0)
    if scheme == "RescaleTo01Normalization":
        return Normalisation("full_range")
    if scheme == "NoNormalization":
        return Normalisation("none")
    raise InputFault(
        f"plans.json: normalization {scheme} is not one of nnU-Net's own, so medseg cannot do it.",
        code="E_PLANS",
    )


def _network(settings: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The class of the network, without its module, and its arguments."""
    told = settings.get("architecture")
    if told is not None:
        name = str(told["network_class_name"]).rpartition(".")[2]
        return name, dict(told["arch_kwargs"])
    name = settings["UNet_class_name"]
    if name not in OLD_BLOCKS:
        raise InputFault(
            f"plans.json: its network is {name}; of plans before nnU-Net 2.2 medseg builds "
            f"{', '.join(OLD_BLOCKS)}.",
            code="E_PLANS",
        )
    dims = len(settings["patch_size"])
    blocks = settings["n_conv_per_stage_encoder"]
    base, most = settings["UNet_base_num_features"], settings["unet_max_num_features"]
    return name, {
        "n_stages": len(blocks),
        "features_per_stage": [min(base * 2**stage, most) for stage in range(len(blocks))],
        "conv_op": f"torch.nn.Conv{dims}d",
        "kernel_sizes": settings["conv_kernel_sizes"],
        "strides": settings["pool_op_kernel_sizes"],
        OLD_BLOCKS[name]: blocks,
        "n_conv_per_stage_decoder": settings["n_conv_per_stage_decoder"],
        "conv_bias": True,
        "norm_op": f"torch.nn.InstanceNorm{dims}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
