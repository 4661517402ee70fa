import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from branchwork.runtime.server.reasoning import AnswerReader
from branchwork.runtime.server.tools import FORMATS, Piece, ToolReader, format_of


def read(name: str, pieces: list[str]) -> tuple[str, list[tuple[str, str]]]:
    """The text of an answer, and its calls."""
    reader = ToolReader(FORMATS[name])
    found: list[Piece] = []
    for piece in pieces:
        found += reader.feed(piece)
    return gathered(found + reader.end())


def gathered(pieces: list[Piece]) -> tuple[str, list[tuple[str, str]]]:
    text, calls = "", []
    for piece in pieces:
        if piece.kind == "content":
            text += piece.text
        elif piece.kind == "call":
            assert piece.call == len(calls)
            calls.append((piece.text, ""))
        elif piece.kind == "arguments":
            name, arguments = calls[piece.call]
            calls[piece.call] = (name, arguments + piece.text)
    return text, calls


ARGUMENTS = '{"a": [1, {"b": "}]\\" <tool_call>"}], "c": {}}'
ONE = f'{{"name": "f", "arguments": {ARGUMENTS}}}'
CASES = [
    ("hermes", "no call at all", "no call at all", []),
    ("hermes", "a < b and <tool>", "a < b and <tool>", []),
    ("hermes", f"<tool_call>\n{ONE}\n</tool_call>", "", [("f", ARGUMENTS)]),
    (
        "hermes",
        f"Hm.\n<tool_call>{ONE}</tool_call>\n<tool_call>\n{ONE}\n</tool_call>\n",
        "Hm.",
        [("f", ARGUMENTS), ("f", ARGUMENTS)],
    ),
    ("hermes", f"<tool_call>{ONE}</tool_call> done", " done", [("f", ARGUMENTS)]),
    (
        "hermes",
        '<tool_call>{"arguments": {"x": 1}, "name": "g"}</tool_call>',
        "",
        [("g", '{"x":1}')],
    ),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"x": ', "", [("f", '{"x": ')]),
    ("hermes", "<tool_call>nonsense</tool_call>", "nonsense</tool_call>", []),
    ("llama3", '{"name": "f", "parameters": {"x": 1}}', "", [("f", '{"x": 1}')]),
    (
        "llama3",
        '<|python_tag|>{"name": "f", "parameters": {}}; {"name": "g", "parameters": {}}',
        "",
        [("f", "{}"), ("g", "{}")],
    ),
    ("llama3", 'I say {"name": "f"}', 'I say {"name": "f"}', []),
    ("llama3", '{"answer": 1}', '{"answer": 1}', []),
    (
        "mistral",
        '[TOOL_CALLS][{"name": "f", "arguments": {"x": 1}}, {"name": "g", "arguments": {}}]',
        "",
        [("f", '{"x": 1}'), ("g", "{}")],
    ),
    ("mistral", '[{"name": "f", "arguments": {}}]', "", [("f", "{}")]),
    ("mistral", "plain", "plain", []),
]


@pytest.mark.parametrize(("name", "answer", "text", "calls"), CASES)
def test_text_and_calls_are_told_apart(
    name: str, answer: str, text: str, calls: list[tuple[str, str]]
) -> None:
    assert read(name, [answer]) == (text, calls)


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(CASES), st.data())
def test_it_does_not_matter_how_an_answer_is_cut(
    case: tuple[str, str, str, list[tuple[str, str]]], data: st.DataObject
) -> None:
    name, answer, text, calls = case
    cuts = sorted(data.draw(st.sets(st.integers(0, len(answer)), max_size=12)))
    ends = [0, *cuts, len(answer)]
    pieces = [answer[a:b] for a, b in itertools.pairwise(ends)]
    assert read(name, pieces)[1] == calls
    assert "".join(read(name, pieces)[0].split()) == "".join(text.split())


@settings(max_examples=60, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=6,
    ),
    st.integers(1, 7),
)
def test_arguments_come_through_unchanged(value: object, size: int) -> None:
    arguments = json.dumps({"value": value})
    answer = f'<tool_call>\n{{"name": "f", "arguments": {arguments}}}\n</tool_call>'
    pieces = [answer[i : i + size] for i in range(0, len(answer), size)]
    assert read("hermes", pieces) == ("", [("f", arguments)])


@pytest.mark.parametrize("answer", ["<tool_call>" * 5000, "<" * 100_000, '{"name": "' * 5000])
def test_hostile_answers_take_linear_time(answer: str) -> None:
    for name in FORMATS:
        read(name, [answer[i : i + 100] for i in range(0, len(answer), 100)])


def test_a_template_says_which_format_its_model_writes() -> None:
    assert format_of("… <tool_call> …") is FORMATS["hermes"]
    assert format_of("… [TOOL_CALLS] …") is FORMATS["mistral"]
    assert format_of('… ipython … "parameters" …') is FORMATS["llama3"]
    assert format_of("a template that knows no tools") is FORMATS["hermes"]


@pytest.mark.parametrize("size", [1, 2, 5, 100])
@pytest.mark.parametrize(
    ("answer", "begun", "thought", "text"),
    [
        ("<think>\na < b\n</think>\n\nyes", False, "a < b", "yes"),
        ("a </thin b</think>yes", True, "a </thin b", "yes"),
        ("no thought", False, "", "no thought"),
        ("<think>never ends", False, "never ends", ""),
        ("<thinking>", False, "", "<thinking>"),
    ],
)
def test_thoughts_are_told_apart(
    answer: str, begun: bool, thought: str, text: str, size: int
) -> None:
    reader = AnswerReader(None, thinks=True, begun=begun)
    pieces: list[Piece] = []
    for i in range(0, len(answer), size):
        pieces += reader.feed(answer[i : i + size])
    pieces += reader.end()
    assert "".join(piece.text for piece in pieces if piece.kind == "reasoning") == thought
    assert "".join(piece.text for piece in pieces if piece.kind == "content") == text


def test_a_call_may_follow_a_thought() -> None:
    reader = AnswerReader(ToolReader(FORMATS["hermes"]), thinks=True)
    pieces = reader.feed(f"<think>hm</think>\n<tool_call>\n{ONE}\n</tool_call>") + reader.end()
    assert pieces[0] == Piece("reasoning", "hm")
    assert gathered(pieces[1:]) == ("", [("f", ARGUMENTS)])
