"""The runtime's options: one definition for the flag, the field, the environment variable and the documentation."""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any, Literal, get_args, get_origin

from branchwork.runtime.wire.errors import ConfigError

MAX_ADAPTERS = 256
MAX_ADAPTER_NAME = 128
"""Characters."""

_ADAPTER_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._:/@+-]{{0,{MAX_ADAPTER_NAME - 1}}}")

SAVING_S = 10.0
"""How long a runtime that ends may write to its --kv-store."""

Group = Literal["model", "memory", "scheduling", "limits", "grammar", "process", "server"]


def option(
    default: Any,
    help: str,
    group: Group,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    flag: str = "",
) -> Any:
    """A field of a configuration: its default, what it means, its unit and both its bounds.

    `flag` is the name of its flag, where that is not the field's: of a field that takes several, one's.
    """
    metadata = {
        "help": help, "group": group, "unit": unit, "low": low, "high": high, "flag": flag
    }  # fmt: skip
    return field(default=default, metadata=metadata)


def flag_of(spec: Field[Any]) -> str:
    """`--max-len` for the field max_len."""
    return "--" + (spec.metadata["flag"] or spec.name).replace("_", "-")


def is_repeated(spec: Field[Any]) -> bool:
    """Whether the field holds (name, value) pairs, and its flag is given once for each."""
    return bool(spec.type == tuple[tuple[str, str], ...])


@dataclass(frozen=True, slots=True)
class RuntimeConfig:
    """How a runtime is started. Raises ConfigError where a value is out of its bounds."""

    model: str = option("sprout", "model folder, hub name, or sprout (the embedded model)", "model")
    dtype: Literal["auto", "float32", "bfloat16"] = option(
        "auto", "type of weights, and of the cache unless --kv-cache-dtype says otherwise", "model"
    )
    kv_cache_dtype: Literal["auto", "int8", "fp8_e4m3"] = option(
        "auto",
        "type of the cache; auto: that of the weights; int8, fp8_e4m3 (sm_89 and later): half the bytes, "
        "with a scale for each token and head; on a GPU only",
        "model",
    )
    quantize: Literal["none", "int8", "int4"] = option(
        "none",
        "round the weights of layers and head to fewer bits when they are loaded: int8 (a scale for each output), "
        "or int4 (one for each 128 inputs of it; the head stays int8); computes in bfloat16",
        "model",
    )
    device: Literal["auto", "cpu", "cuda"] = option(
        "auto",
        "where the model runs; auto: on the CPU, until the way over a GPU has run on one",
        "model",
    )
    adapters: tuple[tuple[str, str], ...] = option(
        (),
        "NAME=FOLDER of a low-rank adapter (LoRA) of the model, in PEFT's format; may be given several times",
        "model",
        flag="adapter",
    )
    max_len: int = option(
        0, "longest branch; 0: what the model was made for", "model", "tokens", 0, 10_000_000
    )

    kv_slots: int = option(
        0, "size of the KV pool; 0: from --kv-memory", "memory", "tokens", 0, 1_000_000_000
    )
    kv_memory: int = option(
        0, "memory of the KV pool; 0: a share of what is free", "memory", "MiB", 0, 100_000_000
    )
    kv_store: str = option(
        "",
        "folder where K/V of prefixes outlives the pool and the runtime; empty: none",
        "memory",
    )
    kv_store_bytes: int = option(
        4 << 30,
        "size of --kv-store; what was not used for longest goes",
        "memory",
        "bytes",
        1 << 20,
        1 << 50,
    )
    host_kv_bytes: int = option(
        0,
        "memory of the host for K/V that has no place in a GPU's pool; 0: none",
        "memory",
        "bytes",
        0,
        1 << 50,
    )
    max_rows: int = option(256, "requests that run at once", "memory", "requests", 1, 65_536)

    max_tokens_per_step: int = option(
        2048, "new tokens in one forward pass", "scheduling", "tokens", 16, 1_000_000
    )
    max_chunk: int = option(
        512,
        "new tokens of one prompt in a pass that others decode in",
        "scheduling",
        "tokens",
        1,
        1_000_000,
    )
    profile: Literal["balanced", "latency", "throughput"] = option(
        "balanced",
        "how much longer a prompt may make the steps that others decode in: twice as long, half as much again, "
        "or as long as it takes; balanced lets them be longer where many prompts wait",
        "scheduling",
    )
    aging_steps: int = option(
        64, "passes after which a waiting request goes first", "scheduling", "passes", 1, 1_000_000
    )
    growth_reserve: int = option(
        64,
        "room kept for the growth of each running request before another is let in",
        "scheduling",
        "tokens",
        0,
        1_000_000,
    )
    speculate: int = option(
        0,
        "tokens that a slot guesses ahead from the text so far, checked in one pass; 0: none",
        "scheduling",
        "tokens",
        0,
        16,
    )
    prefix_cache: bool = option(True, "keep and share the K/V of prefixes", "scheduling")

    max_queue: int = option(
        16_384, "waiting requests before new ones are refused", "limits", "requests", 1, 10_000_000
    )
    max_branches: int = option(
        65_536, "open branches of one client", "limits", "branches", 1, 10_000_000
    )
    max_text_bytes: int = option(
        8 << 20, "one message of a client", "limits", "bytes", 1024, 1 << 30
    )
    max_client_bytes: int = option(
        1 << 30,
        "what a client may have in the runtime at once: texts of open branches, slots that are not filled, questions",
        "limits",
        "bytes",
        1 << 16,
        1 << 50,
    )
    max_unread_bytes: int = option(
        64 << 20,
        "what is kept for a client that does not read; beyond it, it is hung up on",
        "limits",
        "bytes",
        1 << 16,
        1 << 50,
    )
    max_choices: int = option(4096, "choices of one select", "limits", "choices", 1, 1_000_000)
    max_stops: int = option(
        16, "stop strings, and stop patterns, of one slot", "limits", "stops", 0, 1024
    )
    max_stop_bytes: int = option(1024, "one stop string or pattern", "limits", "bytes", 1, 65_536)
    max_logprobs: int = option(
        20, "most likely tokens beside each token", "limits", "tokens", 0, 1000
    )
    max_logit_bias: int = option(1024, "entries of a logit bias", "limits", "entries", 0, 1_000_000)

    grammar_backend: Literal["branchwork", "outlines"] = option(
        "branchwork",
        "who enforces constraints; outlines compiles in the runtime itself, not in a child that can be ended: "
        "--grammar-timeout and --grammar-memory do not bound it",
        "grammar",
    )
    max_schema_bytes: int = option(1 << 20, "one constraint", "grammar", "bytes", 16, 1 << 28)
    grammar_timeout: float = option(
        1.25, "CPU time for compiling one constraint", "grammar", "s", 0.01, 600.0
    )
    grammar_memory: int = option(
        200, "the compiler's memory above its start", "grammar", "MiB", 16, 1 << 20
    )
    grammar_cache: int = option(128, "compiled constraints kept", "grammar", "MiB", 1, 1 << 20)

    address: str = option("", "where to listen; empty: a socket in a private folder", "process")
    key_file: str = option("", "CURVE key pair, needed for tcp:// addresses", "process")
    threads: int = option(0, "threads of the engine; 0: all cores", "process", "threads", 0, 1024)
    heartbeat_s: float = option(
        2.0, "longest silence between runtime and client", "process", "s", 0.05, 60.0
    )
    client_timeout_s: float = option(
        30.0, "silence after which a client's branches are closed", "process", "s", 1.0, 3600.0
    )
    log_level: Literal["debug", "info", "warning", "error"] = option(
        "warning", "what is logged", "process"
    )

    def __post_init__(self) -> None:
        check_options(self)
        own = model_names(self.model)
        for name, _ in self.adapters:
            if name in own:
                raise ConfigError(f"--adapter {name}: the model itself has this name")


def model_names(model: str) -> tuple[str, ...]:
    """What a model is called that was given as a folder or by a hub's name: the last part of it, and the whole."""
    names = (model.rstrip("/").rpartition("/")[2], model)
    return tuple(dict.fromkeys(name for name in names if name))


def adapter_pairs(given: Any) -> Any:
    """Adapters as a caller may give them, as (name, folder) pairs; what is none of these forms stays as it is.

    A mapping of names to folders, pairs, or texts NAME=FOLDER. Raises ConfigError for a text without "=".
    """
    if isinstance(given, Mapping):
        given = given.items()
    if isinstance(given, str) or not isinstance(given, Iterable):
        return given
    return tuple([_adapter_pair(each) for each in given])


def _adapter_pair(given: Any) -> Any:
    if isinstance(given, str):
        name, equals, folder = given.partition("=")
        if not equals:
            raise ConfigError(f"--adapter {given}: must be NAME=FOLDER")
        return name, folder
    if isinstance(given, tuple | list):
        return tuple([os.fspath(one) if isinstance(one, os.PathLike) else one for one in given])
    return given


def check_options(config: Any) -> None:
    """Hold every field made by `option` to its type and bounds. Raises ConfigError naming the flag."""
    for spec in fields(config):
        value = getattr(config, spec.name)
        if is_repeated(spec):
            _check_adapters(flag_of(spec), value)
        else:
            _check(flag_of(spec), value, spec.type, spec.metadata)


def _check(flag: str, value: Any, kind: Any, metadata: Any) -> None:
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise ConfigError(f"{flag} {value}: must be one of {', '.join(get_args(kind))}")
        return
    if kind is float and type(value) is int:
        return _check(flag, float(value), kind, metadata)
    if type(value) is not kind:
        raise ConfigError(f"{flag} {value!r}: must be of type {kind.__name__}")
    low, high = metadata["low"], metadata["high"]
    if low is not None and not low <= value <= high:
        raise ConfigError(
            f"{flag} {value}: must be between {low} and {high} {metadata['unit']}".rstrip()
        )


def _check_adapters(flag: str, value: Any) -> None:
    pairs = value if isinstance(value, tuple) else (None,)
    for pair in pairs:
        if not isinstance(pair, tuple) or [type(part) for part in pair] != [str, str]:
            raise ConfigError(f"{flag} {value!r}: must be (name, folder) each")
        name, folder = pair
        if not _ADAPTER_NAME.fullmatch(name):
            raise ConfigError(
                f"{flag} {name[:MAX_ADAPTER_NAME]!r}: a name has 1 to {MAX_ADAPTER_NAME} of A-Z a-z 0-9 . _ - : / @ +, "
                "a letter or digit first"
            )
        if not folder:
            raise ConfigError(f"{flag} {name}: names no folder")
    if len(pairs) > MAX_ADAPTERS:
        raise ConfigError(f"{flag}: {len(pairs)} are more than {MAX_ADAPTERS}")
    names = [name for name, _ in pairs]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ConfigError(f"{flag} {twice[0]}: stands there twice")
