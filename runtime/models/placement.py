"""Where a model runs: on the CPU, or on a GPU that is asked for and can."""

import importlib.util
from typing import Literal

import torch

from branchwork.kernels import api as kernels
from branchwork.runtime.models.config import ModelConfig
from branchwork.runtime.wire.errors import ConfigError

MIN_CAPABILITY = (8, 0)
"""What the kernels are compiled for: sm_80 and later."""


FP8_CAPABILITY = (8, 9)
"""The first with products of float8 e4m3, and with its conversions."""


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


def check_kv_cache_dtype(choice: str, device: torch.device) -> None:
    """Raises ConfigError, with what is possible instead, where --kv-cache-dtype cannot be had on a device."""
    if choice == "auto":
        return
    if device.type == "cpu":
        raise ConfigError(
            f"--kv-cache-dtype {choice}: on a GPU only (--device cuda); a CPU keeps K/V as it computes them "
            "(--kv-cache-dtype auto)"
        )
    if choice == "fp8_e4m3" and (found := torch.cuda.get_device_capability()) < FP8_CAPABILITY:
        raise ConfigError(
            f"--kv-cache-dtype fp8_e4m3: needs compute capability 8.9, this GPU has {found[0]}.{found[1]}; "
            "--kv-cache-dtype int8 takes as many bytes"
        )


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
