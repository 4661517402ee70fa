"""Every example runs on the embedded model, and says what it should."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from examples import api_backend
from tests.fake_api import FakeApi

import branchwork as bw

EXAMPLES = Path(__file__).parents[2] / "examples"

SAYS = {
    "batch_classification": ["GOOD", "BAD"],
    "few_shot_qa": ["Tokyo", "Cairo", "Lima", "Oslo", "prompt tokens were shared"],
    "generative_agents": ["Prague", "baker"],
    "json_extraction": ["Person(name='Ada Berg', age=36, city='Oslo')", "jumped"],
    "llm_judge": ["best: It is Paris."],
    "multi_document_qa": ["Oslo", "cached"],
    "multi_turn_chat": ["Nora", "user:", "assistant:"],
    "rag": ["pilot", "240", "Prague"],
    "react_agent": ["=> Portugal", "=> Tokyo", "=> 85"],
    "skeleton_of_thought": ["* "],
    "streaming": ["A| ", "B| "],
    "tool_use": ["get_weather", "21", "set_timer"],
    "tree_of_thought": ["best:", "sure:"],
}


@pytest.fixture(scope="module", autouse=True)
def sprout() -> Iterator[None]:
    with bw.Runtime():
        yield


def test_every_example_is_tested() -> None:
    found = {path.stem for path in EXAMPLES.glob("*.py")}
    assert found == {*SAYS, "api_backend"}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", SAYS)
def test_an_example_runs_and_makes_sense(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    importlib.import_module(f"examples.{name}").main()
    out = capsys.readouterr().out
    assert [words for words in SAYS[name] if words not in out] == []


def test_the_api_example_needs_one_call_for_three_slots(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def answer(path: str, body: dict[str, Any]) -> Any:
        card = "Country: Japan\nCapital: Tokyo\nCurrency: yen\nContinent: Asia\n"
        text = card[len(body["prompt"]) :]
        usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": 9}
        return {"choices": [{"text": text, "finish_reason": "stop"}], "usage": usage}

    api = FakeApi(answer)
    try:
        api_backend.main(["--base-url", f"{api.url}/v1"])
    finally:
        api.close()
    out = capsys.readouterr().out
    assert "Currency: yen" in out
    assert "1 call(s)" in out
