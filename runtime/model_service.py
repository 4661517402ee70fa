"""The runtime of a model: its folder, its weights, its tokenizer, and the service over them."""

import os
from concurrent.futures import ThreadPoolExecutor

from branchwork.runtime.io.desk import Desk
from branchwork.runtime.io.encoder import ModelEncoder
from branchwork.runtime.io.reception import welcome
from branchwork.runtime.io.router import bind
from branchwork.runtime.models.config import ModelConfig
from branchwork.runtime.models.loader import LoadedModel, load_config, load_model, model_folder
from branchwork.runtime.models.memory import KV_DTYPES, kv_slots_for
from branchwork.runtime.models.model_runner import ModelRunner
from branchwork.runtime.models.tiers import make_store
from branchwork.runtime.models.weights import content_digest
from branchwork.runtime.process import Report
from branchwork.runtime.runner import Runner
from branchwork.runtime.service import Service
from branchwork.runtime.wire.config import RuntimeConfig
from branchwork.runtime.wire.errors import ConfigError
from branchwork.runtime.wire.validate import Limits


def assemble(options: RuntimeConfig, report: Report) -> Service:
    """The runtime of `options.model`; `runtime.process.Assemble`. Raises ConfigError and ModelError."""
    # Texts come one at a time, so the tokenizer's own threads could only warn of forks.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    router = bind(options)  # before the long part, so that a busy address is said at once
    folder = model_folder(options.model)
    config = load_config(folder)
    context_len = _context_len(options, config)
    report(f"loading {options.model}")
    with ThreadPoolExecutor(2) as beside:  # a large vocabulary takes as long as the weights
        digest = beside.submit(content_digest, folder) if options.kv_store else None
        loading = beside.submit(ModelEncoder, folder, config.vocab_size, context_len)
        model = load_model(options)
        encoder = loading.result()
    vocabulary = encoder.tokenizer.vocabulary(config.eos_token_ids)
    runner = _runner(options, model, context_len, len(vocabulary.token_bytes), report)
    store = make_store(options, model, runner, digest.result() if digest is not None else "")
    greeting = welcome(
        options,
        model=model.name,
        checksum=model.checksum,
        context_len=context_len,
        vocab_size=vocabulary.size,
        eos_ids=vocabulary.eos_ids,
        chat_format=encoder.chat_format,
    )
    desk = Desk(encoder, Limits.of(greeting))
    return Service(
        options, router, greeting, runner, vocabulary, encoder.tokenizer, encoder, desk.ask, store
    )


def _runner(
    options: RuntimeConfig, model: LoadedModel, context_len: int, num_token_ids: int, report: Report
) -> Runner:
    """Of the device that the model was loaded on."""
    sizes = kv_slots_for(options, model, context_len), options.max_rows, context_len
    max_tokens = options.max_tokens_per_step
    if model.decoder.device.type == "cpu":
        # K/V of another form would be stored under the same name.
        compiled = True if options.kv_store else None
        return ModelRunner(model, *sizes, max_tokens, num_token_ids, options.threads, compiled)
    # Triton takes a second to import, and is not there on every system: only a GPU needs it.
    from branchwork.runtime.models.device_runner import DeviceRunner  # noqa: PLC0415

    report("capturing decode steps")
    kv_dtype = KV_DTYPES[options.kv_cache_dtype]
    return DeviceRunner(model, *sizes, max_tokens, num_token_ids, kv_dtype=kv_dtype)


def _context_len(options: RuntimeConfig, config: ModelConfig) -> int:
    if options.max_len > config.max_position:
        raise ConfigError(
            f"--max-len {options.max_len}: the model was made for {config.max_position} tokens"
        )
    return options.max_len or config.max_position
