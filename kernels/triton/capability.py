"""What a device can do, by which the tuning is chosen."""

from functools import cache

import torch


@cache
def capability_of(device: torch.device) -> int:
    """80 for sm_80, and so on; in the interpreter, what the tuning was chosen for."""
    if device.type != "cuda":
        return 90
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor
