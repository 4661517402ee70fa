"""The store below the pool that the options ask for, and whose K/V it holds."""

import hashlib
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path

from branchwork.kernels import api as kernels
from branchwork.runtime.kv import BLOCK_TOKENS, KvMemory, Store, num_bytes
from branchwork.runtime.models.loader import LoadedModel
from branchwork.runtime.store.disk import DiskStore
from branchwork.runtime.store.host import HostStore
from branchwork.runtime.wire.config import RuntimeConfig
from branchwork.runtime.wire.errors import ConfigError

MIN_BLOCKS = 8
"""A store of less would hold no prefix worth a file."""


def make_store(
    options: RuntimeConfig, model: LoadedModel, memory: KvMemory, weights_digest: str
) -> Store | None:
    """A store of this model's K/V; None where none is asked for. Raises ConfigError.

    `weights_digest` is `content_digest` of the model's folder; needed with --kv-store.
    """
    if not (options.kv_store or options.host_kv_bytes):
        return None
    flag = "--kv-store" if options.kv_store else "--host-kv-bytes"
    if not options.prefix_cache:
        raise ConfigError(f"{flag}: nothing is kept with --prefix-cache off")
    if not options.kv_store:
        if not _is_on_device(model):
            raise ConfigError(
                "--host-kv-bytes: the pool of a CPU is in the host's memory already: give the bytes to --kv-memory"
            )
        return HostStore(options.host_kv_bytes)
    if options.host_kv_bytes:
        raise ConfigError("--host-kv-bytes: not together with --kv-store; choose one")
    shapes = memory.kv_shapes(BLOCK_TOKENS)
    block_bytes = num_bytes(shapes)
    if options.kv_store_bytes < MIN_BLOCKS * block_bytes:
        raise ConfigError(
            f"--kv-store-bytes {options.kv_store_bytes}: {BLOCK_TOKENS} tokens of this model take {block_bytes} bytes; "
            f"at least {MIN_BLOCKS * block_bytes} are of use"
        )
    return DiskStore(
        Path(options.kv_store).expanduser(),
        options.kv_store_bytes,
        kv_identities(options, model, weights_digest),
        shapes,
        model.config.max_position,
    )


def kv_identities(
    options: RuntimeConfig, model: LoadedModel, weights_digest: str
) -> tuple[str, ...]:
    """Who computes K/V, the model as it is or with each of its adapters: equal identities, equal bits for equal tokens.

    64 hex digits each. Weights and config (rotation included) byte for byte, the type computed in, every option on how
    the model is loaded, the code and processor that compute; and what is in the adapter, whatever its name.
    """
    ways = [
        f"{spec.name}={getattr(options, spec.name)}"
        for spec in fields(options)
        if spec.metadata["group"] == "model"
        and spec.name not in ("model", "max_len", "dtype", "adapters")
    ]
    parts = (
        version("branchwork"),
        weights_digest,
        str(model.decoder.dtype),
        *ways,
        kernels.code_identity(),
    )
    digests = () if model.adapters is None else model.adapters.digests
    return (_digest(parts), *[_digest((*parts, digest)) for digest in digests])


def _digest(parts: tuple[str, ...]) -> str:
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=32).hexdigest()


def _is_on_device(model: LoadedModel) -> bool:
    return model.decoder.weights.embedding.device.type != "cpu"
