"""docs/server.md names every route, field and option, is current, and its commands run."""

import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import msgspec
import pytest
from tests.runtime.server.conftest import Server
from tests.runtime.server.fake import FakeBackend

from branchwork.runtime.server.app import ROUTES

ROOT = Path(__file__).parents[2]
KEYS = {"$KEY": "doc-key", "$ADMIN_KEY": "doc-admin"}


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_server", ROOT / "docs" / "make_server.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make_server = load()
PAGE = make_server.PATH.read_text()


def commands() -> list[str]:
    """Each curl of the page, in one line."""
    blocks = re.findall(r"```\n(curl .*?)```", PAGE, re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line]


def request_of(command: str) -> tuple[str, str, dict[str, str], str | None, tuple[str, str] | None]:
    """Method, path, headers, body and user of a curl."""
    for name, key in KEYS.items():
        command = re.sub(re.escape(name) + r"\b", key, command)
    words = iter(shlex.split(command)[1:])
    method, path, headers, body, user = "GET", "", {}, None, None
    for word in words:
        match word:
            case "-s":
                pass
            case "-X":
                method = next(words)
            case "-H":
                name, _, value = next(words).partition(": ")
                headers[name] = value
            case "-d":
                method, body = "POST", next(words)
            case "-u":
                name, _, value = next(words).partition(":")
                user = (name, value)
            case _:
                path = word.removeprefix("http://localhost:8000")
    return method, path, headers, body, user


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    made = Server(
        FakeBackend(), api_key="doc-key", admin_key="doc-admin", served_model_name="sprout"
    )
    yield made
    made.close()


def test_the_page_is_current() -> None:
    assert make_server.filled(PAGE) == PAGE, "run python docs/make_server.py"


@pytest.mark.parametrize("command", commands(), ids=lambda command: request_of(command)[1])
def test_each_command_is_answered(server: Server, command: str) -> None:
    method, path, headers, body, user = request_of(command)
    answer = server.request(method, path, headers=headers, content=body, auth=user)
    assert answer.status_code == 200, answer.text


def test_every_route_has_a_command() -> None:
    shown = {request_of(command)[1] for command in commands()}
    for route in ROUTES:
        if route.path != "/v1/responses/{name}":
            pattern = re.sub(r"\{\w+(:path)?\}", "[^/]+", route.path)
            assert any(re.fullmatch(pattern, path) for path in shown), route.path


def test_every_field_has_a_meaning_is_refused_or_without_effect() -> None:
    known = {
        field.encode_name
        for route in ROUTES
        if route.body is not None
        for field in msgspec.structs.fields(route.body)
    }
    assert set(make_server.MEANINGS) | make_server.REFUSED <= known
    without_effect = known - set(make_server.MEANINGS) - make_server.REFUSED
    assert without_effect == {
        *("user", "metadata", "service_tier", "safety_identifier", "prompt_cache_key", "include"),
        *("verbosity", "modalities", "prediction", "separate_reasoning", "truncation"),
        "max_tool_calls",
    }
