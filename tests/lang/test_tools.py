"""Tools as functions, and the loop that calls them."""

import asyncio
import json
from collections.abc import Callable
from typing import Any, Literal

import pytest

import branchwork as bw
from branchwork.lang.testing.scripted import Asked, Scripted
from branchwork.lang.tools import async_tool_loop, tool, tool_loop, tool_prompt
from branchwork.runtime.wire import messages as wire
from branchwork.runtime.wire.errors import ProgramError

MakeScript = Callable[..., Scripted]


def get_weather(city: str, unit: Literal["C", "F"] = "C") -> dict[str, Any]:
    """Get the weather of a city.

    More words that no model needs.
    """
    if city == "Nowhere":
        raise LookupError("no such city")
    return {"city": city, "degrees": 21, "unit": unit}


def test_a_tools_schema_comes_from_its_signature() -> None:
    signature = tool(get_weather).signature["function"]
    assert signature["name"] == "get_weather"
    assert signature["description"] == "Get the weather of a city."
    parameters = signature["parameters"]
    assert parameters["properties"]["city"] == {"type": "string"}
    assert parameters["properties"]["unit"] == {"enum": ["C", "F"], "default": "C"}
    assert parameters["required"] == ["city"]
    assert parameters["additionalProperties"] is False


def test_a_parameter_without_type_is_refused() -> None:
    with pytest.raises(ProgramError, match="tool <lambda>: the parameter x needs a type"):
        tool(lambda x: x)


def test_a_call_gives_json_and_a_failure_is_told_to_the_model() -> None:
    made = tool(get_weather)
    assert json.loads(made.call({"city": "Rome"})) == {"city": "Rome", "degrees": 21, "unit": "C"}
    assert json.loads(made.call({"city": "Nowhere"})) == {"error": "LookupError: no such city"}
    with pytest.raises(ProgramError, match="get_weather: Expected `str`"):
        made.call({"city": 3})


CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>'


def answer(asked: Asked) -> str:
    return "It is 21 degrees." if "<tool_response>" in asked.prompt else CALL


def test_the_loop_calls_tools_until_the_model_answers(script: MakeScript) -> None:
    backend = script(default=answer)

    @bw.function
    def program(s: bw.State) -> str:
        s += bw.system(tool_prompt([get_weather], "Be kind."))
        s += bw.user("Weather in Rome?")
        return tool_loop(s, [get_weather], temperature=0)

    state = program.run()
    assert state.ret_value == state["answer"] == "It is 21 degrees."
    roles = [message["role"] for message in state.messages()]
    assert roles == ["system", "user", "assistant", "tool", "assistant"]
    assert '"degrees": 21' in state.messages()[3]["content"]
    gen = next(each for each in backend.instructions if isinstance(each, wire.Gen))
    assert isinstance(gen.constraint, wire.StructuralTags)
    schema = json.loads(gen.constraint.tags[0].content.schema)  # type: ignore[union-attr]
    assert schema["properties"]["name"] == {"const": "get_weather"}


def test_the_loop_works_in_async_programs(script: MakeScript) -> None:
    script(default=answer)

    @bw.function
    async def program(s: bw.AsyncState) -> str:
        s += bw.user("Weather in Rome?")
        return await async_tool_loop(s, [get_weather])

    assert asyncio.run(program.arun()).ret_value == "It is 21 degrees."


def test_the_loop_ends_after_so_many_steps(script: MakeScript) -> None:
    script(default=CALL)

    @bw.function
    def program(s: bw.State) -> None:
        s += bw.user("Weather?")
        tool_loop(s, [get_weather], max_steps=3)

    with pytest.raises(ProgramError, match="no answer after 3 steps"):
        program.run()
