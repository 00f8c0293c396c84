"""3D medical image segmentation: train, predict and evaluate from one recipe."""

__version__ = "0.1.0"
