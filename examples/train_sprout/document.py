"""A training document: pieces of text, each either given to the model or wanted from it."""

from __future__ import annotations

from dataclasses import dataclass

END_OF_TEXT = "<|endoftext|>"
IM_START = "<|im_start|>"
IM_END = "<|im_end|>"
CUT = "\0"  # inside an answer: what stands between two cuts is weighed on its own


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of text; `wanted` means that the model has to produce it."""

    text: str
    wanted: bool = False


@dataclass(frozen=True, slots=True)
class Document:
    """One exercise. Its last wanted pieces are the answer that evaluation asks for.

    `stop` holds the characters at which a program would cut the last answer: a newline in plain
    text, and none in chat form, where the answer ends with `<|im_end|>`.
    """

    pieces: tuple[Piece, ...]
    stop: str = ""

    @property
    def text(self) -> str:
        """The whole document."""
        return "".join(piece.text for piece in self.pieces)

    @property
    def answer_pieces(self) -> slice:
        """Where the last run of wanted pieces lies."""
        kinds = [piece.wanted for piece in self.pieces]
        stop = len(kinds) - kinds[::-1].index(True)
        return slice(stop - kinds[:stop][::-1].index(False), stop)

    @property
    def prompt(self) -> str:
        """Everything before the last answer."""
        return "".join(piece.text for piece in self.pieces[: self.answer_pieces.start])

    @property
    def answer(self) -> str:
        """The last answer without its end mark and surrounding blanks."""
        text = "".join(piece.text for piece in self.pieces[self.answer_pieces])
        return text.removesuffix(IM_END).strip()

    def judge(self, generated: str) -> bool:
        """True if `generated`, cut at `stop`, is exactly the answer."""
        body = generated.lstrip()
        ends = [body.index(character) for character in self.stop if character in body]
        return body[: min(ends, default=len(body))].strip() == self.answer


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation; only an assistant's is wanted."""

    role: str
    content: str


def wanted(text: str) -> list[Piece]:
    """An answer as pieces, taken apart at its cuts."""
    return [Piece(part, wanted=True) for part in text.split(CUT)]


def chat(*turns: Turn) -> Document:
    """The turns in the ChatML form of sprout's chat template."""
    pieces: list[Piece] = []
    for turn in turns:
        if turn.role == "assistant":
            pieces.append(Piece(f"{IM_START}assistant\n"))
            pieces += wanted(f"{turn.content}{IM_END}")
            pieces.append(Piece("\n"))
        else:
            pieces.append(Piece(f"{IM_START}{turn.role}\n{turn.content}{IM_END}\n"))
    return Document(tuple(pieces[:-1]))


def plain(given: str, answer: str, *, stop: str = "\n") -> Document:
    """A text to complete; `given` ends without a blank, and `answer` may begin with one."""
    return Document((Piece(given), *wanted(answer)), stop)
