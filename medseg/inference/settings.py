"""How a network is walked over a volume: all that a user may choose."""

from dataclasses import dataclass
from typing import Literal, get_args

from medseg.fault import InputFault
from medseg.nn.kernels import Kernels

WindowRule = Literal["monai", "nnunet"]
Precision = Literal["float32", "bf16", "fp16", "int8"]
Sums = Literal["auto", "float32", "float16"]
Blended = Literal["auto", "logits"]


@dataclass(frozen=True, kw_only=True)
class WalkSettings:
    """Windows of the task's patch, laid over the model's grid.

    `overlap` is the share of a window that the next one covers again (nnU-Net's step is 1 -
    overlap). `mirror_axes` (0 i, 1 j, 2 k) are mirrored at test time and averaged; along i, which
    runs from left to right, left and right labels change places unless `swap_sides` is False.
    `batch_size` windows run at a time. `windows` says by whose rule they stand and are weighted.
    `precision` is that of the network's arithmetic; int8 is for its larger convolutions alone, on
    a CPU. `max_ram` and `max_vram` are what the process may take, in bytes; None is what the
    machine has free. `sums` is the type of the sums over windows (auto: float16 only where float32
    does not fit), `blended` what is summed (auto: the last layer's input where it is smaller).
    `kernels` "reference" leaves the network to torch's own operations; None is what its recipe
    says.

    Raises:
        InputFault: an overlap below 0 or of 1 and more (E_OVERLAP), an axis other than 0, 1, 2
            (E_MIRROR), or another value that none of the rules name (E_USE).
    """

    overlap: float = 0.5
    mirror_axes: tuple[int, ...] = ()
    batch_size: int = 1
    windows: WindowRule = "monai"
    swap_sides: bool = True
    precision: Precision = "float32"
    sums: Sums = "auto"
    blended: Blended = "auto"
    kernels: Kernels | None = None
    max_ram: int | None = None
    max_vram: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < 1:
            raise InputFault(
                f"overlap {self.overlap}: the share of a window that its neighbor covers lies from "
                "0 up to, but not including, 1; 0.5 is usual.",
                code="E_OVERLAP",
            )
        if not set(self.mirror_axes) <= {0, 1, 2}:
            raise InputFault(
                f"mirror_axes {list(self.mirror_axes)}: the axes are 0 (left to right), 1 (back "
                "to front) and 2 (feet to head).",
                code="E_MIRROR",
            )
        for name, value, known in (
            ("windows", self.windows, get_args(WindowRule)),
            ("precision", self.precision, get_args(Precision)),
            ("sums", self.sums, get_args(Sums)),
            ("blended", self.blended, get_args(Blended)),
            ("kernels", self.kernels, get_args(Kernels)),
        ):
            if value is not None and value not in known:
                raise InputFault(
                    f"{name} {value!r} is not known; it is one of {', '.join(known)}.", code="E_USE"
                )
        for name in ("batch_size", "max_ram", "max_vram"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputFault(f"{name} {value}: it is a number above 0.", code="E_USE")

    @property
    def mirrors_sides(self) -> bool:
        """Whether left and right labels change places in some of the windows."""
        return self.swap_sides and 0 in self.mirror_axes
