"""torch's layers, with the fast kernels where these serve; names and shapes of weights stay."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from medseg.nn import small_maps
from medseg.nn.kernels import Kernels
from medseg_kernels.convolution import chosen, convolution
from medseg_kernels.instance_norm import instance_norm
from medseg_kernels.instance_norm import refuses as refuses_norm
from medseg_kernels.linear import linear
from medseg_kernels.linear import refuses as refuses_linear


class Conv3d(small_maps.Conv3d):
    """A convolution; with step 1 and of the same size it may come out channels last."""

    kernels: Kernels = "fast"

    def forward(self, input: Float[Tensor, "b c i j k"]) -> Float[Tensor, "b d i2 j2 k2"]:  # noqa: A002
        """The convolved map."""
        if self.kernels == "fast" and self._keeps_size():
            if set(self.kernel_size) == {1}:
                voxels, matrix = input.movedim(1, -1), self.weight.flatten(1)
                if refuses_linear(voxels, matrix) is None:
                    return linear(voxels, matrix, self.bias).movedim(-1, 1)
            if chosen(input, self.weight) != "torch":
                return convolution(input, self.weight, self.bias)
        return super().forward(input)

    def _keeps_size(self) -> bool:
        same = tuple(side // 2 for side in self.kernel_size)
        return (
            self.padding == same
            and self.padding_mode == "zeros"
            and all(side % 2 for side in self.kernel_size)
            and {*self.stride, *self.dilation, self.groups} == {1}
        )


class InstanceNorm3d(nn.InstanceNorm3d):
    """Instance norm, and in the same pass a sum and leaky ReLU."""

    kernels: Kernels = "fast"

    def forward(
        self,
        input: Float[Tensor, "b c i j k"],  # noqa: A002
        residual: Float[Tensor, "b c i j k"] | None = None,
        slope: float | None = None,
    ) -> Float[Tensor, "b c i j k"]:
        """leaky_relu(norm(input) + residual)."""
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
                    overwrite=False,
                    backend=backend,
                )
        y = super().forward(input)
        if residual is not None:
            y = y + residual
        return y if slope is None else functional.leaky_relu(y, slope)


class Linear(nn.Linear):
    """Every row of numbers times a matrix."""

    kernels: Kernels = "fast"

    def forward(self, input: Float[Tensor, "*b c"]) -> Float[Tensor, "*b d"]:  # noqa: A002
        """The rows mixed."""
        backend = None if self.kernels == "fast" else "torch"
        return linear(input, self.weight, self.bias, backend=backend)


def drop_in(network: nn.Module) -> None:
    """Make torch's own layers of `network` those of this module, in place."""
    ours = {nn.Conv3d: Conv3d, nn.InstanceNorm3d: InstanceNorm3d, nn.Linear: Linear}
    for module in network.modules():
        module.__class__ = ours.get(type(module), type(module))
