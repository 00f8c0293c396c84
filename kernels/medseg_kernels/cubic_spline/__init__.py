"""Cubic B-spline interpolation between grids of the same field of view, axis by axis."""

from medseg_kernels.cubic_spline.compiled import bounds, clamp, refuses, spline_along

__all__ = ["bounds", "clamp", "refuses", "spline_along"]
