"""What memory this machine has left, and whether a model fits."""

import os
from pathlib import Path

import torch

from branchwork.kernels import api as kernels
from branchwork.runtime.models.config import ModelConfig
from branchwork.runtime.wire.errors import ConfigError


def weight_bytes(
    config: ModelConfig, stored: int, dtype: torch.dtype, quantize: kernels.Quantize
) -> int:
    """What the weights of a model take, whose files are `stored` bytes. Files say it where nothing is rounded."""
    if quantize == "none":
        return stored * dtype.itemsize // (2 if config.dtype in ("bfloat16", "float16") else 4)
    return config.num_embedding_weights * dtype.itemsize + kernels.quantized_bytes(
        config.num_layer_weights, config.num_embedding_weights, quantize
    )


def check_fits(
    name: str,
    num_bytes: int,
    dtype: torch.dtype,
    device: torch.device,
    quantize: kernels.Quantize = "none",
    num_adapters: int = 0,
) -> None:
    """Raises ConfigError, with both numbers and what to change, if weights of this size cannot be had.

    `num_bytes` are those of the model and of its adapters.
    """
    free = available_bytes(device)
    if num_bytes > free:
        kind, smaller = str(dtype).removeprefix("torch."), ""
        if quantize != "none":
            kind = quantize
        elif dtype is torch.float32:
            smaller = ", --dtype bfloat16 (half of it)"
        else:
            smaller = ", --quantize int8 (about half of it) or int4"
        whose = (
            f"its weights and {num_adapters} adapters take" if num_adapters else "its weights take"
        )
        raise ConfigError(
            f"--model {name}: {whose} {gib(num_bytes)} as {kind} "
            f"and this machine has {gib(free)} free; choose a smaller model{smaller}, or a machine with more memory"
        )


def available_bytes(device: torch.device | None = None) -> int:
    """Memory that can be taken without swapping: the machine's, or what its control group leaves; or a GPU's."""
    if device is not None and device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = meminfo.read_text().splitlines()
        free = next(
            int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")
        )
    group = Path("/sys/fs/cgroup")
    limit, used = group / "memory.max", group / "memory.current"
    if limit.exists() and used.exists() and (text := limit.read_text().strip()) != "max":
        free = min(free, int(text) - int(used.read_text()))
    return max(free, 0)


def gib(size: int) -> str:
    """For people."""
    return f"{size / (1 << 30):.1f} GiB"
