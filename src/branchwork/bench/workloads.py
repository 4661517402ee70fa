"""The five serving workloads W1 to W5, as token ids: what is asked of every engine alike."""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass

SCHEMA = json.dumps(
    {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "name": {"type": "string"},
            "age": {"type": "integer"},
            "city": {"type": "string"},
            "tags": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["name", "age", "city", "tags"],
    }
)

Prompt = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Workload:
    """`sessions` at once, each of some `turns`; a turn adds tokens to all that was said, and has some written.

    shared, own  tokens of the first prompt: the same for all sessions, and the session's own; later turns add `own`
    leader       one session goes alone before the others, so that they find the shared part computed
    schema       the answers are held to `SCHEMA`
    """

    name: str
    what: str
    sessions: int
    own: int
    new: int
    turns: int = 1
    shared: int = 0
    leader: bool = False
    schema: bool = False


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("W1", "one stream, 512 in, 128 out", sessions=1, own=512, new=128),
        Workload("W2", "32 requests, 256 in, 64 out", sessions=32, own=256, new=64),
        Workload(
            "W3", "64 requests, 1,024 shared + 32 in, 16 out", 64, own=32, new=16, shared=1024
        ),
        Workload(
            "W3w",
            "W3 after one request that warms the prefix",
            64,
            own=32,
            new=16,
            shared=1024,
            leader=True,
        ),
        Workload("W4", "8 chats of 4 turns, 64 in, 32 out", sessions=8, own=64, new=32, turns=4),
        Workload("W5", "W2 under a JSON schema", sessions=32, own=256, new=64, schema=True),
    )
}


def draw(workload: Workload, vocab_size: int, seed: int) -> Iterator[list[list[Prompt]]]:
    """What the sessions add: groups of sessions that run together, each with a list of turns for every session.

    Ids are random and fresh for every seed, so that prefix caches begin cold.
    """
    rng = random.Random(f"{workload.name}-{seed}")

    def ids(count: int) -> Prompt:
        return tuple(rng.randrange(300, vocab_size - 16) for _ in range(count))

    shared = ids(workload.shared)
    sessions = [
        [ids(workload.own) for _ in range(workload.turns)] for _ in range(workload.sessions)
    ]
    for turns in sessions:
        turns[0] = shared + turns[0]
    if workload.leader:
        yield sessions[:1]
        sessions = sessions[1:]
    yield sessions
