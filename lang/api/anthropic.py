"""Anthropic's Messages API."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from branchwork.lang.api.constraint import held
from branchwork.lang.api.http import Http
from branchwork.lang.api.provider import Completion, Emit
from branchwork.lang.api.remote import Remote
from branchwork.lang.api.transcript import CHAT_FORMAT, Transcript
from branchwork.runtime.wire import messages as wire
from branchwork.runtime.wire.errors import RequestError

_ADDRESS = "https://api.anthropic.com"
_VERSION = "2023-06-01"


class AnthropicProvider:
    """One model. A message of the model may be begun by the program: the API continues it."""

    chat_format = CHAT_FORMAT
    continues = True

    def __init__(self, name: str, http: Http, extra: Mapping[str, Any]) -> None:
        self.name = name
        self._http = http
        self._extra = dict(extra)

    def generate(self, transcript: Transcript, gen: wire.Gen, emit: Emit) -> Completion:
        """One call; a constraint is checked afterwards, since the API knows none."""
        sampling = gen.sampling
        body: dict[str, Any] = {
            "model": self.name,
            "max_tokens": sampling.max_tokens or 1024,
            "temperature": min(sampling.temperature, 1.0),  # this API's highest
            **_conversation(transcript),
            **self._extra,
        }
        stops = [
            stop for stop in sampling.stop if stop.strip()
        ]  # the API refuses stops that are only blanks
        if stops:
            body["stop_sequences"] = stops
        if sampling.top_k:
            body["top_k"] = sampling.top_k
        completion = (
            self._stream(body, emit)
            if gen.stream
            else _completion(self._http.post("/v1/messages", body))
        )
        return held(completion, gen.constraint, self.name)

    def select(self, transcript: Transcript, select: wire.Select) -> Sequence[wire.ChoiceScore]:
        """Refused: the API tells no log-probabilities, and cannot be held to choices."""
        raise RequestError(
            f"{self.name} cannot score choices; use gen, or another backend with on="
        )

    def _stream(self, body: dict[str, Any], emit: Emit) -> Completion:
        text = ""
        usage: Mapping[str, Any] = {}
        stop: Mapping[str, Any] = {}
        for event in self._http.events("/v1/messages", {**body, "stream": True}):
            kind = event.get("type")
            if kind == "content_block_delta" and event["delta"].get("text"):
                text += event["delta"]["text"]
                emit(event["delta"]["text"])
            elif kind == "message_start":
                usage = event["message"].get("usage", {})
            elif kind == "message_delta":
                stop = event["delta"]
                usage = {**usage, **event.get("usage", {})}
            elif kind == "error":
                raise RequestError(f"{self.name}: {event['error'].get('message')}")
        return _completion({**stop, "content": [{"type": "text", "text": text}], "usage": usage})


def _conversation(transcript: Transcript) -> dict[str, Any]:
    """System messages go apart; a message that the model has begun goes last, without trailing blanks."""
    system = "\n".join(each.content for each in transcript.messages if each.role == "system")
    rest = [each for each in transcript.messages if each.role != "system"]
    messages = [
        {
            "role": "assistant" if each.role == "assistant" else "user",
            "content": each.content.rstrip(),
        }
        for each in rest
        if each.content.strip()
    ] or [{"role": "user", "content": transcript.outside}]
    return {"system": system, "messages": messages} if system else {"messages": messages}


def _completion(answer: Mapping[str, Any]) -> Completion:
    text = "".join(block.get("text", "") for block in answer.get("content", ()))
    usage = answer.get("usage", {})
    reason = {"max_tokens": "length", "stop_sequence": "stop_string"}.get(
        answer.get("stop_reason", ""), "stop"
    )
    return Completion(
        text,
        reason,
        usage.get("input_tokens", 0),
        usage.get("output_tokens", 0),
        usage.get("cache_read_input_tokens", 0) or 0,
        answer.get("stop_sequence"),
    )


class Anthropic(Remote):
    """Anthropic's models.

    Key and address come from ANTHROPIC_API_KEY and ANTHROPIC_BASE_URL of the environment where they are not given.

    >>> bw.Anthropic("claude-sonnet-4-5", api_key="sk-…").welcome.model
    'claude-sonnet-4-5'
    """

    def __init__(
        self,
        model_name: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        extra: Mapping[str, Any] | None = None,
        timeout_s: float = 600.0,
        max_retries: int = 3,
    ) -> None:
        key = api_key if api_key is not None else os.environ.get("ANTHROPIC_API_KEY", "")
        headers = {"x-api-key": key, "anthropic-version": _VERSION}
        base_url = base_url or os.environ.get("ANTHROPIC_BASE_URL") or _ADDRESS
        http = Http(model_name, base_url, headers, timeout_s=timeout_s, max_retries=max_retries)
        super().__init__(AnthropicProvider(model_name, http, extra or {}))
