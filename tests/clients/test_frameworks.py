"""Frameworks on top of OpenAI's API: litellm, langchain, pydantic-ai, instructor."""

from typing import Any

import pytest
from pydantic import BaseModel
from tests.clients.conftest import KEY
from tests.clients.jobs import CHAT, QUESTION, RECORD, WEATHER

pytestmark = [pytest.mark.clients, pytest.mark.filterwarnings("ignore")]


class Person(BaseModel):
    """A person's record."""

    name: str
    age: int
    city: str


def test_litellm_completes_streams_and_calls_tools(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # no network
    litellm = pytest.importorskip("litellm")
    ask: dict[str, Any] = {
        "model": "openai/sprout",
        "api_base": url + "/v1",
        "api_key": KEY,
        "temperature": 0,
        "max_tokens": 100,
    }
    whole = litellm.completion(messages=CHAT, **ask)
    chunks = litellm.completion(messages=CHAT, stream=True, **ask)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content
    called = litellm.completion(messages=CHAT, tools=[WEATHER], tool_choice="required", **ask)
    assert called.choices[0].message.tool_calls[0].function.name == "get_weather"


def test_langchain_invokes_streams_and_structures(url: str) -> None:
    module = pytest.importorskip("langchain_openai")
    model = module.ChatOpenAI(
        model="sprout", base_url=url + "/v1", api_key=KEY, temperature=0, max_tokens=200
    )
    whole = model.invoke(QUESTION)
    assert "".join(chunk.content for chunk in model.stream(QUESTION)) == whole.content
    assert whole.usage_metadata["total_tokens"] > 0
    for method in ("json_schema", "function_calling"):
        structured = model.with_structured_output(Person, method=method)
        assert isinstance(structured.invoke(RECORD), Person)
    assert len(model.batch([QUESTION] * 4)) == 4


def test_pydantic_ai_answers_in_types_and_calls_tools(url: str) -> None:
    pytest.importorskip("pydantic_ai")
    from pydantic_ai import Agent, NativeOutput, ToolOutput  # noqa: PLC0415
    from pydantic_ai.models.openai import OpenAIChatModel  # noqa: PLC0415
    from pydantic_ai.providers.openai import OpenAIProvider  # noqa: PLC0415

    provider = OpenAIProvider(base_url=url + "/v1", api_key=KEY)
    model = OpenAIChatModel("sprout", provider=provider)
    settings: Any = {"temperature": 0, "max_tokens": 200, "timeout": 120}
    for output in (NativeOutput(Person), ToolOutput(Person)):
        agent = Agent(model, output_type=output, model_settings=settings, retries=0)
        assert isinstance(agent.run_sync(RECORD).output, Person)
    text = Agent(model, model_settings=settings).run_sync(QUESTION)
    assert text.output
    assert text.usage.output_tokens > 0 if not callable(text.usage) else text.usage().output_tokens


def test_instructor_gives_models_in_every_mode(url: str) -> None:
    instructor = pytest.importorskip("instructor")
    openai = pytest.importorskip("openai")
    for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA):
        with openai.OpenAI(base_url=url + "/v1", api_key=KEY) as inner:
            client = instructor.from_openai(inner, mode=mode)
            person = client.chat.completions.create(
                model="sprout",
                messages=[{"role": "user", "content": RECORD}],
                response_model=Person,
                max_retries=0,
                temperature=0,
                max_tokens=200,
            )
        assert isinstance(person, Person)
