"""What is too much, over the wire and over HTTP: refused at the door, with the numbers, and with when to come back."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from tests.runtime.server.real import HEADERS, RealServer, real_server

from branchwork.runtime.wire.client import Client
from branchwork.runtime.wire.errors import BranchworkError
from branchwork.runtime.wire.launcher import launch
from branchwork.runtime.wire.messages import (
    Close,
    Closed,
    Done,
    Event,
    Failed,
    Gen,
    Instruction,
    Open,
    Sampling,
    Text,
)

POOL = 600


@contextmanager
def mock(**options: Any) -> Iterator[Client]:
    """A client of a runtime without a model."""
    with launch(module="branchwork.runtime.mock_service", **options) as runtime:
        client = runtime.connect()
        yield client
        client.close()


def ask(client: Client, *requests: tuple[int, int, int]) -> list[Done | Failed]:
    """The ends of one slot each of (tokens of the prompt, tokens to write, priority), sent as one frame."""
    heard: list[Event | BranchworkError] = []
    frame: list[Instruction] = []
    for length, new, priority in requests:
        branch = client.new_branch(heard.append)
        sampling = Sampling(max_tokens=new, temperature=0.0, ignore_eos=True)
        frame += [
            Open(branch, priority=priority),
            Text(branch, token_ids=(65,) * length),
            Gen(branch, "x", sampling),
            Close(branch),
        ]
    client.send(frame)
    assert client.wait(lambda: sum(isinstance(one, Closed) for one in heard) == len(requests), 60)
    return [one for one in heard if isinstance(one, Done | Failed)]


def test_over_the_wire_both_numbers_are_named_where_a_request_is_larger_than_the_pool() -> None:
    with mock(kv_slots=64) as client:
        refused, served = ask(client, (100, 4, 0), (20, 4, 0))
    assert isinstance(refused, Failed)
    assert refused.code == "too_long"
    assert "100 tokens, the KV pool holds 64 (--kv-slots)" in refused.message
    assert isinstance(served, Done)


def test_over_the_wire_both_numbers_are_named_where_a_request_is_larger_than_the_context() -> None:
    with mock(max_len=32) as client:
        refused, served = ask(client, (100, 4, 0), (20, 4, 0))
    assert isinstance(refused, Failed)
    assert refused.code == "too_long"
    assert "100 tokens, the server holds 32 (--max-len)" in refused.message
    assert isinstance(served, Done)


def test_over_the_wire_a_full_queue_refuses_who_comes_and_serves_who_was_there() -> None:
    with mock(max_rows=1, max_queue=2) as client:
        ends = ask(client, *[(5, 200, 0)] * 6)
        assert isinstance(ask(client, (5, 4, 0))[0], Done)
    refused = [end for end in ends if isinstance(end, Failed)]
    assert {end.code for end in refused} == {"queue_full"}
    assert all("2 requests wait already (--max-queue)" in end.message for end in refused)
    assert len(ends) - len(refused) in (2, 3)


@pytest.mark.parametrize("priority", [1001, -1001, 2**40])
def test_over_the_wire_a_priority_out_of_range_is_refused(priority: int) -> None:
    with mock() as client:
        (refused,) = ask(client, (5, 4, priority))
    assert isinstance(refused, Failed)
    assert (refused.code, refused.param) == ("invalid_parameter", "priority")


@pytest.fixture(scope="module")
def server() -> Iterator[RealServer]:
    with real_server("--kv-slots", str(POOL), "--max-rows", "1", "--max-queue", "1") as made:
        yield made


def post(server: RealServer, **body: Any) -> httpx.Response:
    body = {"prompt": "1 2 3", "max_tokens": 4, "temperature": 0, "ignore_eos": True, **body}
    return httpx.post(server.url + "/v1/completions", json=body, headers=HEADERS, timeout=60)


def test_over_http_both_numbers_are_named_where_a_request_is_larger_than_the_pool(
    server: RealServer,
) -> None:
    answer = post(server, prompt=[65] * 700)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert f"700 tokens, the KV pool holds {POOL} (--kv-slots)" in error["message"]
    # By these words clients (litellm) tell it from other errors, and turn to a larger model.
    assert "This model's maximum context length is" in error["message"]
    assert "prompt is too long" in error["message"]
    assert post(server).status_code == 200


def test_over_http_a_text_just_too_large_for_a_frame_leaves_no_branch(server: RealServer) -> None:
    """Each such request left one open in the runtime, until no more were taken of anybody."""
    before, after = b'{"prompt":"', b'"}'
    text = b"a" * ((8 << 20) - len(before) - len(after))
    answer = httpx.post(
        server.url + "/v1/completions", content=before + text + after, headers=HEADERS, timeout=60
    )
    assert answer.status_code == 400
    assert "--max-text-bytes" in answer.json()["error"]["message"]
    stats = httpx.get(server.url + "/server/stats", headers=HEADERS, timeout=60).json()
    assert stats["branches"] == 0


@pytest.mark.parametrize("priority", [1001, -1001, 2**31, 2**70, 0.5, "high"])
def test_over_http_a_priority_out_of_range_is_refused(server: RealServer, priority: Any) -> None:
    answer = post(server, priority=priority)
    assert answer.status_code == 400
    assert "priority" in (answer.json()["error"]["param"] or answer.json()["error"]["message"])


def test_over_http_a_full_queue_says_when_to_come_back(server: RealServer) -> None:
    body = {"prompt": "1 2 3", "max_tokens": 400, "temperature": 0, "ignore_eos": True}

    async def flood() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=server.url, headers=HEADERS, timeout=60) as client:
            return await asyncio.gather(
                *[client.post("/v1/completions", json=body) for _ in range(8)]
            )

    answers = asyncio.run(flood())
    refused = [answer for answer in answers if answer.status_code == 429]
    assert {answer.status_code for answer in answers} == {200, 429}
    assert all(answer.headers["retry-after"] == "1" for answer in refused)
    assert all("--max-queue" in answer.json()["error"]["message"] for answer in refused)
    texts = {answer.json()["choices"][0]["text"] for answer in answers if answer not in refused}
    assert len(texts) == 1
    assert post(server).status_code == 200
