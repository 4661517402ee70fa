"""What an API has to be able to do to serve programs."""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from branchwork.lang.api.transcript import Transcript
from branchwork.runtime.wire import messages as wire


class Completion(msgspec.Struct, frozen=True):
    """What a call has brought. `matched` is the stop that ended it, where the API tells."""

    text: str
    reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    matched: str | int | None = None
    logprobs: tuple[wire.TokenLogprob, ...] = ()
    prompt_logprobs: tuple[wire.TokenLogprob, ...] = ()


class Emit(Protocol):
    """Takes the text of an answer piece by piece, with the log-probabilities of its tokens where they are known."""

    def __call__(self, text: str, logprobs: Sequence[wire.TokenLogprob] = ()) -> None:
        """More of the answer has come."""


class Provider(Protocol):
    """One API and one model. Its methods block, and are called from several threads at once.

    They raise `RequestError` for what the API refuses, and `TransportError` when it cannot be reached.
    `continues` says whether a message of the model may be begun by the program.
    """

    name: str
    chat_format: wire.ChatFormat
    continues: bool

    def generate(self, transcript: Transcript, gen: wire.Gen, emit: Emit) -> Completion:
        """Continue the transcript; `emit` takes the text piece by piece where `gen.stream` asks for it."""
        ...

    def select(self, transcript: Transcript, select: wire.Select) -> Sequence[wire.ChoiceScore]:
        """How well each choice continues the transcript; the highest `score` is the best."""
        ...
