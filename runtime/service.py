"""The runtime put together: a model and its tokenizer, the engine on its thread, and the io loop on this one."""

import gc
import os
import threading
from concurrent.futures import ThreadPoolExecutor

from branchwork.runtime.config import RuntimeConfig
from branchwork.runtime.desk import Desk
from branchwork.runtime.encoder import ModelEncoder
from branchwork.runtime.engine import Engine
from branchwork.runtime.grammar.compiler import GrammarCompiler
from branchwork.runtime.io_loop import Host, IoLoop
from branchwork.runtime.mailbox import EventQueue, Mailbox
from branchwork.runtime.memory import kv_slots_for
from branchwork.runtime.model_runner import ModelRunner
from branchwork.runtime.models.loader import LoadedModel, load_config, load_model, model_folder
from branchwork.runtime.process import Report
from branchwork.runtime.reception import welcome
from branchwork.runtime.router import bind
from branchwork.runtime.wire.errors import ConfigError
from branchwork.runtime.wire.validate import Limits


class Service:
    """A model's runtime; `runtime.process.Runtime`."""

    def __init__(self, options: RuntimeConfig, model: LoadedModel, encoder: ModelEncoder) -> None:
        context_len = _context_len(options, model)
        num_slots = kv_slots_for(options, model, context_len)
        vocabulary = encoder.tokenizer.vocabulary(model.config.eos_token_ids)
        runner = ModelRunner(
            model,
            num_slots,
            options.max_rows,
            context_len,
            max_tokens=options.max_tokens_per_step,
            num_token_ids=len(vocabulary.token_bytes),
        )
        self._mailbox, self._events = Mailbox(), EventQueue()
        self._compiler = GrammarCompiler(vocabulary, options)
        self._engine = Engine(
            options, runner, vocabulary, encoder.tokenizer, self._mailbox, self._events
        )
        greeting = welcome(
            options,
            model=model.name,
            checksum=model.checksum,
            context_len=context_len,
            vocab_size=vocabulary.size,
            eos_ids=vocabulary.eos_ids,
            chat_format=encoder.chat_format,
        )
        desk = Desk(encoder, Limits.of(greeting), self._mailbox.put)
        host = Host(
            config=options,
            welcome=greeting,
            encoder=encoder,
            compiler=self._compiler,
            put=self._mailbox.put,
            steps=lambda: self._engine.steps,
            ask=desk.ask,
        )
        self._router = bind(options)
        self._loop = IoLoop(host, self._router, self._events)
        self._failure: BaseException | None = None

    @property
    def address(self) -> str:
        """Where it listens."""
        return self._router.address

    def run(self) -> None:
        """Serve until stopped and drained. Raises what the engine died of, at once: its clients must not wait."""
        engine = threading.Thread(target=self._run_engine, name="engine", daemon=True)
        engine.start()
        # What has been loaded stays: a full collection that walks all of it would hold up every stream.
        gc.collect()
        gc.freeze()
        self._loop.run()
        if self._failure is not None:
            raise self._failure
        self._engine.stop()
        self._router.close()
        self._compiler.close()

    def stop(self, drain_s: float) -> None:
        """As `IoLoop.stop`."""
        self._loop.stop(drain_s)

    def _run_engine(self) -> None:
        try:
            self._engine.run()
        except BaseException as error:
            self._failure = error
            self._loop.stop(drain_s=0.0)


def assemble(options: RuntimeConfig, report: Report) -> Service:
    """The runtime of `options.model`. Raises ConfigError and ModelError."""
    # Texts come one at a time, so its own threads could only warn of forks.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    report(f"loading {options.model}")
    folder = model_folder(options.model)
    config = load_config(folder)
    with ThreadPoolExecutor(1) as beside:  # a large vocabulary takes as long as the weights
        encoder = beside.submit(ModelEncoder, folder, config.vocab_size)
        model = load_model(options)
        return Service(options, model, encoder.result())


def _context_len(options: RuntimeConfig, model: LoadedModel) -> int:
    longest = model.config.max_position
    if options.max_len > longest:
        raise ConfigError(
            f"--max-len {options.max_len}: {model.name} was made for {longest} tokens"
        )
    return options.max_len or longest
