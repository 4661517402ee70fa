"""llama-index: its client for servers like OpenAI's, blocking and not, whole and streamed."""

import asyncio
from typing import Any

import pytest
from tests.clients.jobs import (
    ASK_WEATHER,
    KEY,
    KNOWS,
    QUESTION,
    RECORD,
    Person,
    check_answer,
    check_person,
)

pytest.importorskip("llama_index.llms.openai_like")
from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike

pytestmark = [pytest.mark.clients, pytest.mark.filterwarnings("ignore")]

WAYS = pytest.mark.parametrize("way", ["", "stream_", "a", "astream_"])
TURNS = [ChatMessage(role="system", content="You help."), ChatMessage(content=QUESTION)]


def make_model(url: str, **options: Any) -> Any:
    return OpenAILike(
        model="sprout",
        api_base=url + "/v1",
        api_key=KEY,
        temperature=0,
        max_tokens=200,
        max_retries=0,
        timeout=180,
        **{"is_chat_model": True, "is_function_calling_model": True, **options},
    )


def call(model: Any, way: str, name: str, *arguments: Any, **options: Any) -> list[Any]:
    """What the method gives in its four forms: one answer, or the states of a growing one."""
    made = getattr(model, way + name)
    if not way.startswith("a"):
        found = made(*arguments, **options)
        return list(found) if way else [found]

    async def scene() -> list[Any]:
        found = await made(*arguments, **options)
        return [each async for each in found] if "stream" in way else [found]

    return asyncio.run(scene())


@WAYS
def test_a_chat(url: str, way: str) -> None:
    answers = call(make_model(url), way, "chat", TURNS)
    check_answer(answers[-1].message.content, "Paris")
    if "stream" in way:
        assert "".join(each.delta or "" for each in answers) == answers[-1].message.content


@WAYS
@pytest.mark.parametrize("chat", [True, False], ids=["chat", "text"])
def test_a_completion(url: str, way: str, chat: bool) -> None:
    answers = call(make_model(url, is_chat_model=chat), way, "complete", "1 2 3 4")
    check_answer(answers[-1].text)
    if "stream" in way:
        assert "".join(each.delta or "" for each in answers) == answers[-1].text


@WAYS
def test_a_tool_that_must_be_called(url: str, way: str) -> None:
    def get_weather(city: str) -> str:
        """The weather in a city."""
        return f"sunny in {city}"

    tool = FunctionTool.from_defaults(get_weather)
    model = make_model(url)
    options = {"user_msg": ASK_WEATHER, "tool_required": True}
    answers = call(model, way, "chat_with_tools", [tool], **options)
    (made,) = model.get_tool_calls_from_response(answers[-1])
    assert made.tool_name == "get_weather"
    assert set(made.tool_kwargs) == {"city"}
    output = tool.call(**made.tool_kwargs).raw_output
    assert output.startswith("sunny in ")
    if KNOWS:
        assert output == "sunny in Oslo"


@pytest.mark.parametrize("way", ["", "a"])
def test_a_tool_is_called_for_its_result(url: str, way: str) -> None:
    def get_weather(city: str) -> str:
        """The weather in a city."""
        return f"sunny in {city}"

    tool = FunctionTool.from_defaults(get_weather)
    options = {"user_msg": ASK_WEATHER, "tool_required": True}
    (answer,) = call(make_model(url), way, "predict_and_call", [tool], **options)
    assert str(answer).startswith("sunny in ")


@WAYS
def test_a_prompt_is_answered_in_a_type(url: str, way: str) -> None:
    model = make_model(url)
    found = call(model, way, "structured_predict", Person, PromptTemplate("{text}"), text=RECORD)
    # It streams with `tool_choice: auto`, where whether to call is the model's: on random weights two ways fail.
    check_person(found[-1])


@pytest.mark.parametrize("way", ["", "a"])
def test_a_chat_is_answered_in_a_type(url: str, way: str) -> None:
    model = make_model(url).as_structured_llm(Person)
    (answer,) = call(model, way, "chat", [ChatMessage(content=RECORD)])
    assert isinstance(answer.raw, Person)
    check_person(answer.raw)


def test_logprobs(url: str) -> None:
    answer = make_model(url, logprobs=True, top_logprobs=2).chat(TURNS)
    assert all(len(each) == 2 for each in answer.logprobs)
    assert all(one.logprob <= 0 for each in answer.logprobs for one in each)


def test_constraints_of_our_own(url: str) -> None:
    model = make_model(url, additional_kwargs={"extra_body": {"regex": "[0-9]{4}"}})
    assert len(str(int("1" + model.chat(TURNS).message.content))) == 5


@pytest.mark.parametrize("way", ["", "a"])
def test_embeddings(url: str, way: str) -> None:
    model = OpenAILikeEmbedding(model_name="sprout", api_base=url + "/v1", api_key=KEY)
    (vectors,) = (
        call(model, way, "get_text_embedding_batch", ["a cat", "a dog"])
        if not way
        else [asyncio.run(model.aget_text_embedding_batch(["a cat", "a dog"]))]
    )
    assert [len(each) for each in vectors] == [256, 256]


@pytest.mark.parametrize("way", ["", "a"])
def test_an_error_is_openais(url: str, way: str) -> None:
    import openai  # noqa: PLC0415

    with pytest.raises(openai.BadRequestError) as caught:
        call(make_model(url), way, "chat", TURNS, n=1000)
    assert caught.value.param == "n"
