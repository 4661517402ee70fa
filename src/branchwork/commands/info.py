"""`branchwork info`: what this machine and this model give."""

import argparse
import importlib.metadata
import os
import platform
from dataclasses import asdict

from branchwork.bench.load import stats
from branchwork.runtime.options import add_options, config_from
from branchwork.runtime.wire.config import RuntimeConfig
from branchwork.runtime.wire.launcher import launch

PACKAGES = ("torch", "triton", "numba", "numpy", "tokenizers", "transformers", "pyzmq", "msgspec")


def main(argv: list[str]) -> int:
    """Print versions, the processor, and what a runtime with these options would have."""
    parser = argparse.ArgumentParser(prog="branchwork info", description=__doc__)
    add_options(parser, RuntimeConfig)
    config = config_from(RuntimeConfig, vars(parser.parse_args(argv)))
    print(
        f"branchwork   {importlib.metadata.version('branchwork')}, Python {platform.python_version()}"
    )
    print(f"packages     {', '.join(_versions())}")
    print(f"machine      {platform.machine()}, {os.cpu_count()} cores, {features()}")
    print(f"products     {_products()}")
    print(f"device       {device(config)}")
    print(f"weights      {weights(config)}")
    with launch(**asdict(config)) as runtime:
        client = runtime.connect()
        welcome = client.welcome
        numbers = stats(client)
        print(f"model        {welcome.model}, checksum {welcome.model_checksum}")
        if welcome.adapters:
            print(f"adapters     {', '.join(welcome.adapters)}")
        print(f"context      {welcome.context_len:,} tokens, vocabulary {welcome.vocab_size:,}")
        slots, per_slot = int(numbers["slots_total"]), int(numbers["slot_bytes"])
        print(
            f"KV pool      {slots:,} tokens of {per_slot:,} bytes, {slots * per_slot >> 20:,} MiB:"
        )
        print(f"             {why_so_many(config, slots, welcome.context_len)}")
        print(f"limits       {', '.join(f'{k} {v:,}' for k, v in sorted(welcome.limits.items()))}")
    return 0


def why_so_many(config: RuntimeConfig, slots: int, context_len: int) -> str:
    """Why the pool has so many slots, and what changes it."""
    contexts = f"{slots / context_len:.1f} whole contexts"
    if config.kv_slots:
        return f"{contexts}, as --kv-slots asks"
    if config.kv_memory:
        return f"{contexts}, as --kv-memory asks"
    if slots == config.max_rows * context_len:
        return f"{contexts}, all that --max-rows {config.max_rows} requests could use"
    return f"{contexts}: half of the memory that was free beside the model (--kv-memory)"


def _products() -> str:
    # numba: a second to import, and perhaps not there.
    try:
        from branchwork.kernels.cpu.tile import products_used  # noqa: PLC0415
    except ImportError:
        return "not compiled: numba is not installed"
    return products_used()


def device(config: RuntimeConfig) -> str:
    """Where the model will run, and if that is the CPU by default, why."""
    # torch: a second to import, and perhaps not there.
    import torch  # noqa: PLC0415

    from branchwork.runtime.models.loader import load_config, model_folder  # noqa: PLC0415
    from branchwork.runtime.models.placement import device_for, gpu_obstacle  # noqa: PLC0415

    shape = load_config(model_folder(config.model))
    if device_for(config.device, shape).type == "cuda":
        return f"GPU, {torch.cuda.get_device_name()}"
    if config.device == "cpu":
        return "CPU"
    return f"CPU ({gpu_obstacle(shape) or 'a GPU could run it: --device cuda, which has never run on one'})"


def weights(config: RuntimeConfig) -> str:
    """What the weights take, and as what."""
    # As above.
    from branchwork.runtime.models.free_memory import weight_bytes  # noqa: PLC0415
    from branchwork.runtime.models.loader import (  # noqa: PLC0415
        compute_dtype,
        load_config,
        model_folder,
        stored_bytes,
    )
    from branchwork.runtime.models.placement import device_for  # noqa: PLC0415

    folder = model_folder(config.model)
    shape = load_config(folder)
    dtype = compute_dtype(config.dtype, shape, device_for(config.device, shape))
    size = weight_bytes(shape, stored_bytes(folder), dtype, config.quantize)
    kind = str(dtype).removeprefix("torch.") if config.quantize == "none" else config.quantize
    return f"{size / (1 << 20):,.1f} MiB as {kind}"


def _versions() -> list[str]:
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{name} –")
    return found


def features() -> str:
    """The instruction sets that matter for bf16 on this processor."""
    try:
        with open("/proc/cpuinfo") as file:
            flags = set(next(line for line in file if line.startswith("flags")).split())
    except (OSError, StopIteration):
        return "instruction sets unknown"
    known = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
    return " ".join(name for name in known if name in flags) or "no vector extensions known"
