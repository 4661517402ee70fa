"""How large the KV pool may be on this machine."""

import os
from pathlib import Path

from branchwork.runtime.models.loader import LoadedModel
from branchwork.runtime.wire.config import RuntimeConfig
from branchwork.runtime.wire.errors import ConfigError

SHARE_OF_FREE_MEMORY = 0.5
"""Taken by default: the rest is for activations, the cache's own tables and the machine's other users."""

MIN_SLOTS = 64
"""Fewer hold no conversation worth a server."""


def kv_slots_for(options: RuntimeConfig, model: LoadedModel, max_len: int) -> int:
    """The number of slots in the pool: as asked, or as many as are useful and fit.

    Call it after the model is loaded: what the model takes is no longer free. Raises ConfigError with
    what was asked for, what there is, and the option to change.
    """
    itemsize = model.decoder.dtype.itemsize
    bytes_per_slot = model.config.kv_bytes_per_slot(itemsize)
    free = available_bytes()
    if options.kv_slots:
        slots, asked = options.kv_slots, f"--kv-slots {options.kv_slots}"
    elif options.kv_memory:
        slots = (options.kv_memory << 20) // bytes_per_slot
        asked = f"--kv-memory {options.kv_memory}"
    else:
        useful = options.max_rows * max_len
        slots = min(useful, int(free * SHARE_OF_FREE_MEMORY) // bytes_per_slot)
        asked = "the model"
    if slots * bytes_per_slot > free:
        raise ConfigError(
            f"{asked}: the pool would take {_gib(slots * bytes_per_slot)} and this machine has {_gib(free)} free "
            f"({bytes_per_slot} bytes a token); at most --kv-slots {free // bytes_per_slot}"
        )
    if slots < MIN_SLOTS:
        raise ConfigError(
            f"{asked}: leaves room for {slots} tokens at {bytes_per_slot} bytes each and {_gib(free)} free; "
            f"at least {MIN_SLOTS} are needed (--kv-memory)"
        )
    return slots


def available_bytes() -> int:
    """Memory that can be taken without swapping: the machine's, or what its control group leaves."""
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


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB"
