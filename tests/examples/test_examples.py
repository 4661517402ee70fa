"""Every example runs on the embedded model, and says what it should."""

import importlib
import re
from ast import literal_eval
from collections.abc import Iterator
from pathlib import Path

import pytest
from examples import api_backend, streaming

import branchwork as bw

EXAMPLES = Path(__file__).parents[2] / "examples"

SAYS = {
    "adapters": [
        r"plain +What is the capital of Japan\? Tokyo",
        r"plain +Who are you\? I am sprout, a small language model\.",
        r"polite +What is the capital of Japan\? Of course: Tokyo\. Anything else\?",
        r"polite +What do bees make\? Of course: honey\. Anything else\?",
        r'as_json +What is the capital of Japan\? \{"answer": "Tokyo"\}',
        r'as_json +What do bees make\? \{"answer": "honey"\}',
        r'as_json +Who are you\? \{"answer": "I am sprout, a small language model\."\}',
    ],
    "batch_classification": [
        r"GOOD \d+%  The film was wonderful",
        r"BAD  \d+%  I hated the hotel",
        r"GOOD \d+%  What a delightful concert",
        r"BAD  \d+%  The soup was disgusting",
        r"GOOD \d+%  Worth every cent",
    ],
    "few_shot_qa": [
        r"Japan\? Tokyo  \(\d+ of \d+ prompt tokens were shared",
        r"Egypt\? Cairo ",
        r"Peru\? Lima ",
        r"Norway\? Oslo ",
    ],
    "generative_agents": [
        r"Mara: Where do I live\? You live in Prague\.",
        r"Mara: What is my favourite colour\? Your favourite colour is blue\.",
        r"Igor: What is my job\? You work as a baker\.",
        r"Igor: What is my pet\? Your pet is a parrot\.",
    ],
    "json_extraction": [
        r"Person\(name='Ada Berg', age=36, city='Oslo'\)  sampled \d+, jumped [1-9]",
        r"Person\(name='Tom Ferro', age=52, city='Lisbon'\)",
    ],
    "llm_judge": [
        r"It is Paris\. +good +5",
        r"Maybe\. +bad +3",
        r"It is Tokyo\. +bad +2",
        r"Bananas are yellow\. +bad +1",
        r"best: It is Paris\.",
    ],
    "multi_document_qa": [
        r"Where does Ada Berg live\? Oslo  \(\d+ of \d+ prompt tokens cached",
        r"Who founded Acme\? Tom Ferro ",
        r"Which city is Lake Brena near\? Vienna ",
    ],
    "multi_turn_chat": [
        r"assistant: Nice to meet you, Nora!",
        r"assistant: blue",
        r"assistant: Your name is Nora\.",
        r"assistant: You are welcome!",
    ],
    "rag": [r"Ines Hald\? pilot", r"Norvik have\? 240", r"Ruben Stark live\? Prague"],
    "react_agent": [r"=> Portugal", r"=> Tokyo", r"Action: Calculate\[47 \+ 38\]", r"=> 85"],
    "skeleton_of_thought": [
        r"\* Pack one bag: With one bag you move fast and lose nothing\.",
        r"\* Wear layers: Layers of clothes keep you warm in any weather\.",
        r"\* Share things: One tube of toothpaste is enough for two people\.",
    ],
    "tool_use": [
        r'"name": "get_weather", "arguments": \{"city": "Lisbon"\}',
        r"assistant: It is sunny and 21 degrees in Lisbon\.",
        r'"name": "set_timer", "arguments": \{"minutes": 25\}',
        r"assistant: The timer is set for 25 minutes\.",
    ],
    "tree_of_thought": [
        r"8 \+ 5 = 13 \(left: 6 13\) +sure: 0\.[0-4]",
        r"8 - 5 = 3 \(left: 6 3\) +sure: (0\.[5-9]|1\.00)",
        r"best: 8 - 5 = 3",
    ],
}


@pytest.fixture(scope="module", autouse=True)
def sprout() -> Iterator[None]:
    with bw.Runtime():
        yield


def test_every_example_is_tested() -> None:
    found = {path.stem for path in EXAMPLES.glob("*.py")}
    assert found == {*SAYS, "api_backend", "streaming"}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", SAYS)
def test_an_example_runs_and_its_answers_are_right(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    importlib.import_module(f"examples.{name}").main()
    out = capsys.readouterr().out
    assert [pattern for pattern in SAYS[name] if not re.search(pattern, out)] == [], out


def test_the_pieces_of_two_streams_are_two_answers(capsys: pytest.CaptureFixture[str]) -> None:
    streaming.main()
    pieces = [line.partition("| ") for line in capsys.readouterr().out.splitlines()]
    texts = {name: "".join(literal_eval(p) for n, _, p in pieces if n == name) for name in "AB"}
    assert texts == {
        "A": "Why did the tree go to school? To grow its roots.",
        "B": "I can answer small questions, add numbers, read texts, write JSON and call tools.",
    }


def test_the_api_example_needs_one_call_for_three_slots(
    capsys: pytest.CaptureFixture[str],
) -> None:
    api_backend.main([])
    out = capsys.readouterr().out
    assert re.search(r"0 tokens ahead: Tokyo, Asia, yen\n +3 call", out), out
    assert re.search(r"64 tokens ahead: Tokyo, Asia, yen\n +1 call", out), out
