"""Constraints to grammars, out of the way: in killable child processes, with a cache by bytes in front.

A constraint that takes too long or too much memory costs its child, which is killed and replaced; only who asked for
it hears of it. Equal constraints are compiled once, also while they are being compiled.
"""

import logging
import os
import select
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import msgspec

from branchwork.runtime.grammar.interface import Grammar, Vocabulary
from branchwork.runtime.grammar.masks import Lexicon, lexicon_of
from branchwork.runtime.grammar.matcher import MachineGrammar
from branchwork.runtime.grammar.outlines import OutlinesVocabulary
from branchwork.runtime.grammar.program import Program
from branchwork.runtime.wire.config import RuntimeConfig
from branchwork.runtime.wire.errors import ConstraintError, InternalError
from branchwork.runtime.wire.messages import Constraint

# Two children: a constraint that needs its whole time does not keep the others waiting.
NUM_CHILDREN = 2
START_TIMEOUT_S = 30.0

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
        self._cache: OrderedDict[bytes, Grammar] = OrderedDict()
        self._in_flight: dict[bytes, Future[Grammar]] = {}
        self._children: list[_Child] = []
        self._own = threading.local()
        self._threads = ThreadPoolExecutor(NUM_CHILDREN, "grammar-compiler")
        self._closed = False
        if self._outlines is None:
            # The first child starts while the model is being loaded.
            self._threads.submit(self._child)

    def submit(self, constraint: Constraint) -> "Future[Grammar]":
        """The constraint's grammar; the future fails with ConstraintError where it is refused."""
        key = msgspec.msgpack.encode(constraint)
        done: Future[Grammar] = Future()
        if len(key) > self._options.max_schema_bytes:
            limit = self._options.max_schema_bytes
            done.set_exception(
                ConstraintError(
                    f"the constraint has {len(key)} bytes, the limit is {limit} (--max-schema-bytes)"
                )
            )
            return done
        with self._lock:
            known = self._cache.get(key)
            if known is not None:
                self._cache.move_to_end(key)
                done.set_result(known)
                return done
            if key in self._in_flight:
                return self._in_flight[key]
            self._in_flight[key] = done
        self._threads.submit(self._compile, key, constraint, done)
        return done

    def close(self) -> None:
        """End the children; what is still being compiled fails."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            self._closed = True
            children, self._children = self._children, []
            waiting = list(self._in_flight.values())
            self._in_flight.clear()
        for child in children:
            child.kill()
        for future in waiting:
            if future.set_running_or_notify_cancel():
                future.set_exception(ConstraintError("the runtime is shutting down"))

    def _compile(self, key: bytes, constraint: Constraint, done: "Future[Grammar]") -> None:
        try:
            if self._outlines is not None:
                grammar: Grammar = self._outlines.grammar(constraint)
            else:
                data = self._child().ask(key, self._options.grammar_timeout)
                grammar = MachineGrammar(Program.from_bytes(data), self._lexicon)
        except ConstraintError as error:
            self._finish(key, done, error)
        except Exception as error:
            # A bug of ours or a full machine. Whoever waits must hear of it, and the compiler goes on.
            _log.exception("a constraint of %d bytes failed to compile", len(key))
            self._finish(key, done, InternalError(f"the grammar compiler failed: {error!r}"))
        else:
            self._finish(key, done, grammar)

    def _finish(self, key: bytes, done: "Future[Grammar]", result: Grammar | Exception) -> None:
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
        """Drop the least recently used grammars that are over the limit (never the newest)."""
        held = sum(grammar.size_bytes for grammar in self._cache.values())
        while held > self._options.grammar_cache << 20 and len(self._cache) > 1:
            held -= self._cache.popitem(last=False)[1].size_bytes

    def _child(self) -> "_Child":
        """This thread's child, started when there is none (any more)."""
        child: _Child | None = getattr(self._own, "child", None)
        if child is None or not child.alive:
            child = _Child(self._options.grammar_memory, self._options.grammar_timeout)
            self._own.child = child
            with self._lock:
                self._children = [c for c in self._children if c.alive] + [child]
                closed = self._closed
            if closed:
                child.kill()
                raise ConstraintError("the runtime is shutting down")
        return child


class _Child:
    """One compiling process and the pipes to it; used by one thread."""

    def __init__(self, memory_mib: int, timeout_s: float) -> None:
        module = "branchwork.runtime.grammar.compiler_child"
        command = [sys.executable, "-m", module, str(memory_mib), str(timeout_s)]
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

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def ask(self, constraint: bytes, timeout_s: float) -> bytes:
        """The program of a constraint. Raises ConstraintError when it is refused or the child is lost over it."""
        assert self._process.stdin is not None
        if not self._ready:
            self._receive(START_TIMEOUT_S)
            self._ready = True
        try:
            self._process.stdin.write(len(constraint).to_bytes(4, "little") + constraint)
            self._process.stdin.flush()
        except BrokenPipeError:
            self.kill()
            raise ConstraintError("the grammar compiler ended unexpectedly") from None
        reply: Any = msgspec.msgpack.decode(self._receive(timeout_s))
        if reply[0] == b"ok":
            return bytes(reply[1])
        if reply[0] == b"failed":
            raise RuntimeError(reply[1])
        raise ConstraintError(reply[1], reply[2])

    def _receive(self, timeout_s: float) -> bytes:
        """The next frame; the child is killed when it does not come in time."""
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        deadline = time.monotonic() + timeout_s
        while True:
            size = int.from_bytes(self._buffer[:4], "little")
            if len(self._buffer) >= 4 and len(self._buffer) >= 4 + size:
                frame, self._buffer = self._buffer[4 : 4 + size], self._buffer[4 + size :]
                return frame
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([pipe], [], [], left)[0]:
                self.kill()
                if not self._ready:
                    raise RuntimeError("the grammar compiler did not start in time")
                raise ConstraintError(
                    f"the constraint takes longer than {timeout_s:g} s to compile"
                )
            chunk = os.read(pipe, 1 << 20)
            if not chunk:
                self.kill()
                if not self._ready:
                    raise RuntimeError("the grammar compiler did not start")
                raise ConstraintError(
                    "the constraint needs more memory than the compiler may use (--grammar-memory)"
                )
            self._buffer += chunk

    def kill(self) -> None:
        """End the process now."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
