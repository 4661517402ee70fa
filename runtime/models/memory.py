"""How large the KV pool may be on this machine."""

import torch

from branchwork.runtime.models.free_memory import available_bytes, gib
from branchwork.runtime.models.loader import LoadedModel
from branchwork.runtime.wire.config import RuntimeConfig
from branchwork.runtime.wire.errors import ConfigError

SHARE_OF_FREE_MEMORY = {"cpu": 0.5, "cuda": 0.85}
"""Taken by default: the rest is for activations, the cache's own tables and the other users of the machine or GPU."""

MIN_SLOTS = 64
"""Fewer hold no conversation worth a server."""


KV_DTYPES = {"auto": None, "int8": torch.int8, "fp8_e4m3": torch.float8_e4m3fn}
"""By --kv-cache-dtype; None: that of the model."""


def slot_bytes(options: RuntimeConfig, model: LoadedModel) -> int:
    """What one token's K and V take."""
    kind = KV_DTYPES[options.kv_cache_dtype]
    if kind is None:
        return model.config.kv_bytes_per_slot(model.decoder.dtype.itemsize)
    return model.config.kv_bytes_per_slot(kind.itemsize, torch.float32.itemsize)


def kv_slots_for(options: RuntimeConfig, model: LoadedModel, max_len: int) -> int:
    """The number of slots in the pool: as asked, or as many as are useful and fit.

    Call it after the model is loaded: what the model takes is no longer free. Raises ConfigError with
    what was asked for, what there is, and the option to change.
    """
    bytes_per_slot = slot_bytes(options, model)
    device = model.decoder.device
    free = available_bytes(device)
    if options.kv_slots:
        slots, asked = options.kv_slots, f"--kv-slots {options.kv_slots}"
        remedy = f"at most --kv-slots {free // bytes_per_slot}"
    elif options.kv_memory:
        slots = (options.kv_memory << 20) // bytes_per_slot
        asked = f"--kv-memory {options.kv_memory}"
        remedy = f"at most --kv-memory {free >> 20}"
    else:
        useful = options.max_rows * max_len
        slots = min(useful, int(free * SHARE_OF_FREE_MEMORY[device.type]) // bytes_per_slot)
        asked, remedy = "the model", "--kv-memory"
    smaller = ""
    if device.type != "cpu" and options.kv_cache_dtype == "auto":
        smaller = ", or --kv-cache-dtype int8 (half the bytes)"
    if slots * bytes_per_slot > free:
        raise ConfigError(
            f"{asked}: the pool would take {gib(slots * bytes_per_slot)} and this machine has {gib(free)} free "
            f"({bytes_per_slot} bytes a token); {remedy}{smaller}"
        )
    if slots < MIN_SLOTS:
        raise ConfigError(
            f"{asked}: leaves room for {slots} tokens at {bytes_per_slot} bytes each and {gib(free)} free; "
            f"at least {MIN_SLOTS} are needed (--kv-memory)"
        )
    return slots
