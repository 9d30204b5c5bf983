"""The versions and the hardware that a run's numbers depend on."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path

import torch

from manyseg.cores import available_cores

__all__ = ["environment"]

PACKAGES = ("manyseg", "torch", "torchvision", "timm", "accelerate", "transformers", "numpy", "scipy")


def environment() -> dict[str, str | int]:
    """Return versions, platform, CPU, thread count and GPUs, ready for a run folder's `environment.json`.

    There is no name of a host or a user in it, so that a run can be shared.
    """
    found: dict[str, str | int] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return found | {
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": available_cores(),
        "torch threads": torch.get_num_threads(),
        "gpu": ", ".join(gpus) or "none",
        "cuda": torch.version.cuda if gpus and torch.version.cuda else "not used",
    }


def _cpu() -> str:
    """Return the name of the processor, which `platform` does not know on Linux."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
