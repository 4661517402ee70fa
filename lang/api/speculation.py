"""Writing ahead: one call answers several slots, where what the model wrote fits what the program says next.

From the SGLang paper (Zheng et al. 2024, section 5, "API speculative execution"): the first slot's call is not
stopped where the slot ends; what comes after is kept, matched against the constants that follow, and the next
slots are read from it. Each slot that is answered so saves the prompt of one call.
"""

import re
from typing import Self

import msgspec

from branchwork.lang.api.provider import Completion
from branchwork.runtime.wire import messages as wire


class TokenUsage:
    """What an API was asked for, in tokens. `saved_prompt_tokens` is what writing ahead has made unnecessary."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Count from zero."""
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.saved_prompt_tokens = 0
        self.calls = 0

    def add(self, completion: Completion) -> None:
        """A call was made."""
        self.prompt_tokens += completion.prompt_tokens
        self.completion_tokens += completion.completion_tokens
        self.calls += 1

    def __repr__(self) -> str:
        counts = ", ".join(f"{name}={count}" for name, count in vars(self).items())
        return f"TokenUsage({counts})"

    def save(self, prompt_tokens: int) -> None:
        """A call was not made; it would have sent at least as much as the one before."""
        self.saved_prompt_tokens += prompt_tokens


class Ahead:
    """What the model has written beyond the last slot of a branch."""

    __slots__ = ("prompt_tokens", "text")

    def __init__(self, text: str = "", prompt_tokens: int = 0) -> None:
        self.text = text
        self.prompt_tokens = prompt_tokens

    def copy(self) -> Self:
        """For a fork."""
        return type(self)(self.text, self.prompt_tokens)

    def pass_over(self, text: wire.Text) -> None:
        """The program says `text`: what was written ahead goes on after it, or is of no use."""
        words = text.text
        self.text = (
            self.text[len(words) :] if not text.special and self.text.startswith(words) else ""
        )

    def answer(self, gen: wire.Gen) -> str | None:
        """The slot's text, if it was written ahead as far as one of its stops; else None."""
        end = _end(self.text, gen.sampling)
        if not self.text or end is None:
            return None
        answer, self.text = self.text[:end], self.text[end:]
        return answer

    def widened(self, gen: wire.Gen, spec_tokens: int) -> wire.Gen:
        """The instruction to send: on past the slot's own end, and at least `spec_tokens` long."""
        own = gen.sampling.max_tokens or 0
        sampling = msgspec.structs.replace(
            gen.sampling, max_tokens=max(own, spec_tokens), stop=(), stop_regex=()
        )
        return msgspec.structs.replace(gen, sampling=sampling, stream=False)

    def take(self, gen: wire.Gen, completion: Completion, begun: str) -> str:
        """The slot's own part of what came; the rest is kept. `begun` is what the message already said."""
        text = completion.text
        if begun and text.startswith(begun.rstrip()):
            text = text[len(begun.rstrip()) :]  # a chat model writes the message anew
        end = _end(text, gen.sampling)
        self.prompt_tokens = completion.prompt_tokens
        self.text = "" if end is None else text[end:]
        return text if end is None else text[:end]


def _end(text: str, sampling: wire.Sampling) -> int | None:
    """Where the first stop begins in `text`; None where there is none."""
    ends = [text.find(stop) for stop in sampling.stop]
    ends += [found.start() for stop in sampling.stop_regex if (found := re.search(stop, text))]
    return min((end for end in ends if end >= 0), default=None)
