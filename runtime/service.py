"""The runtime put together: the engine on its thread, the io loop on this one, and the way between them."""

import gc
import json
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import msgspec

from branchwork.runtime.engine.engine import Engine
from branchwork.runtime.grammar.compiler import GrammarCompiler
from branchwork.runtime.grammar.interface import Vocabulary
from branchwork.runtime.inbox import Control, EngineTokenizer
from branchwork.runtime.io.desk import read_body
from branchwork.runtime.io.intake import TextEncoder
from branchwork.runtime.io.io_loop import Host, IoLoop
from branchwork.runtime.io.mailbox import Mailbox
from branchwork.runtime.io.outlet import Outlet
from branchwork.runtime.io.router import Router
from branchwork.runtime.kv import Store
from branchwork.runtime.runner import Runner
from branchwork.runtime.wire.config import SAVING_S, RuntimeConfig
from branchwork.runtime.wire.messages import Welcome

ENGINE_REQUESTS = ("stats", "inspect", "flush_cache", "save_cache")
JOIN_S = 5.0


class FlushBody(msgspec.Struct):
    """Which prefixes: those of a salt ("": of none), or all."""

    salt: str | None = None


class Service:
    """An engine over `runner`, for the clients of `router`; `runtime.process.Runtime`.

    `store` is the tier below the runner's pool, if there is one. `ask` answers the requests that are not the
    engine's own, on a thread for them.
    """

    def __init__(
        self,
        options: RuntimeConfig,
        router: Router,
        greeting: Welcome,
        runner: Runner,
        vocabulary: Vocabulary,
        tokenizer: EngineTokenizer,
        encoder: TextEncoder,
        ask: Callable[[str, str], str],
        store: Store | None = None,
    ) -> None:
        outlet = Outlet(router)
        self._router = router
        self._mailbox = Mailbox()
        self._compiler = GrammarCompiler(vocabulary, options)
        self._engine = Engine(
            options, runner, vocabulary, tokenizer, self._mailbox, outlet, store=store
        )
        if self._engine.tier is not None:
            self._engine.tier.open(self._mailbox.put)
        self._join_s = JOIN_S + (SAVING_S if store is not None else 0.0)
        self._ask_others = ask
        self._desk = ThreadPoolExecutor(1, "desk")
        host = Host(
            config=options,
            welcome=greeting,
            encoder=encoder,
            compiler=self._compiler,
            put=self._mailbox.put,
            steps=lambda: self._engine.steps,
            ask=self._ask,
        )
        self._loop = IoLoop(host, router, outlet)
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
        self._desk.shutdown(wait=False, cancel_futures=True)
        if self._failure is not None:
            raise self._failure
        self._engine.stop()
        engine.join(self._join_s)
        self._router.close()
        self._compiler.close()

    def stop(self, drain_s: float) -> None:
        """As `IoLoop.stop`."""
        self._loop.stop(drain_s)

    def _ask(self, what: str, body: str) -> "Future[str]":
        if what not in ENGINE_REQUESTS:
            # A long text takes its time, which is not the other clients'.
            return self._desk.submit(self._ask_others, what, body)
        reply: Future[str] = Future()
        salt = read_body(body, FlushBody).salt if what == "flush_cache" else None
        self._mailbox.put([Control(what, reply, salt)])
        return reply if what != "stats" else _joined(reply, self._loop.stats)

    def _run_engine(self) -> None:
        try:
            self._engine.run()
        except BaseException as error:
            self._failure = error
            self._loop.stop(drain_s=0.0)


def _joined(reply: "Future[str]", more: Callable[[], dict[str, int]]) -> "Future[str]":
    """The engine's numbers and those of the io loop in one object."""
    joined: Future[str] = Future()

    def join(done: "Future[str]") -> None:
        error = done.exception()
        if error is not None:
            joined.set_exception(error)
        else:
            joined.set_result(json.dumps(json.loads(done.result()) | more()))

    reply.add_done_callback(join)
    return joined
