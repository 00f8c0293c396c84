"""Without a CUDA device Triton's programs run in its interpreter: set before triton is imported."""

import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # noqa: TID251
