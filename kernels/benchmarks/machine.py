"""The machine a benchmark ran on, for the line above its table."""

import platform
from pathlib import Path

import torch


def machine() -> str:
    """Processor, threads, torch, and the CUDA device if there is one."""
    cpuinfo = Path("/proc/cpuinfo")
    name = platform.processor() or platform.machine()
    if cpuinfo.is_file():
        lines = cpuinfo.read_text().splitlines()
        name = next((s.split(":")[1].strip() for s in lines if s.startswith("model name")), name)
    device = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{name}, {torch.get_num_threads()} thread(s), torch {torch.__version__}{device}"
