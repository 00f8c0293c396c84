"""What of a network is averaged over windows: its logits, or the features before its last layer.

A last layer that is a 1x1x1 convolution is linear, and so is the average, so it may as well be
applied once, after it. Where it has fewer input channels than classes that is less to hold.
"""

import copy
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medseg.inference.settings import Blended
from medseg.nn.convolution import Pointwise

# Layers that may be 1x1x1 convolutions.
LINEAR = (nn.Conv3d, nn.ConvTranspose3d, Pointwise)

Network = Callable[[Tensor], Tensor]


class Blend(Protocol):
    """A network as the walk of windows sees it: it runs `forwards` times a window.

    `channels` are averaged over windows, and `out_channels` logits come of them, by the weight
    (out, f) and bias (out) of `head` if there is one. A logit is at most `gain` times as large as
    they are (or as 1, where they are smaller).
    """

    forwards: int
    channels: int
    out_channels: int
    gain: float
    head: tuple[Tensor, Tensor] | None

    def once(self, windows: Float[Tensor, "b c i j k"]) -> Tensor:
        """One forward of one network."""
        ...

    def run(self, windows: Float[Tensor, "b c i j k"]) -> Float[Tensor, "b f i j k"]:
        """What is averaged over windows, float32."""
        ...

    def finish(
        self,
        mean: Float[Tensor, "f i j k"],
        *,
        out: Float[Tensor, "out i j k"],
        only: int | None = None,
    ) -> None:
        """Write the logits of the average to `out`, float32; of one channel where `only` is."""
        ...


@dataclass(frozen=True)
class Mirroring:
    """Mirrorings of a window to be averaged: all combinations of `axes` (0 i, 1 j, 2 k).

    i runs from left to right: mirrored along it, the output `channels` change places too.
    """

    axes: tuple[int, ...] = ()
    channels: tuple[int, ...] = ()

    @property
    def ways(self) -> list[tuple[int, ...]]:
        """The axes that are mirrored, of each forward; none of them first."""
        axes = sorted(set(self.axes))
        return [way for size in range(len(axes) + 1) for way in itertools.combinations(axes, size)]

    def swaps(self, way: Sequence[int]) -> bool:
        """Whether output channels change places in this one."""
        return 0 in way and list(self.channels) != sorted(self.channels)


class BlendLogits:
    """The mean of the logits of all `models` and mirrorings."""

    def __init__(self, models: Sequence[Network], mirroring: Mirroring, *, channels: int) -> None:
        self.channels = self.out_channels = channels
        self.gain = 1.0
        self.head: tuple[Tensor, Tensor] | None = None
        self.models = tuple(models)
        self.mirroring = mirroring
        self.forwards = len(self.models) * len(mirroring.ways)

    def once(self, windows: Float[Tensor, "b c i j k"]) -> Tensor:
        """Logits of the first network."""
        return self.models[0](windows)

    def run(self, windows: Float[Tensor, "b c i j k"]) -> Float[Tensor, "b f i j k"]:
        """Logits, averaged."""
        total: Tensor | None = None
        for model, way in itertools.product(self.models, self.mirroring.ways):
            logits = _seen_in_a_mirror(model, windows, way)
            if self.mirroring.swaps(way):
                logits = logits[:, list(self.mirroring.channels)]
            # What a network gives is not written to: it may keep it.
            total = logits if total is None else total + logits
        assert total is not None
        return total if self.forwards == 1 else total.div_(self.forwards)

    def finish(
        self,
        mean: Float[Tensor, "f i j k"],
        *,
        out: Float[Tensor, "out i j k"],
        only: int | None = None,
    ) -> None:
        """The logits as they are."""
        out.copy_(mean if only is None else mean[only : only + 1])


class BlendFeatures:
    """The mean of the input of the last layer, and that layer afterwards.

    Each model has a head of its own, so the features of each stand side by side; and those of
    mirrorings that swap channels apart from the others, for their head's rows are swapped.
    """

    def __init__(self, parts: Sequence["Parts"], mirroring: Mirroring) -> None:
        self.trunks = tuple(part.trunk for part in parts)
        self.mirroring = mirroring
        ways = len(mirroring.ways)
        self.swapped = sum(map(mirroring.swaps, mirroring.ways))
        self.forwards = len(parts) * ways
        banks = [(part.weight, part.bias, (ways - self.swapped) / ways) for part in parts]
        if self.swapped:
            order = list(mirroring.channels)
            banks = [
                bank
                for weight, bias, share in banks
                for bank in (
                    (weight, bias, share),
                    (weight[order], bias[order], self.swapped / ways),
                )
            ]
        # A bank holds the mean over its own ways; the heads weigh it by their share of all.
        self.weight = torch.cat([w * (share / len(parts)) for w, _, share in banks], dim=1)
        self.out_channels, self.channels = self.weight.shape
        self.bias = torch.stack([b * (share / len(parts)) for _, b, share in banks]).sum(dim=0)
        self.head: tuple[Tensor, Tensor] | None = (self.weight, self.bias)
        self.gain = float((self.weight.abs().sum(dim=1) + self.bias.abs()).max())

    def once(self, windows: Float[Tensor, "b c i j k"]) -> Tensor:
        """Features of the first network."""
        return self.trunks[0](windows)

    def run(self, windows: Float[Tensor, "b c i j k"]) -> Float[Tensor, "b f i j k"]:
        """Features, averaged in their banks."""
        banks = []
        for trunk in self.trunks:
            kept: dict[bool, Tensor] = {}
            for way in self.mirroring.ways:
                features = _seen_in_a_mirror(trunk, windows, way)
                swaps = self.mirroring.swaps(way)
                kept[swaps] = kept[swaps] + features if swaps in kept else features
            ways = len(self.mirroring.ways)
            for swaps, total in sorted(kept.items()):
                count = self.swapped if swaps else ways - self.swapped
                banks.append(total if count == 1 else total.div_(count))
        return banks[0] if len(banks) == 1 else torch.cat(banks, dim=1)

    def finish(
        self,
        mean: Float[Tensor, "f i j k"],
        *,
        out: Float[Tensor, "out i j k"],
        only: int | None = None,
    ) -> None:
        """The heads' logits of the averaged features."""
        features = mean.new_empty((self.channels + 1, mean[0].numel()), dtype=torch.float32)
        features[:-1].view(mean.shape).copy_(mean)
        # A channel of ones takes the bias along.
        features[-1] = 1
        matrix = torch.cat([self.weight, self.bias[:, None]], dim=1).to(mean.device)
        matrix = matrix if only is None else matrix[only : only + 1]
        torch.mm(matrix, features, out=out.view(len(matrix), -1))


@dataclass(frozen=True)
class Parts:
    """A network without its last layer, and the weight and bias of that layer, float32."""

    trunk: nn.Module
    weight: Float[Tensor, "out f"]
    bias: Float[Tensor, " out"]


def blend_of(
    models: Sequence[nn.Module],
    mirroring: Mirroring,
    *,
    out_channels: int,
    input_shape: tuple[int, ...],
    blended: Blended = "auto",
) -> Blend:
    """What holds fewer channels: the logits of `models`, or their features if all have a head.

    `input_shape` (b, c, i, j, k) is one they take.
    """
    logits = BlendLogits(models, mirroring, channels=out_channels)
    parts = []
    for model in models if blended == "auto" else ():
        part = without_head(model, input_shape)
        if part is None:
            return logits
        parts.append(part)
    features = BlendFeatures(parts, mirroring) if parts else logits
    return features if features.channels < out_channels else logits


def without_head(model: nn.Module, input_shape: tuple[int, ...]) -> Parts | None:
    """`model` cut before its last layer, or None if that is no 1x1x1 convolution.

    Found by running it on the meta device, without arithmetic: the last layer is the one whose
    result is the very tensor that the model returns. The cut one shares all weights.
    """
    calls: list[tuple[str, Tensor, int]] = []
    hooks = [
        module.register_forward_hook(_kept_under(name, calls))
        for name, module in model.named_modules()
        if isinstance(module, LINEAR) and name
    ]
    meta = torch.device("meta")
    tensors = itertools.chain(model.named_parameters(), model.named_buffers())
    try:
        with torch.no_grad():
            output = torch.func.functional_call(
                model,
                {name: tensor.to(meta) for name, tensor in tensors},
                (torch.empty(input_shape, device=meta),),
                # A layer that stands under two names would not get its own tensors back.
                tie_weights=False,
            )
    except (RuntimeError, NotImplementedError, TypeError):
        # A network that keeps tensors of its own on another device is walked by its logits.
        return None
    finally:
        for hook in hooks:
            hook.remove()
    # Not if it was written to afterwards, by an activation in place, say.
    names = [name for name, result, was in calls if result is output and _version(result) == was]
    return _cut(model, names[0]) if len(names) == 1 else None


def _cut(model: nn.Module, name: str) -> Parts | None:
    head = model.get_submodule(name)
    found = _matrix(head)
    if found is None:
        return None
    tensors = itertools.chain(model.parameters(), model.buffers())
    trunk = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    parent, _, last = name.rpartition(".")
    setattr(trunk.get_submodule(parent), last, nn.Identity())
    weight, bias = found
    weight = weight.detach().float()
    bias = weight.new_zeros(len(weight)) if bias is None else bias.detach().float()
    return Parts(trunk, weight, bias)


def _matrix(head: nn.Module) -> tuple[Tensor, Tensor | None] | None:
    """The matrix (out, f) and the bias of a layer that mixes the channels of each voxel alone."""
    if isinstance(head, Pointwise):
        return head.weight.flatten(1), head.bias
    assert isinstance(head, (nn.Conv3d, nn.ConvTranspose3d))
    ones, zeros = (*head.kernel_size, *head.stride), (*head.padding, *head.output_padding)
    if head.groups != 1 or set(ones) != {1} or set(zeros) != {0}:
        return None
    matrix = head.weight.flatten(1)
    return (matrix.T if isinstance(head, nn.ConvTranspose3d) else matrix), head.bias


def _kept_under(name: str, calls: list[tuple[str, Tensor, int]]) -> Callable:
    def hook(_module: nn.Module, _given: object, result: Tensor) -> None:
        calls.append((name, result, _version(result)))

    return hook


def _version(tensor: Tensor) -> int:
    """How often a tensor was written to."""
    return tensor._version  # noqa: SLF001 (torch has no other name for it)


def _seen_in_a_mirror(model: Network, windows: Tensor, way: Sequence[int]) -> Tensor:
    axes = [axis + 2 for axis in way]
    if not axes:
        return model(windows).float()
    return model(windows.flip(axes)).float().flip(axes)
