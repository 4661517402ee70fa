"""outlines: types, patterns and grammars over a server, by each of its three clients of OpenAI's API."""

import asyncio
import json
from typing import Any, Literal

import pytest
from tests.clients.jobs import KEY, QUESTION, RECORD, Person, check_answer, check_person

pytest.importorskip("outlines")
import openai
import outlines
from outlines.types import CFG, JsonSchema, Regex

pytestmark = [pytest.mark.clients, pytest.mark.filterwarnings("ignore")]

SERVERS = pytest.mark.parametrize("server", ["openai", "vllm", "sglang"])
BLOCKING = pytest.mark.parametrize("blocking", [True, False], ids=["blocking", "async"])
ASK = {"temperature": 0, "max_tokens": 200}
# What each client sends as `structured_outputs` or as SGLang's fields; OpenAI's takes JSON only.
TYPES: dict[str, tuple[Any, Any]] = {
    "literal": (Literal["red", "green"], lambda text: text in ("red", "green")),
    "int": (int, lambda text: isinstance(int(text), int)),
    "regex": (Regex("[a-c]{5}"), lambda text: len(text) == 5 and set(text) <= set("abc")),
    "bool": (bool, lambda text: text in ("True", "False")),
}


def make_model(url: str, server: str, blocking: bool) -> Any:
    client = (openai.OpenAI if blocking else openai.AsyncOpenAI)(
        base_url=url + "/v1", api_key=KEY, max_retries=0, timeout=180
    )
    return getattr(outlines, f"from_{server}")(client, "sprout")


def answer(url: str, server: str, blocking: bool, *asked: Any, **options: Any) -> Any:
    model = make_model(url, server, blocking)
    made = model(*asked, **{**ASK, **options})
    return made if blocking else asyncio.run(_awaited(made))


async def _awaited(made: Any) -> Any:
    return await made


@SERVERS
@BLOCKING
def test_an_answer(url: str, server: str, blocking: bool) -> None:
    check_answer(answer(url, server, blocking, QUESTION), "Paris")


@SERVERS
@BLOCKING
def test_an_answer_in_a_type(url: str, server: str, blocking: bool) -> None:
    check_person(answer(url, server, blocking, RECORD, Person))


@SERVERS
def test_an_answer_under_a_schema(url: str, server: str) -> None:
    schema = JsonSchema(json.dumps(Person.model_json_schema()))
    check_person(answer(url, server, True, RECORD, schema))


@pytest.mark.parametrize("server", ["vllm", "sglang"])
@BLOCKING
@pytest.mark.parametrize("name", TYPES)
def test_an_answer_under_a_pattern(url: str, server: str, blocking: bool, name: str) -> None:
    kind, holds = TYPES[name]
    text = answer(url, server, blocking, QUESTION, kind, temperature=1)
    assert holds(text), text


@pytest.mark.parametrize("server", ["vllm", "sglang"])
@pytest.mark.parametrize(
    "grammar",
    [
        'root ::= digit ("+" digit){1,3}\ndigit ::= [0-9]',
        'start: DIGIT ("+" DIGIT)~1..3\n%import common.DIGIT',
    ],
    ids=["gbnf", "lark"],
)
def test_an_answer_under_a_grammar(url: str, server: str, grammar: str) -> None:
    text = answer(url, server, True, QUESTION, CFG(grammar))
    assert 3 <= len(text) <= 7
    assert all(each.isdigit() for each in text.split("+"))


@SERVERS
def test_a_stream(url: str, server: str) -> None:
    model = make_model(url, server, True)
    check_person("".join(model.stream(RECORD, Person, **ASK)))


def test_an_error_is_openais(url: str) -> None:
    with pytest.raises(Exception, match="regex"):
        answer(url, "vllm", True, QUESTION, extra_body={"regex": "a("})
