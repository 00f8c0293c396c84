"""Which sizes SegMamba takes; without torch, so that a recipe can be checked fast."""

from medseg.models.shape import ShapePolicy

# What the authors' code takes for the number of slices at each stage.
THEIR_SLICES = (64, 32, 16, 8)


def shape_policy(*, faithful: bool) -> ShapePolicy:
    """Halved four times, two voxels at least on the coarsest map.

    With `faithful` its 8 slices have to divide that map's voxels, which even sides see to.
    """
    side = 32 if faithful else 16
    sides = (side, side, side)
    return ShapePolicy(divisor=sides, minimum=sides, voxels=2 * 16**3)
