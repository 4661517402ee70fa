"""Where a model runs: on the CPU, or on a GPU that is asked for and can."""

import importlib.util
from typing import Literal

import torch

from branchwork.kernels import api as kernels
from branchwork.runtime.models.config import ModelConfig
from branchwork.runtime.wire.errors import ConfigError

MIN_CAPABILITY = (8, 0)
"""What the kernels are compiled for: sm_80 and later."""


def device_for(choice: Literal["auto", "cpu", "cuda"], config: ModelConfig) -> torch.device:
    """The device that `--device` means for a model. Raises ConfigError where it asks for a GPU in vain.

    "auto" is the CPU also beside a GPU: its way is proved on the CPU alone (docs/kernels.md), and taken on request.
    """
    if choice != "cuda":
        return torch.device("cpu")
    obstacle = gpu_obstacle(config)
    if obstacle is not None:
        raise ConfigError(f"--device cuda: {obstacle}")
    return torch.device("cuda")


def gpu_obstacle(config: ModelConfig) -> str | None:
    """Why a model cannot run on a GPU here, in words; None: it can."""
    if not torch.cuda.is_available():
        return "there is no GPU here that torch can use"
    capability = torch.cuda.get_device_capability()
    if capability < MIN_CAPABILITY:
        found = ".".join(map(str, capability))
        return f"the kernels need compute capability 8.0, this GPU has {found}"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if config.head_dim not in kernels.HEAD_DIMS:
        known = ", ".join(map(str, kernels.HEAD_DIMS))
        return f"the kernels take heads of {known}, this model has {config.head_dim}"
    return None
