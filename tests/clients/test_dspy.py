"""dspy: a language model of its own, predictions in types, streams."""

import asyncio
from typing import Any, Literal

import pytest
from tests.clients.jobs import (
    CHAT,
    KEY,
    QUESTION,
    RECORD,
    Person,
    check_answer,
)

dspy = pytest.importorskip("dspy")
pytestmark = [pytest.mark.clients, pytest.mark.filterwarnings("ignore")]

BLOCKING = pytest.mark.parametrize("blocking", [True, False], ids=["blocking", "async"])


def make_model(url: str, **options: Any) -> Any:
    class Served(dspy.LM):
        """dspy asks a model that it does not know for any JSON object; this one it knows."""

        supports_response_schema = True
        supports_function_calling = True
        supported_params = frozenset(
            ("temperature", "max_tokens", "response_format", "tools", "tool_choice")
        )

    settings = {"temperature": 0, "max_tokens": 300, "cache": False, "num_retries": 0, **options}
    return Served("openai/sprout", api_base=url + "/v1", api_key=KEY, **settings)


def predict(url: str, program: Any, blocking: bool, adapter: Any, **inputs: Any) -> Any:
    with dspy.context(lm=make_model(url), adapter=adapter):
        if blocking:
            return program(**inputs)
        return asyncio.run(program.acall(**inputs))


@BLOCKING
@pytest.mark.parametrize("form", ["prompt", "messages"])
def test_the_model_answers(url: str, blocking: bool, form: str) -> None:
    model = make_model(url)
    asked = {"prompt": QUESTION} if form == "prompt" else {"messages": CHAT}
    (answer,) = model(**asked) if blocking else asyncio.run(model.acall(**asked))
    text = answer if isinstance(answer, str) else answer["text"]
    check_answer(text, "Paris")
    assert text


def test_several_answers(url: str) -> None:
    assert len(make_model(url, temperature=1)(QUESTION, n=3)) == 3


TYPES: dict[str, Any] = {
    "str": str,
    "int": int,
    "bool": bool,
    "list": list[str],
    "literal": Literal["red", "green"],
    "model": Person,
}


@BLOCKING
@pytest.mark.parametrize("name", TYPES)
def test_a_prediction_has_the_type_of_its_field(url: str, blocking: bool, name: str) -> None:
    kind = TYPES[name]
    fields = {"question": (str, dspy.InputField()), "answer": (kind, dspy.OutputField())}
    program = dspy.Predict(dspy.make_signature(fields))
    asked = RECORD if name == "model" else QUESTION
    found = predict(url, program, blocking, dspy.JSONAdapter(), question=asked).answer
    if name == "model":
        assert isinstance(found, Person)
    elif name == "list":
        assert all(isinstance(each, str) for each in found)
    elif name == "literal":
        assert found in ("red", "green")
    else:
        assert isinstance(found, kind)


@BLOCKING
def test_a_prediction_gives_its_reasons(url: str, blocking: bool) -> None:
    program = dspy.ChainOfThought("question -> answer: int")
    found = predict(url, program, blocking, dspy.JSONAdapter(), question="What is 2 + 3?")
    assert isinstance(found.reasoning, str)
    assert isinstance(found.answer, int)


def test_an_answer_that_is_no_chat_falls_back_to_a_schema(url: str) -> None:
    program = dspy.Predict("question -> answer")
    found = predict(url, program, True, dspy.ChatAdapter(), question=QUESTION)
    assert isinstance(found.answer, str)


def test_predictions_in_parallel(url: str) -> None:
    program = dspy.Predict("question -> answer: int")
    examples = [dspy.Example(question=f"{i} + 1?").with_inputs("question") for i in range(8)]
    with dspy.context(lm=make_model(url), adapter=dspy.JSONAdapter()):
        found = program.batch(examples, num_threads=4, disable_progress_bar=True)
    assert [type(each.answer) for each in found] == [int] * 8


def test_what_requests_cost_is_kept(url: str) -> None:
    model = make_model(url)
    model(QUESTION)
    usage = model.history[-1]["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 0


def test_an_error_names_what_is_wrong(url: str) -> None:
    model = make_model(url)
    model.model = "openai/gpt-9"
    with pytest.raises(Exception, match="does not exist"):
        model(QUESTION)
