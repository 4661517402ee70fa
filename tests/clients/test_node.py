"""Two packages of npm, openai and the AI SDK, in node; skipped where node or the packages are missing.

They are looked for beside the interpreter's environment, where `make test-clients` puts them, or where
`BRANCHWORK_NODE_MODULES` says that `npm install` was run with node/package.json.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.clients.jobs import (
    ASK_WEATHER,
    CITY,
    KEY,
    QUESTION,
    RECORD,
    Person,
    check_answer,
    check_city,
    check_ended,
    check_person,
)

pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]

JOBS = Path(__file__).with_name("node")
MODULES = Path(os.environ.get("BRANCHWORK_NODE_MODULES", sys.prefix)) / "node_modules"

Found = dict[str, dict[str, Any]]


def run(url: str, folder: Path, package: str, file: str) -> Found:
    """What every job of the file gave."""
    node = shutil.which("node")
    if node is None or not (MODULES / package).is_dir():
        pytest.skip(f"node or its package {package} is not installed")
    # node looks for packages beside the script.
    (folder / "node_modules").symlink_to(MODULES.resolve())
    for script in JOBS.glob("*.mjs"):
        shutil.copy(script, folder)
    record = {**Person.model_json_schema(), "additionalProperties": False}
    asked = {"weather": ASK_WEATHER, "record": RECORD}
    told = {"baseURL": url + "/v1", "apiKey": KEY, "ask": QUESTION, "asked": asked}
    done = subprocess.run(
        [node, str(folder / "run.mjs"), file],
        input=json.dumps({**told, "city": CITY, "record": record}),
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    found: Found = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def openai(url: str, tmp_path_factory: pytest.TempPathFactory) -> Found:
    return run(url, tmp_path_factory.mktemp("node"), "openai", "openai.mjs")


@pytest.fixture(scope="module")
def ai_sdk(url: str, tmp_path_factory: pytest.TempPathFactory) -> Found:
    return run(url, tmp_path_factory.mktemp("node"), "ai", "ai_sdk.mjs")


def check(holds: object) -> None:
    assert holds


def check_paris(text: Any) -> None:
    check_answer(text, "Paris")
    assert text


def check_calls(calls: Any) -> None:
    (call,) = calls
    assert call["function"]["name"] == "get_weather"
    check_city(call["function"]["arguments"])


def check_call(call: Any) -> None:
    assert call["name"] == "get_weather"
    check_city(call["arguments"])
    assert call["result"] == f"sunny in {call['arguments']['city']}"


def check_loop(loop: Any) -> None:
    assert loop["steps"] == 2
    check_answer(loop["text"], "Oslo", "sunny")


def check_usage(usage: Any) -> None:
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def check_sdk_usage(usage: Any) -> None:
    assert usage["totalTokens"] == usage["inputTokens"] + usage["outputTokens"] > 0


OPENAI: dict[str, Callable[[Any], None]] = {
    "chat": check_paris,
    "stream": check_paris,
    "usage": check_usage,
    "tool": check_calls,
    "streamedTool": check_calls,
    "parse": check_person,
    "streamedFormat": check_person,
    "several": lambda texts: check(len(texts) == 3),
    "logprobs": lambda tokens: check(all(len(each["top_logprobs"]) == 2 for each in tokens)),
    "completion": lambda texts: check(len(texts) == 2),
    "response": check_paris,
    "streamedResponse": check_paris,
    "embeddings": lambda sizes: check(sizes == [256, 256]),
    "left": lambda word: check(word == "left"),
    "wrongModel": lambda error: check(
        (error["kind"], error["param"]) == ("NotFoundError", "model")
    ),
    "wrongField": lambda error: check((error["kind"], error["param"]) == ("BadRequestError", "n")),
    "wrongKey": lambda error: check(error["kind"] == "AuthenticationError"),
}
AI_SDK: dict[str, Callable[[Any], None]] = {
    "chat": check_paris,
    "system": check_answer,
    "stream": check_paris,
    "usage": check_sdk_usage,
    "streamedUsage": check_sdk_usage,
    "finish": check_ended,
    "stop": lambda text: check("e" not in text),
    "object": check_person,
    "streamedObject": check_person,
    "output": check_person,
    "choice": lambda word: check(word in ("red", "green")),
    "array": lambda found: check(all(set(each) == {"name", "age", "city"} for each in found)),
    "tool": check_call,
    "streamedTool": check_call,
    "loop": check_loop,
    "embed": lambda size: check(size == 256),
    "embedMany": lambda sizes: check(sizes == [256, 256]),
    "left": lambda word: check(word == "left"),
    "wrongModel": lambda error: check(error["status"] == 404),
    "wrongKey": lambda error: check(error["status"] == 401),
}


def value_of(found: Found, name: str) -> Any:
    assert "error" not in found[name], found[name]
    return found[name]["value"]


@pytest.mark.parametrize("name", OPENAI)
def test_openai_in_node(openai: Found, name: str) -> None:
    OPENAI[name](value_of(openai, name))


@pytest.mark.parametrize("name", AI_SDK)
def test_the_ai_sdk(ai_sdk: Found, name: str) -> None:
    AI_SDK[name](value_of(ai_sdk, name))


def test_a_stream_in_node_equals_the_whole(openai: Found, ai_sdk: Found) -> None:
    for found in (openai, ai_sdk):
        assert value_of(found, "stream") == value_of(found, "chat")
