"""Which device a setting means."""

from __future__ import annotations

import torch

from auditor.base.errors import AuditorError


def device_named(name: str) -> torch.device:
    """The device for `auto` (the GPU where there is a usable one), `cpu`, `cuda` or `cuda:N`.

    AuditorError for another name, and where a GPU is asked for that is not there.
    """
    available = torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda" if available else "cpu")
    if name.split(":")[0] not in ("cpu", "cuda"):
        raise AuditorError(f"“{name}” is not a device.", "Choose auto, cpu or cuda.")
    if name != "cpu" and not available:
        raise AuditorError("This machine has no usable NVIDIA GPU.", "Choose the device auto or cpu.")
    return torch.device(name)
