"""The place of an array in the patient: its shape and the map from voxels to millimetres."""

from dataclasses import dataclass

import numpy as np

from medseg.fault import InputFault

LONGEST_SIDE = 32_767
SCANNER = 1
SPACING_RANGE_MM = (1e-3, 1e3)
LARGEST_SHEAR = 1e-3
AXIS_NAMES = (("L", "R"), ("P", "A"), ("I", "S"))


@dataclass(frozen=True, eq=False)
class Grid:
    """Shape (i, j, k) and `affine`, the 4x4 map of voxel indices to RAS millimetres.

    `space` says what the millimetres are counted in, by NIfTI's codes: 1 the scanner's, 2 another
    scan's, 3 Talairach's, 4 MNI 152's, 5 a template's. It goes on to what is written, and grids
    are not told apart by it.

    A grid that cannot be a patient's is refused at birth: a side below 1 voxel, a number that is
    not finite, a singular or sheared affine (shear above 1e-3), a spacing out of 0.001..1000 mm.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray
    space: int = SCANNER

    def __post_init__(self) -> None:
        affine = np.array(self.affine, dtype=np.float64)
        affine.flags.writeable = False
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "shape", tuple(int(side) for side in self.shape))
        _refuse_shape(self.shape)
        _refuse_affine(affine)

    @classmethod
    def from_spacing(
        cls,
        shape: tuple[int, int, int],
        spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
        origin_ras_mm: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> "Grid":
        """An axis-aligned RAS grid."""
        affine = np.diag([*spacing_mm, 1.0])
        affine[:3, 3] = origin_ras_mm
        return cls(shape, affine)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size along i, j, k."""
        i, j, k = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(i), float(j), float(k)

    @property
    def origin_ras_mm(self) -> np.ndarray:
        """Centre of voxel (0, 0, 0)."""
        return self.affine[:3, 3]

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of one voxel."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    @property
    def axis_codes(self) -> str:
        """The patient direction nearest to each array axis, such as "RAS" or "LPS"."""
        axes, signs = self.nearest_axes()
        return "".join(AXIS_NAMES[axis][sign > 0] for axis, sign in zip(axes, signs, strict=True))

    def nearest_axes(self) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """For each array axis the nearest world axis (0 R, 1 A, 2 S) and its sign.

        The assignment is one to one: the largest direction cosine is settled first.
        """
        cosines = self.affine[:3, :3] / np.asarray(self.spacing_mm)
        left = np.abs(cosines)
        axes, signs = [0, 0, 0], [1, 1, 1]
        for _ in range(3):
            world, array = np.unravel_index(int(np.argmax(left)), left.shape)
            axes[array] = int(world)
            signs[array] = 1 if cosines[world, array] > 0 else -1
            left[world, :] = -1.0
            left[:, array] = -1.0
        return (axes[0], axes[1], axes[2]), (signs[0], signs[1], signs[2])

    def voxel_to_world(self, points: np.ndarray) -> np.ndarray:
        """RAS millimetres of voxel coordinates, both of shape (n, 3)."""
        return points @ self.affine[:3, :3].T + self.affine[:3, 3]

    def world_to_voxel(self, points_ras_mm: np.ndarray) -> np.ndarray:
        """Voxel coordinates of RAS millimetres, both of shape (n, 3)."""
        return (points_ras_mm - self.affine[:3, 3]) @ np.linalg.inv(self.affine[:3, :3]).T

    def corners_ras_mm(self) -> np.ndarray:
        """The eight corner voxels' centres, shape (8, 3)."""
        last = np.asarray(self.shape) - 1
        corners = np.array([[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)])
        return self.voxel_to_world(corners * last)

    def difference(self, other: "Grid", *, tolerance_mm: float = 1e-2) -> str | None:
        """What keeps the two grids apart, as part of a sentence; None where they agree."""
        if self.shape != other.shape:
            return f"{shown(self.shape)} voxels against {shown(other.shape)}"
        if self.axis_codes != other.axis_codes:
            return f"orientation {self.axis_codes} against {other.axis_codes}"
        farthest_mm = float(np.abs(self.corners_ras_mm() - other.corners_ras_mm()).max())
        if farthest_mm > tolerance_mm:
            return f"corners up to {farthest_mm:.3g} mm apart"
        return None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Grid):
            return NotImplemented
        return self.shape == other.shape and bool(np.array_equal(self.affine, other.affine))

    def __hash__(self) -> int:
        return hash((self.shape, self.affine.tobytes()))


def shown(shape: tuple[int, ...]) -> str:
    """A shape as people write it: 35x51x35."""
    return "x".join(str(side) for side in shape)


def _refuse_shape(shape: tuple[int, ...]) -> None:
    if len(shape) != 3:
        raise InputFault(
            f"grid of {len(shape)} axes {shape}: a volume has three; split the file first.",
            code="E_NDIM",
        )
    if min(shape) < 1 or max(shape) > LONGEST_SIDE:
        raise InputFault(
            f"grid of {shown(shape)} voxels: each side lies between 1 and {LONGEST_SIDE}; "
            "the header of the file is damaged.",
            code="E_DIM",
        )


def _refuse_affine(affine: np.ndarray) -> None:
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        raise InputFault(
            f"affine {affine.tolist()}: it must be 4x4 and finite; the header is damaged.",
            code="E_AFFINE",
        )
    if not np.array_equal(affine[3], (0, 0, 0, 1)):
        raise InputFault(
            f"affine's last row is {affine[3].tolist()}; it is 0, 0, 0, 1. The header is damaged.",
            code="E_AFFINE",
        )
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    low, high = SPACING_RANGE_MM
    if spacing.min() < low or spacing.max() > high:
        raise InputFault(
            f"spacing {[float(f'{s:.4g}') for s in spacing]} mm: each lies between {low} and "
            f"{high} mm; check the units in the header.",
            code="E_PIXDIM",
        )
    cosines = affine[:3, :3] / spacing
    if abs(np.linalg.det(cosines)) < 1e-6:
        raise InputFault(
            "affine is singular (two array axes point the same way); the header is damaged.",
            code="E_AFFINE",
        )
    shear = np.abs(cosines.T @ cosines - np.eye(3)).max()
    if shear > LARGEST_SHEAR:
        raise InputFault(
            f"affine is sheared ({shear:.2g}; at most {LARGEST_SHEAR} is rounding); "
            "resample the volume onto a grid with right angles first.",
            code="E_SHEAR",
        )
