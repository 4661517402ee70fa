"""The socket of a real runtime process under what clients should not send."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.empty_runtime import launch_empty

from branchwork.runtime.wire.client import Client
from branchwork.runtime.wire.errors import BranchworkError, InvalidParameter
from branchwork.runtime.wire.launcher import RunningRuntime
from branchwork.runtime.wire.messages import (
    Close,
    Closed,
    Event,
    Gen,
    Hello,
    Open,
    Request,
    Sampling,
    Select,
    Text,
)


@pytest.fixture(scope="module")
def runtime() -> Iterator[RunningRuntime]:
    with launch_empty() as running:
        yield running


@pytest.fixture(scope="module")
def bystander(runtime: RunningRuntime) -> Iterator[Client]:
    """A client that is served all the while."""
    client = runtime.connect()
    yield client
    client.close()


@contextmanager
def raw_socket(runtime: RunningRuntime, routing_id: bytes = b"") -> "Iterator[zmq.Socket[bytes]]":
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.linger = 0
    if routing_id:
        socket.setsockopt(zmq.ROUTING_ID, routing_id)
    socket.connect(runtime.address)
    try:
        yield socket
    finally:
        socket.close()
        context.term()


@pytest.fixture(scope="module")
def stranger(runtime: RunningRuntime) -> "Iterator[zmq.Socket[bytes]]":
    """A socket that may say anything."""
    with raw_socket(runtime) as socket:
        yield socket


def greet(socket: "zmq.Socket[bytes]") -> None:
    """Say Hello until it is welcome: who was given up a moment ago is not heard at once."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        socket.send(msgspec.msgpack.encode([Hello()]))
        while socket.poll(200):
            if msgspec.msgpack.decode(socket.recv())[0][0] == "welcome":
                return
    raise TimeoutError("no Welcome")


def say(socket: "zmq.Socket[bytes]", *parts: bytes) -> None:
    """Send a frame as a client that is known: it is given up for one that cannot be read."""
    greet(socket)
    socket.send_multipart(parts)


def is_served(client: Client) -> bool:
    heard: list[Event | BranchworkError] = []
    branch = client.new_branch(heard.append)
    client.send([Open(branch), Text(branch, "a"), Gen(branch, "x"), Close(branch)])
    return client.wait(lambda: bool(heard) and isinstance(heard[-1], Closed), 30)


def drain(socket: "zmq.Socket[bytes]") -> None:
    while socket.poll(0):
        socket.recv_multipart()


GOOD_FRAME = msgspec.msgpack.encode(
    [
        Open(1, salt="s", priority=3),
        Text(1, "hello", special=True),
        Gen(1, "x", Sampling(stop=("a",), logit_bias=((1, 2.0),)), logprobs=3),
        Select(1, "y", ("a", "b")),
        Request(1, "stats"),
        Close(1),
    ]
)

any_value = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text()
    | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=20,
)
TAGS = ("open", "text", "chat", "gen", "select", "embed", "close", "abort", "hello", "request")
tags = st.sampled_from([*TAGS, "heartbeat", "tokens", "done"])


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=200), min_size=1, max_size=3))
def test_bytes_that_are_no_messages_harm_nobody(
    bystander: Client, stranger: "zmq.Socket[bytes]", parts: list[bytes]
) -> None:
    say(stranger, *parts)
    drain(stranger)
    assert is_served(bystander)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_messages_harm_nobody(
    bystander: Client, stranger: "zmq.Socket[bytes]", data: st.DataObject
) -> None:
    frame = bytearray(GOOD_FRAME)
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(frame)))
    say(stranger, bytes(frame[:cut]) if cut % 3 == 0 else bytes(frame))
    drain(stranger)
    assert is_served(bystander)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(tags, st.lists(any_value, max_size=8)), max_size=4))
def test_messages_with_any_fields_harm_nobody(
    bystander: Client, stranger: "zmq.Socket[bytes]", messages: list[tuple[str, list[object]]]
) -> None:
    say(stranger, msgspec.msgpack.encode([[tag, *fields] for tag, fields in messages]))
    drain(stranger)
    assert is_served(bystander)


def test_arrays_inside_each_other_without_end_harm_nobody(
    bystander: Client, stranger: "zmq.Socket[bytes]"
) -> None:
    say(stranger, b"\x91" * 100_000)
    say(stranger, msgspec.msgpack.encode([["gen", 1, "x", []]])[:-1] + b"\x91" * 100_000)
    assert is_served(bystander)


class Bomb:
    """Unpickled, it would touch a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {self.path}",))


def test_a_pickle_is_bytes_like_any_others(
    bystander: Client, stranger: "zmq.Socket[bytes]", tmp_path: Path
) -> None:
    import pickle  # noqa: PLC0415, TID251 - to make a hostile message

    path = tmp_path / "touched"
    bomb = pickle.dumps(Bomb(path))
    say(stranger, bomb)
    say(stranger, msgspec.msgpack.encode([["request", 1, "stats", bomb]]))
    say(stranger, msgspec.msgpack.encode([msgspec.msgpack.Ext(1, bomb)]))
    assert is_served(bystander)
    assert not path.exists()


def test_a_client_whose_message_cannot_be_read_is_told_so_and_does_not_wait(
    runtime: RunningRuntime, bystander: Client
) -> None:
    heard: list[Event | BranchworkError] = []
    client = runtime.connect()
    branch = client.new_branch(heard.append)
    client.send([Open(branch), Gen(branch, 5)])  # type: ignore[arg-type]
    with pytest.raises(InvalidParameter, match=r"cannot read a message: Expected `str`, got `int`"):
        client.wait(lambda: any(isinstance(event, Closed) for event in heard), 30)
    assert isinstance(heard[-1], InvalidParameter)
    client.close()
    assert is_served(bystander)


def test_a_peer_that_says_no_hello_is_refused(runtime: RunningRuntime) -> None:
    with raw_socket(runtime) as socket:
        socket.send(GOOD_FRAME)
        assert socket.poll(30_000)
        (answer,) = msgspec.msgpack.decode(socket.recv())
        assert answer[:2] == ["refused", "transport"]


def test_a_peer_that_brings_its_own_id_is_not_heard(
    runtime: RunningRuntime, bystander: Client
) -> None:
    with raw_socket(runtime, routing_id=b"admin") as socket:
        socket.send(msgspec.msgpack.encode([Hello()]))
        assert is_served(bystander)
        assert not socket.poll(200)


def test_a_frame_above_the_limit_costs_the_sender_its_connection(
    runtime: RunningRuntime, bystander: Client
) -> None:
    with raw_socket(runtime) as socket:
        socket.send(msgspec.msgpack.encode([Hello()]))
        assert socket.poll(30_000)
        socket.recv()
        socket.send(b"x" * (10 << 20))
        assert is_served(bystander)
        assert not socket.poll(200)
