"""The anthropic package."""

from typing import Any

import pytest
from tests.clients.conftest import KEY
from tests.clients.jobs import CHAT, WEATHER

anthropic = pytest.importorskip("anthropic")
pytestmark = [pytest.mark.clients, pytest.mark.filterwarnings("ignore")]

TOOL = {
    "name": "get_weather",
    "description": "The weather in a city.",
    "input_schema": WEATHER["function"]["parameters"],
}


@pytest.fixture
def client(url: str) -> Any:
    with anthropic.Anthropic(base_url=url, api_key=KEY, max_retries=0, timeout=180) as made:
        yield made


def test_message_and_stream(client: Any) -> None:
    ask = {"model": "sprout", "messages": CHAT, "max_tokens": 30, "extra_body": {"temperature": 0}}
    whole = client.messages.create(**ask)
    assert whole.stop_reason in ("end_turn", "max_tokens")
    with client.messages.stream(**ask) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == whole.content[0].text
    assert final.usage.output_tokens == whole.usage.output_tokens


def test_a_tool_must_be_used(client: Any) -> None:
    answer = client.messages.create(
        model="sprout",
        messages=[{"role": "user", "content": "What is the weather in Oslo?"}],
        max_tokens=200,
        tools=[TOOL],
        tool_choice={"type": "tool", "name": "get_weather"},
        extra_body={"temperature": 0},
    )
    assert answer.stop_reason == "tool_use"
    assert set(answer.content[-1].input) == {"city"}


def test_tokens_are_counted(client: Any) -> None:
    assert client.messages.count_tokens(model="sprout", messages=CHAT).input_tokens > 5
