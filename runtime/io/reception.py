"""What a runtime says of itself when a client comes."""

import os
from collections.abc import Sequence
from dataclasses import fields
from importlib.metadata import version

from branchwork.runtime.wire.config import RuntimeConfig
from branchwork.runtime.wire.messages import PROTOCOL_VERSION, ChatFormat, Welcome


def welcome(
    options: RuntimeConfig,
    *,
    model: str,
    checksum: str,
    context_len: int,
    vocab_size: int,
    eos_ids: Sequence[int],
    chat_format: ChatFormat,
) -> Welcome:
    """The Welcome of this process. Its limits are all the whole-number options of `RuntimeConfig`, by name."""
    values = {spec.name: getattr(options, spec.name) for spec in fields(options)}
    return Welcome(
        version=PROTOCOL_VERSION,
        runtime_version=version("branchwork"),
        model=model,
        model_checksum=checksum,
        context_len=context_len,
        vocab_size=vocab_size,
        eos_token_ids=tuple(eos_ids),
        chat_format=chat_format,
        limits={name: value for name, value in values.items() if type(value) is int},
        heartbeat_s=options.heartbeat_s,
        pid=os.getpid(),
        adapters=tuple(name for name, _ in options.adapters),
    )
