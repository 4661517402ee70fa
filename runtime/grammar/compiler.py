"""Constraints to grammars, out of the way: in killable child processes, with a cache by bytes in front.

A constraint that takes too long is given up by its child; one that takes too much memory, or does not let itself be
given up, costs the child, which is replaced. Only who asked for it hears of it. Equal constraints are compiled once,
also while they are being compiled. Stop patterns go the same way.

The functions that follow a grammar are machine code, which is compiled once in the life of an installation. A grammar
is handed out when they are ready: else they would be compiled by the engine's thread, which serves everybody.
"""

import logging
import os
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from hashlib import blake2b
from typing import Any

import msgspec

from branchwork.runtime.grammar import machine_code
from branchwork.runtime.grammar.interface import Grammar, Vocabulary
from branchwork.runtime.grammar.machine.program import Program
from branchwork.runtime.grammar.masks import Lexicon, lexicon_of
from branchwork.runtime.grammar.matcher import MachineGrammar
from branchwork.runtime.grammar.outlines import OutlinesVocabulary
from branchwork.runtime.grammar.reply import Reply
from branchwork.runtime.grammar.stops import StopPattern, StopTable
from branchwork.runtime.grammar.warm import warm
from branchwork.runtime.wire.config import RuntimeConfig
from branchwork.runtime.wire.errors import ConstraintError, InternalError
from branchwork.runtime.wire.messages import Constraint
from branchwork.runtime.wire.pipe import is_readable_within

# Started as they are needed: constraints that need their whole time do not keep the others waiting.
NUM_CHILDREN = 4
START_TIMEOUT_S = 30.0

# The child counts seconds of CPU. On a busy machine each of them may take several of the clock, and a little one many.
CLOCK_FACTOR, LEAST_CLOCK_S = 5, 30.0

CLOSED = "the runtime is shutting down"

Compiled = Grammar | StopTable

_log = logging.getLogger(__name__)


class GrammarCompiler:
    """Compiles constraints for one vocabulary; used by the io thread, safe from any.

    `options` gives time, memory and cache size (`grammar_*`). Close it to end its children.
    """

    def __init__(self, vocabulary: Vocabulary, options: RuntimeConfig) -> None:
        self._options = options
        self._lexicon: Lexicon = lexicon_of(vocabulary)
        self._outlines = (
            OutlinesVocabulary(vocabulary) if options.grammar_backend == "outlines" else None
        )
        self._lock = threading.Lock()
        self._cache: OrderedDict[bytes, Compiled] = OrderedDict()
        self._in_flight: dict[bytes, Future[Any]] = {}
        self._children: list[_Child] = []
        self._idle: list[
            _Child
        ] = []  # of them, those that nobody asks; the one that was asked last is the last
        self._threads = ThreadPoolExecutor(NUM_CHILDREN, "grammar-compiler")
        self._closed = False
        self._code_compiler: subprocess.Popen[bytes] | None = None
        if self._outlines is None:
            # The first child starts while the model is being loaded.
            self._start_ahead()
            self._code = self._threads.submit(self._prepare_code)

    def submit(self, constraint: Constraint) -> "Future[Grammar]":
        """The constraint's grammar; the future fails with ConstraintError where it is refused."""
        return self._submit(constraint)

    def submit_stop(self, pattern: str) -> "Future[StopTable]":
        """A stop pattern's automaton; the future fails with ConstraintError where it is refused."""
        return self._submit(StopPattern(pattern))

    def _submit(self, asked: Constraint | StopPattern) -> "Future[Any]":
        try:
            data = msgspec.msgpack.encode(asked)
        except RecursionError:
            return _failed(ConstraintError("the constraint is nested too deeply"))
        limit = self._options.max_schema_bytes
        if len(data) > limit:
            message = f"the constraint has {len(data)} bytes, the limit is {limit}"
            return _failed(ConstraintError(f"{message} (--max-schema-bytes)"))
        # A digest is taken without the interpreter's lock, and it is what is kept.
        key = blake2b(data).digest()
        done: Future[Any] = Future()
        with self._lock:
            if self._closed:
                return _failed(ConstraintError(CLOSED))
            known = self._cache.get(key)
            if known is not None:
                self._cache.move_to_end(key)
                done.set_result(known)
                return done
            if key in self._in_flight:
                return self._in_flight[key]
            self._in_flight[key] = done
            self._threads.submit(self._compile, key, data, asked, done)
        return done

    def children(self) -> list[int]:
        """The process ids of the compiling children."""
        with self._lock:
            return [child.pid for child in self._children if child.alive]

    def close(self) -> None:
        """End the children; what is still being compiled fails."""
        with self._lock:
            self._closed = True
            children, self._children, self._idle = self._children, [], []
            waiting = list(self._in_flight.values())
            self._in_flight.clear()
        self._threads.shutdown(wait=False, cancel_futures=True)
        for child in children:
            child.kill()
        if self._code_compiler is not None:
            self._code_compiler.kill()
            self._code_compiler.wait()
        for future in waiting:
            future.set_exception(ConstraintError(CLOSED))

    def _compile(
        self, key: bytes, data: bytes, asked: Constraint | StopPattern, done: "Future[Any]"
    ) -> None:
        result: Compiled | Exception
        try:
            result = self._compiled(data, asked)
        except ConstraintError as error:
            result = error
        except Exception as error:
            # A bug of ours or a full machine. Whoever waits must hear of it, and the compiler goes on.
            if not self._closed:
                _log.exception("a constraint of %d bytes failed to compile", len(data))
            result = InternalError(f"the grammar compiler failed: {error!r}")
        self._finish(key, done, result)
        if self._outlines is None:
            # One that has ended over its work is replaced before it is missed.
            self._start_ahead()

    def _prepare_code(self) -> None:
        """Have the machine's functions ready."""
        with self._lock:
            if self._closed:
                return
            if not machine_code.is_compiled():
                self._code_compiler = machine_code.start_compiling()
        if self._code_compiler is not None:
            _log.warning(
                "constraints wait: their machine code is compiled, once (branchwork compile)"
            )
            self._code_compiler.wait()
        if not self._closed:
            warm()

    def _compiled(self, data: bytes, asked: Constraint | StopPattern) -> "Compiled":
        if self._outlines is not None and not isinstance(asked, StopPattern):
            return self._outlines.grammar(asked)
        try:
            result = self._ask(data)
        except NotStarted:
            # It was started ahead and died unused; a fresh one tells whether any can be started.
            result = self._ask(data)
        if isinstance(asked, StopPattern):
            return msgspec.msgpack.decode(result, type=StopTable)
        self._code.result()
        return MachineGrammar(Program.from_bytes(result), self._lexicon)

    def _finish(self, key: bytes, done: "Future[Any]", result: "Compiled | Exception") -> None:
        with self._lock:
            waited = self._in_flight.pop(key, None) is not None
            if not isinstance(result, Exception):
                self._cache[key] = result
                self._shrink()
        if not waited:
            return
        if isinstance(result, Exception):
            done.set_exception(result)
        else:
            done.set_result(result)

    def _shrink(self) -> None:
        """Drop the least recently used results that are over the limit (never the newest)."""
        held = sum(result.size_bytes for result in self._cache.values())
        while held > self._options.grammar_cache << 20 and len(self._cache) > 1:
            held -= self._cache.popitem(last=False)[1].size_bytes

    def _ask(self, data: bytes) -> bytes:
        """What a child makes of a constraint: the one that was asked last, whose caches are warm, if it is idle."""
        child = self._take_idle() or self._start()
        try:
            return child.ask(data)
        finally:
            self._give_back(child)

    def _take_idle(self) -> "_Child | None":
        with self._lock:
            while self._idle:
                child = self._idle.pop()
                if child.alive:
                    return child
                self._bury(child)
        return None

    def _start(self) -> "_Child":
        """Another child. Raises ConstraintError after `close`."""
        child = _Child(self._options.grammar_memory, self._options.grammar_timeout)
        with self._lock:
            if not self._closed:
                self._children.append(child)
                return child
        child.kill()
        raise ConstraintError(CLOSED)

    def _give_back(self, child: "_Child") -> None:
        with self._lock:
            if self._closed:
                return
            if child.alive:
                self._idle.append(child)
            else:
                self._bury(child)

    def _bury(self, child: "_Child") -> None:
        self._children.remove(child)
        child.kill()

    def _start_ahead(self) -> None:
        """See to it that a child waits for the next constraint."""
        with self._lock:
            if self._closed or self._idle:
                return
        with suppress(
            ConstraintError, OSError
        ):  # closed meanwhile; who needs one hears of a full machine
            self._give_back(self._start())


def _failed(error: Exception) -> "Future[Any]":
    future: Future[Any] = Future()
    future.set_exception(error)
    return future


class NotStarted(Exception):
    """A child ended before it could be asked anything."""


class _Child:
    """One compiling process and the pipes to it. One thread asks; any may end it."""

    def __init__(self, memory_mib: int, cpu_s: float) -> None:
        self._clock_s = max(LEAST_CLOCK_S, CLOCK_FACTOR * cpu_s)
        module = "branchwork.runtime.grammar.compiler_child"
        command = [sys.executable, "-m", module, str(memory_mib), str(cpu_s), str(self._clock_s)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            # Not in our group: an interrupt from the terminal is ours to handle.
            start_new_session=True,
        )
        self._buffer = b""
        self._ready = False
        # Held while the pipes are used: the number of one that is closed may be another file's at once.
        self._pipes = threading.RLock()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def ask(self, constraint: bytes) -> bytes:
        """The program of a constraint. Raises ConstraintError when it is refused or the child is lost over it."""
        with self._pipes:
            return self._ask(constraint)

    def _ask(self, constraint: bytes) -> bytes:
        if self._process.stdin is None or self._process.stdin.closed:
            raise ConstraintError(CLOSED)
        if not self._ready:
            self._receive(START_TIMEOUT_S, NotStarted("the grammar compiler did not start"))
            self._ready = True
        lost = ConstraintError(
            "the grammar compiler was lost over the constraint: "
            "it needs more memory than it may use (--grammar-memory), or nests too deeply"
        )
        try:
            self._process.stdin.write(len(constraint).to_bytes(4, "little") + constraint)
            self._process.stdin.flush()
        except BrokenPipeError:
            self.kill()
            raise NotStarted("the grammar compiler ended while it had nothing to do") from None
        reply = msgspec.msgpack.decode(self._receive(self._clock_s, lost), type=Reply)
        if reply.is_last:
            self.kill()
        if reply.failure:
            raise RuntimeError(reply.failure)
        if reply.refusal:
            raise ConstraintError(reply.refusal, reply.param)
        return reply.result

    def _receive(self, timeout_s: float, lost: Exception) -> bytes:
        """The next frame. The child is killed when it does not come in time; `lost` is raised when it has ended."""
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        deadline = time.monotonic() + timeout_s
        while True:
            size = int.from_bytes(self._buffer[:4], "little")
            if len(self._buffer) >= 4 and len(self._buffer) >= 4 + size:
                frame, self._buffer = self._buffer[4 : 4 + size], self._buffer[4 + size :]
                return frame
            left = deadline - time.monotonic()
            if left <= 0 or not is_readable_within(pipe, left):
                self.kill()
                raise ConstraintError(f"the grammar compiler gave no answer for {timeout_s:g} s")
            chunk = os.read(pipe, 1 << 20)
            if not chunk:
                self.kill()
                raise lost
            self._buffer += chunk

    def kill(self) -> None:
        """End the process now, and close the pipes to it. Who waits for its answer finds them at their end."""
        self._process.kill()
        self._process.wait()
        with self._pipes:
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    with suppress(BrokenPipeError):  # what it was not sent yet
                        pipe.close()
