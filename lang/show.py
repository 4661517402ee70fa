"""Seeing a run: the tree of a program's branches, each stretch of text coloured by how it came about.

`cached` was found in the cache, `prefilled` was computed from what the program said, `sampled` was chosen by the
model token by token, `jumped` was decided by a constraint, `speculated` was guessed and kept, `selected` was scored.
"""

import html
import json
from collections.abc import Iterator

import msgspec

from branchwork.lang.branch import Branch
from branchwork.lang.cursor import Forked, Said
from branchwork.lang.ir import Select
from branchwork.lang.program import Program
from branchwork.lang.slot import Slot
from branchwork.lang.variable import render
from branchwork.runtime.wire.backend import Backend
from branchwork.runtime.wire.errors import BranchworkError
from branchwork.runtime.wire.messages import Usage

KINDS = ("cached", "prefilled", "sampled", "jumped", "speculated", "selected")

_ANSI = {
    "cached": "2",
    "prefilled": "0",
    "sampled": "32",
    "jumped": "35",
    "speculated": "36",
    "selected": "33",
}
_COLOURS = {
    "cached": "#8a8f98",
    "prefilled": "#24292f",
    "sampled": "#1a7f37",
    "jumped": "#8250df",
    "speculated": "#0969da",
    "selected": "#9a6700",
}


class Stretch(msgspec.Struct, frozen=True):
    """A piece of text that came about in one way; `note` is what there is to say of a slot's last one."""

    text: str
    kind: str
    note: str = ""


class Row(msgspec.Struct, frozen=True):
    """One branch: how deep it is in the tree, what it is called, and what it says."""

    depth: int
    title: str
    stretches: tuple[Stretch, ...]


def rows(program: Program) -> list[Row]:
    """The branches of a program, each after the one that it was forked from."""
    roots = [each for each in program.parties if isinstance(each, Branch) and each.base is None]
    return [row for root in roots for row in _rows(root, 0, program.name)]


def _rows(branch: Branch, depth: int, title: str) -> Iterator[Row]:
    yield Row(depth, title, tuple(_stretches(branch)))
    children = [
        each for each in branch.program.parties if isinstance(each, Branch) and each.base is branch
    ]
    for number, child in enumerate(children):
        yield from _rows(child, depth + 1, f"fork {number}")


def _stretches(branch: Branch) -> Iterator[Stretch]:
    chat_format = branch.program.backends[0].welcome.chat_format
    said: list[str] = []
    num_before = _length_before(branch)
    for piece in branch.pieces:
        if isinstance(piece, Forked):
            continue
        if isinstance(piece, Slot) and not piece.error:
            usage = piece.result.usage if piece.result else Usage()
            yield from _prompt("".join(said), usage, num_before)
            said.clear()
            yield from _answer(piece, branch.program.backends[0])
            num_before = usage.prompt + usage.completion
        elif isinstance(piece, Slot | Said):
            said.append(piece.slot.spoken if isinstance(piece, Said) else f"⟨{piece.error}⟩")
        else:
            said.append(render([piece], chat_format))
    if said:
        yield Stretch("".join(said).removesuffix("\n"), "prefilled")


def _length_before(branch: Branch) -> int:
    """How many tokens the branch had from its base, as far as a slot before tells."""
    if branch.base is None:
        return 0
    slots = [each for each in branch.base.all_pieces(branch.base_len) if isinstance(each, Slot)]
    usage = slots[-1].result.usage if slots and slots[-1].result else Usage()
    return usage.prompt + usage.completion


def _prompt(text: str, usage: Usage, num_before: int) -> Iterator[Stretch]:
    """What the program said before a slot: its first tokens may have been in the cache."""
    if not text:
        return
    count = max(usage.prompt - num_before, 1)
    cached = min(max(usage.cached - num_before, 0), count)
    cut = (
        len(text) * cached // count
    )  # tokens are not letters: the border is true to a token or two
    if cut:
        yield Stretch(text[:cut], "cached")
    if text[cut:]:
        yield Stretch(text[cut:], "prefilled")


def _answer(slot: Slot, backend: Backend) -> Iterator[Stretch]:
    usage = slot.result.usage if slot.result else Usage()
    note = f"{slot.wire_name}: {usage.completion} tokens, {usage.total_ms:.0f} ms"
    if isinstance(slot.expr, Select):
        yield Stretch(slot.spoken, "selected", f"{slot.wire_name}: {usage.total_ms:.0f} ms")
        return
    *first, last = _runs(slot, backend)
    yield from first
    yield Stretch(last.text, last.kind, note)


def _runs(slot: Slot, backend: Backend) -> list[Stretch]:
    """The answer by runs of tokens, where the backend can tell their text; else in one piece."""
    kinds = {run.kind for run in slot.runs}
    if len(kinds) <= 1 or slot.said is not None:
        return [Stretch(slot.spoken, next(iter(kinds), "sampled"))]
    try:
        texts = [_detokenized(run.token_ids, backend) for run in slot.runs]
    except BranchworkError:
        return [Stretch(slot.spoken, "sampled")]
    if not "".join(texts).startswith(slot.text):
        return [Stretch(slot.spoken, "sampled")]
    return [Stretch(text, run.kind) for text, run in zip(texts, slot.runs, strict=True)]


def _detokenized(token_ids: tuple[int, ...], backend: Backend) -> str:
    answer = json.loads(backend.request("detokenize", json.dumps({"token_ids": token_ids})))
    return str(answer.get("text", ""))


def as_text(program: Program, colour: bool) -> str:
    """The tree for a terminal; without `colour`, each stretch stands between marks."""
    lines = [_legend(colour)]
    for row in rows(program):
        indent = "│  " * row.depth
        lines.append(f"{indent}┌─ {row.title}")
        text = "".join(_painted(each, colour) for each in row.stretches)
        lines += [f"{indent}│ {line}" for line in text.split("\n")]
    return "\n".join(lines)


def _legend(colour: bool) -> str:
    return "  ".join(_painted(Stretch(kind, kind), colour) for kind in KINDS)


def _painted(stretch: Stretch, colour: bool) -> str:
    note = f" ({stretch.note})" if stretch.note else ""
    if not colour:
        return (
            stretch.text
            if stretch.kind == "prefilled"
            else f"[{stretch.kind}: {stretch.text}]{note}"
        )
    code = _ANSI[stretch.kind]
    # A colour must not run into the tree's own lines.
    painted = stretch.text.replace("\n", f"\x1b[0m\n\x1b[{code}m")
    return f"\x1b[{code}m{painted}\x1b[0m\x1b[2m{note}\x1b[0m"


def as_html(program: Program) -> str:
    """The tree as one self-contained piece of HTML."""
    legend = "".join(
        f'<span style="color:{_COLOURS[kind]};margin-right:1em">■ {kind}</span>' for kind in KINDS
    )
    blocks = "".join(_block(row) for row in rows(program))
    return f'<div style="font:13px/1.5 ui-monospace,monospace;background:#fff;padding:8px">{legend}{blocks}</div>'


def _block(row: Row) -> str:
    spans = "".join(_span(each) for each in row.stretches)
    style = f"margin:6px 0 0 {row.depth * 24}px;padding:4px 8px;border-left:3px solid #d0d7de;white-space:pre-wrap"
    return (
        f'<div style="{style}"><b style="color:#57606a">{html.escape(row.title)}</b>\n{spans}</div>'
    )


def _span(stretch: Stretch) -> str:
    note = f'<small style="color:#8a8f98"> {html.escape(stretch.note)} </small>'
    text = f'<span style="color:{_COLOURS[stretch.kind]}">{html.escape(stretch.text)}</span>'
    return text + note if stretch.note else text
