"""The text of one slot: what has been written, what a stop may still take back, what the client has."""

from typing import Literal, NamedTuple

from branchwork.runtime.engine.context import Context
from branchwork.runtime.grammar.stops import StopTable
from branchwork.runtime.wire.messages import Gen, Run, TokenLogprob, Tokens

Kind = Literal["sampled", "jumped", "speculated"]


class Stop(NamedTuple):
    """A stop found at bytes [start, end) of an answer's text."""

    start: int
    end: int
    matched: str


class Answer:
    """Grows by tokens; sends bytes as soon as no stop can take them back.

    `hidden` bytes at the beginning (a healed boundary) belong to the prompt: the text begins after them.
    """

    def __init__(
        self, context: Context, client: bytes, gen: Gen, patterns: tuple[StopTable, ...] = ()
    ) -> None:
        self.text = bytearray()
        self.num_tokens = 0
        self.num_of: dict[Kind, int] = {"sampled": 0, "jumped": 0, "speculated": 0}
        self._context = context
        self._client = client
        self._gen = gen
        self.num_hidden = 0
        self._sent = 0
        self._runs: list[tuple[Kind, list[int]]] = []
        self._logprobs: list[TokenLogprob] = []
        stop = gen.sampling.stop
        self._scanner = context.new_scanner(stop, patterns) if stop or patterns else None
        self._scan_from = 0

    def hide(self, num_bytes: int) -> None:
        """Let the next bytes be no part of the text."""
        self.num_hidden = num_bytes

    def write(self, token_ids: tuple[int, ...], kind: Kind) -> Stop | None:
        """Add tokens; returns the stop that they complete, if they do."""
        count, bytes_of = len(token_ids), self._context.bytes_of
        self.num_tokens += count
        self.num_of[kind] += count
        if self._runs and self._runs[-1][0] == kind:
            self._runs[-1][1].extend(token_ids)
        else:
            self._runs.append((kind, list(token_ids)))
        data = bytes_of(token_ids[0]) if count == 1 else b"".join(map(bytes_of, token_ids))
        if self.num_hidden:
            hidden = min(self.num_hidden, len(data))
            self.num_hidden -= hidden
            data = data[hidden:]
        self.text += data
        if self._scanner is None:
            return None
        if self.num_tokens < self._gen.sampling.min_tokens:
            self._scan_from = len(self.text)
            return None
        hit = self._scanner.feed(data)
        if hit is None:
            return None
        return Stop(hit.start + self._scan_from, hit.end + self._scan_from, hit.matched)

    def cut(self, length: int) -> None:
        """Take back the text from byte `length` on; the tokens stay counted, since they were computed."""
        del self.text[length:]

    def add_logprob(self, logprob: TokenLogprob) -> None:
        """The next token's logprob, in the order of the tokens."""
        self._logprobs.append(logprob)

    def send(self) -> None:
        """While the slot is being filled: send what is new and final, if the client reads along."""
        if not self._gen.stream:
            return
        held = self._scanner.held if self._scanner is not None else 0
        if len(self.text) - held > self._sent:
            self._emit(len(self.text) - held)

    def send_rest(self) -> None:
        """At the end: send all that the client has not seen."""
        if self._runs or len(self.text) > self._sent:
            self._emit(len(self.text))

    def _emit(self, stop: int) -> None:
        data = bytes(self.text[self._sent : stop])
        runs = tuple([Run(kind, tuple(ids)) for kind, ids in self._runs])
        logprobs = tuple(self._logprobs)
        self._sent = stop
        self._runs.clear()
        self._logprobs.clear()
        event = Tokens(self._gen.branch, self._gen.slot, data, runs, logprobs)
        self._context.emit(self._client, event)
