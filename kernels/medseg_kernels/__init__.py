"""Fused operations for volumetric networks; torch alone, and triton where it is chosen."""
