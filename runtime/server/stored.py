"""Answers kept for `previous_response_id`: bounded in number and in bytes, the oldest goes first."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import msgspec

from branchwork.runtime.server.errors import ApiError
from branchwork.runtime.wire.messages import ChatMessage


@dataclass(frozen=True, slots=True)
class Stored:
    """One response and the turns that led to it, its own answer last."""

    body: dict[str, Any]
    turns: tuple[ChatMessage, ...]
    size: int


class ResponseStore:
    """Responses by id, within bounds."""

    def __init__(self, max_responses: int, max_bytes: int) -> None:
        self._max_responses = max_responses
        self._max_bytes = max_bytes
        self._bytes = 0
        self._responses: OrderedDict[str, Stored] = OrderedDict()

    def put(self, body: dict[str, Any], turns: tuple[ChatMessage, ...]) -> None:
        """Keep a response under its id; others may go."""
        size = len(msgspec.json.encode(body)) + sum(len(each.content) for each in turns)
        self._responses[body["id"]] = Stored(body, turns, size)
        self._bytes += size
        while len(self._responses) > self._max_responses or self._bytes > self._max_bytes:
            _, oldest = self._responses.popitem(last=False)
            self._bytes -= oldest.size

    def get(self, response_id: str, param: str | None = None) -> Stored:
        """The response. Raises ApiError (404)."""
        stored = self._responses.get(response_id)
        if stored is None:
            raise ApiError(
                f"no response with id {response_id[:64]!r} is stored",
                status=404,
                param=param,
                code="response_not_found",
            )
        self._responses.move_to_end(response_id)
        return stored

    def remove(self, response_id: str) -> None:
        """Forget a response. Raises ApiError (404)."""
        self._bytes -= self.get(response_id).size
        del self._responses[response_id]
