"""Thinking apart from answering: what stands between `<think>` and `</think>` is the reasoning."""

from collections.abc import Iterable
from typing import Literal

from branchwork.runtime.server.answers import decoder
from branchwork.runtime.server.tools import Piece, ToolReader, overlap
from branchwork.runtime.wire.messages import Concat, Constraint, FreeText

BEGIN, END = "<think>", "</think>"


def after_thinking(constraint: Constraint, begun: bool) -> Concat:
    """Free thought first, then an answer under `constraint`; `begun`: the prompt has opened the thought."""
    thought = (FreeText(until=(END,)), END + "\n\n", constraint)
    return Concat(thought if begun else (BEGIN, *thought))


class AnswerReader:
    """Splits an answer into reasoning, text and calls as it arrives.

    `thought_tokens` counts what was fed before the answer began: exact to the step in which the thought ended, since
    the tokens of a step arrive together.
    """

    def __init__(self, tools: ToolReader | None, thinks: bool = False, begun: bool = False) -> None:
        self._tools = tools
        self._held = ""
        self._thought_begun = False
        self.thought_tokens = 0
        self._where: Literal["start", "thought", "gap", "answer"] = "answer"
        if thinks:
            self._where = "thought" if begun else "start"

    @property
    def calls(self) -> int:
        """Whole calls so far."""
        return self._tools.calls if self._tools else 0

    def feed(self, text: str, num_tokens: int = 0) -> list[Piece]:
        """What more of the answer says, of so many tokens."""
        if self._where == "answer":
            return self._answer(text)
        self._held += text
        pieces: list[Piece] = []
        if self._where != "gap":
            self.thought_tokens += num_tokens
        if self._where == "start":
            pieces += self._start()
        if self._where == "thought":
            pieces += self._thought()
        if self._where == "gap" and self._held.strip():
            pieces += self._begin_answer(self._held.lstrip())
        return pieces

    def end(self) -> list[Piece]:
        """What was held back, now that nothing follows."""
        held, self._held = self._held, ""
        pieces: list[Piece] = []
        if held and self._where == "thought":
            pieces.append(Piece("reasoning", held))
        elif held and self._where == "start":
            self.thought_tokens = 0
            pieces += self._answer(held)
        return pieces + (self._tools.end() if self._tools else [])

    def _answer(self, text: str) -> list[Piece]:
        if self._tools:
            return self._tools.feed(text)
        return [Piece("content", text)] if text else []

    def _begin_answer(self, text: str) -> list[Piece]:
        self._held, self._where = "", "answer"
        return self._answer(text)

    def _start(self) -> list[Piece]:
        start = self._held.lstrip()
        if start.startswith(BEGIN):
            self._held, self._where = start[len(BEGIN) :], "thought"
        elif not BEGIN.startswith(start):
            self.thought_tokens = 0
            return self._begin_answer(self._held)
        return []

    def _thought(self) -> list[Piece]:
        if not self._thought_begun:
            self._held = self._held.lstrip("\n")
        thought, found, after = self._held.partition(END)
        if found:
            self._held, self._where = after, "gap"
            thought = thought.rstrip("\n")
        else:
            free = len(thought[: len(thought) - overlap(thought, END)].rstrip("\n"))
            thought, self._held = thought[:free], thought[free:]
        self._thought_begun = self._thought_begun or bool(thought)
        return [Piece("reasoning", thought)] if thought else []


def count_thought(steps: Iterable[tuple[bytes, int]], reader: AnswerReader) -> int:
    """Tokens of the thought of a whole answer, by its steps: bytes, and how many tokens came with them."""
    text = decoder()
    for data, num_tokens in steps:
        reader.feed(text.decode(data), num_tokens)
    return reader.thought_tokens
