"""torch's layers, with the fast kernels where these serve; names and shapes of weights stay."""

import math

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from medseg.nn import small_maps
from medseg.nn.kernels import Kernels
from medseg_kernels.convolution import chosen, convolution
from medseg_kernels.depthwise import chosen as chosen_depthwise
from medseg_kernels.depthwise import depthwise
from medseg_kernels.instance_norm import instance_norm
from medseg_kernels.instance_norm import refuses as refuses_norm
from medseg_kernels.linear import Norm, linear
from medseg_kernels.linear import refuses as refuses_linear


class Conv3d(small_maps.Conv3d):
    """A convolution; where the kernels serve it, it may come out channels last."""

    kernels: Kernels = "fast"

    def forward(self, input: Float[Tensor, "b c i j k"]) -> Float[Tensor, "b d i2 j2 k2"]:  # noqa: A002
        """The convolved map."""
        served = self._served(input) if self.kernels == "fast" and _is_centered(self) else None
        return super().forward(input) if served is None else served

    def _served(self, x: Tensor) -> Tensor | None:
        """What a kernel makes of the map, None where torch is to."""
        if _is_depthwise(self):
            return _convolved_apart(self, x)
        step = self.stride[0]
        if self.groups == 1 and set(self.kernel_size) == {1} and x.device.type == "cpu":
            # A product of matrices is several times as fast.
            voxels = x[:, :, ::step, ::step, ::step].movedim(1, -1)
            return linear(voxels, self.weight.flatten(1), self.bias).movedim(-1, 1)
        if self.groups == step == self.dilation[0] == 1 and chosen(x, self.weight) != "torch":
            return convolution(x, self.weight, self.bias)
        return None


class ConvTranspose3d(nn.ConvTranspose3d):
    """A transposed convolution; where the kernels serve it, it may come out channels last."""

    kernels: Kernels = "fast"

    def forward(
        self,
        input: Float[Tensor, "b c i j k"],  # noqa: A002
        output_size: list[int] | None = None,
    ) -> Float[Tensor, "b d i2 j2 k2"]:
        """The convolved map."""
        served = None
        if self.kernels == "fast" and output_size is None and not any(self.output_padding):
            served = self._served(input)
        return super().forward(input, output_size) if served is None else served

    def _served(self, x: Tensor) -> Tensor | None:
        """What a kernel makes of the map, None where torch is to."""
        if _is_depthwise(self):
            return _convolved_apart(self, x) if _is_centered(self) else None
        plain = self.groups == 1 and not any(self.padding) and set(self.dilation) == {1}
        if not plain or refuses_linear(x, self.weight.flatten(1).t()) is not None:
            return None
        if self.kernel_size == self.stride:
            return _unfolded(self, x)
        return _spread(self, x) if set(self.kernel_size) == {1} else None


class GroupNorm(nn.GroupNorm):
    """Group norm; with a group for each channel it is instance norm."""

    kernels: Kernels = "fast"

    def forward(self, input: Float[Tensor, "b c ..."]) -> Float[Tensor, "b c ..."]:  # noqa: A002
        """The normed map."""
        if self.kernels == "fast" and self.num_groups == self.num_channels and input.ndim == 5:
            affine, backend = self.weight is not None, "compiled"
            if refuses_norm(input, None, slope=None, affine=affine, backend=backend) is None:
                return instance_norm(
                    input, gain=self.weight, shift=self.bias, eps=self.eps, backend=backend
                )
        return super().forward(input)


class InstanceNorm3d(nn.InstanceNorm3d):
    """Instance norm, and in the same pass a sum and leaky ReLU."""

    kernels: Kernels = "fast"

    def forward(
        self,
        input: Float[Tensor, "b c i j k"],  # noqa: A002
        residual: Float[Tensor, "b c i j k"] | None = None,
        slope: float | None = None,
        *,
        overwrite: bool = False,
    ) -> Float[Tensor, "b c i j k"]:
        """leaky_relu(norm(input) + residual); with `overwrite` in the memory of the input, perhaps.

        The result is not to be written over: neither where it is rectified nor with `overwrite`.
        """
        if self.kernels == "fast" and not self.track_running_stats:
            affine, backend = self.weight is not None, "compiled"
            if refuses_norm(input, residual, slope=slope, affine=affine, backend=backend) is None:
                return instance_norm(
                    input,
                    gain=self.weight,
                    shift=self.bias,
                    residual=residual,
                    slope=slope,
                    eps=self.eps,
                    overwrite=overwrite,
                    backend=backend,
                )
        y = super().forward(input)
        if residual is not None:
            y = y.add_(residual)
        return y if slope is None else functional.leaky_relu_(y, slope)


class Linear(nn.Linear):
    """Every row of numbers times a matrix, in the same pass normed before that, or by GELU."""

    kernels: Kernels = "fast"

    def forward(
        self,
        input: Float[Tensor, "*b c"],  # noqa: A002
        norm: nn.LayerNorm | None = None,
        *,
        gelu: bool = False,
    ) -> Float[Tensor, "*b d"]:
        """The rows mixed."""
        return linear(
            input,
            self.weight,
            self.bias,
            norm=None if norm is None else Norm(norm.weight, norm.bias, norm.eps),
            gelu=gelu,
            backend=None if self.kernels == "fast" else "torch",
        )


def drop_in(network: nn.Module) -> None:
    """Make torch's own layers of `network` those of this module, in place."""
    ours = {
        nn.Conv3d: Conv3d,
        nn.ConvTranspose3d: ConvTranspose3d,
        nn.GroupNorm: GroupNorm,
        nn.InstanceNorm3d: InstanceNorm3d,
        nn.Linear: Linear,
    }
    for module in network.modules():
        module.__class__ = ours.get(type(module), type(module))


def _is_centered(layer: nn.Conv3d | nn.ConvTranspose3d) -> bool:
    """Whether an odd kernel reaches as far beyond both ends, with one step along all axes."""
    reach = tuple(side // 2 * layer.dilation[0] for side in layer.kernel_size)
    return (
        layer.padding == reach
        and layer.padding_mode == "zeros"
        and all(side % 2 for side in layer.kernel_size)
        and len(set(layer.stride)) == len(set(layer.dilation)) == 1
    )


def _is_depthwise(layer: nn.Conv3d | nn.ConvTranspose3d) -> bool:
    return 1 < layer.groups == layer.in_channels == layer.out_channels


def _unfolded(layer: nn.ConvTranspose3d, x: Tensor) -> Tensor:
    """A transposed convolution whose steps are its sides: each voxel becomes a cell of its own."""
    matrix = rearrange(layer.weight, "c o p q r -> (p q r o) c")
    bias = None if layer.bias is None else layer.bias.repeat(math.prod(layer.kernel_size))
    cells = linear(x.movedim(1, -1), matrix, bias)
    sides = dict(zip("pqr", layer.kernel_size, strict=True))
    pattern = "b i j k (p q r o) -> b (i p) (j q) (k r) o"
    return rearrange(cells, pattern, **sides).movedim(-1, 1)


def _spread(layer: nn.ConvTranspose3d, x: Tensor) -> Tensor:
    """A transposed convolution of side 1: between its steps there is the bias alone."""
    voxels = linear(x.movedim(1, -1), layer.weight.flatten(1).t(), layer.bias)
    (i, j, k), sides = layer.stride, zip(x.shape[2:], layer.stride, strict=True)
    size = [(side - 1) * step + 1 for side, step in sides]
    made = voxels.new_zeros((len(x), *size, voxels.shape[-1]))
    if layer.bias is not None:
        made = made + layer.bias
    made[:, ::i, ::j, ::k] = voxels
    return made.movedim(-1, 1)


def _convolved_apart(layer: nn.Conv3d | nn.ConvTranspose3d, x: Tensor) -> Tensor | None:
    """Each channel convolved by itself, where that is compiled."""
    steps = {"stride": layer.stride[0], "transposed": isinstance(layer, nn.ConvTranspose3d)}
    if chosen_depthwise(x, layer.weight, **steps) != "compiled":
        return None
    return depthwise(x, layer.weight, layer.bias, dilation=layer.dilation[0], **steps)
