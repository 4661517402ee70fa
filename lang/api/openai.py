"""OpenAI's API, and the many that speak like it: chat completions, and completions for models without chat."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from branchwork.lang.api.constraint import choice_format, choice_of, held, response_format
from branchwork.lang.api.http import Http
from branchwork.lang.api.provider import Completion, Emit
from branchwork.lang.api.remote import Remote
from branchwork.lang.api.transcript import CHAT_FORMAT, Transcript
from branchwork.runtime.wire import messages as wire
from branchwork.runtime.wire.errors import RequestError

_ADDRESS = "https://api.openai.com/v1"
_COMPLETES = ("gpt-3.5-turbo-instruct", "davinci-002", "babbage-002")
_REASONS = (
    "o1",
    "o3",
    "o4",
    "gpt-5",
)  # their limit is max_completion_tokens, and they take no temperature


class OpenAIProvider:
    """One model of one server. `extra` goes into every request as it is."""

    chat_format = CHAT_FORMAT

    def __init__(self, name: str, http: Http, is_chat: bool, extra: Mapping[str, Any]) -> None:
        self.name = name
        self._http = http
        self._is_chat = is_chat
        self.continues = not is_chat
        self._extra = dict(extra)

    def generate(self, transcript: Transcript, gen: wire.Gen, emit: Emit) -> Completion:
        """One call; the constraint is asked for where the API knows it, and checked in any case."""
        body = {**self._sampling(gen), **self._extra}
        if self._is_chat:
            body["messages"] = _messages(transcript)
            form = response_format(gen.constraint)
            if form is not None:
                body["response_format"] = form
        else:
            body["prompt"] = transcript.prompt
        completion = self._stream(body, emit) if gen.stream else self._whole(body)
        if isinstance(gen.constraint, wire.Choices) and self._is_chat:
            completion = Completion(choice_of(completion.text), "stop", completion.prompt_tokens)
        return held(completion, gen.constraint, self.name)

    def select(self, transcript: Transcript, select: wire.Select) -> Sequence[wire.ChoiceScore]:
        """A chat model names its choice; of other models each choice's log-probability is asked for."""
        if self._is_chat:
            body = {
                "messages": _messages(transcript),
                "response_format": choice_format(select.choices),
            }
            chosen = choice_of(self._whole({**self._model(), **body, **self._extra}).text)
            if chosen not in select.choices:
                raise RequestError(
                    f"{self.name} chose {chosen[:60]!r}, which is none of the choices"
                )
            return [_certain(choice, choice == chosen) for choice in select.choices]
        return [self._score(transcript.prompt, choice) for choice in select.choices]

    def _score(self, prompt: str, choice: str) -> wire.ChoiceScore:
        body = {"prompt": prompt + choice, "max_tokens": 0, "echo": True, "logprobs": 1}
        answer = self._http.post("/completions", {**self._model(), **body, **self._extra})
        found = answer["choices"][0]["logprobs"]
        pairs = zip(found["tokens"], found["token_logprobs"], found["text_offset"], strict=True)
        tokens = tuple(
            wire.TokenLogprob(0, token.encode(), logprob)
            for token, logprob, offset in pairs
            if offset + len(token) > len(prompt)
        )
        total = sum(token.logprob or 0.0 for token in tokens)
        return wire.ChoiceScore(choice, total / max(len(tokens), 1), total, tokens)

    def _model(self) -> dict[str, Any]:
        return {"model": self.name}

    def _sampling(self, gen: wire.Gen) -> dict[str, Any]:
        sampling = gen.sampling
        body: dict[str, Any] = self._model()
        reasons = self.name.startswith(_REASONS)
        body["max_completion_tokens" if reasons else "max_tokens"] = sampling.max_tokens
        if not reasons:
            body |= {"temperature": sampling.temperature, "top_p": sampling.top_p}
            body |= {
                "frequency_penalty": sampling.frequency_penalty,
                "presence_penalty": sampling.presence_penalty,
            }
            if sampling.stop:
                body["stop"] = list(sampling.stop[:4])  # as many as the API takes
        if sampling.seed is not None:
            body["seed"] = sampling.seed
        if sampling.logit_bias:
            body["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias}
        if gen.logprobs is not None:
            body |= (
                {"logprobs": True, "top_logprobs": gen.logprobs}
                if self._is_chat
                else {"logprobs": gen.logprobs}
            )
        return body

    @property
    def _path(self) -> str:
        return "/chat/completions" if self._is_chat else "/completions"

    def _whole(self, body: Mapping[str, Any]) -> Completion:
        answer = self._http.post(self._path, body)
        choice = answer["choices"][0]
        text = (choice["message"].get("content") or "") if self._is_chat else choice["text"]
        return _completion(text, choice, answer.get("usage") or {}, self._is_chat)

    def _stream(self, body: dict[str, Any], emit: Emit) -> Completion:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        text = ""
        usage: Mapping[str, Any] = {}
        last: Mapping[str, Any] = {}
        for event in self._http.events(self._path, body):
            if "error" in event:
                raise RequestError(f"{self.name}: {event['error'].get('message', event['error'])}")
            usage = event.get("usage") or usage
            for choice in event.get("choices", ()):
                last = choice if choice.get("finish_reason") else last
                chunk = choice["delta"].get("content") if self._is_chat else choice["text"]
                if chunk:
                    text += chunk
                    emit(chunk)
        return _completion(text, last, usage, self._is_chat)


def _messages(transcript: Transcript) -> list[dict[str, str]]:
    """The messages that have ended; words outside of messages are the user's."""
    ended = [each for each in transcript.messages if not (each.open and each.role == "assistant")]
    if not ended:
        return [{"role": "user", "content": transcript.outside}]
    return [{"role": each.role, "content": each.content} for each in ended]


def _completion(
    text: str, choice: Mapping[str, Any], usage: Mapping[str, Any], is_chat: bool
) -> Completion:
    reason = "length" if choice.get("finish_reason") == "length" else "stop"
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0) or 0
    return Completion(
        text,
        reason,
        usage.get("prompt_tokens", 0),
        usage.get("completion_tokens", 0),
        cached,
        logprobs=_logprobs(choice.get("logprobs"), is_chat),
    )


def _logprobs(found: Any, is_chat: bool) -> tuple[wire.TokenLogprob, ...]:
    if not found:
        return ()
    if is_chat:
        return tuple(_chat_logprob(each) for each in found.get("content") or ())
    pairs = zip(found["tokens"], found["token_logprobs"], strict=True)
    return tuple(wire.TokenLogprob(0, token.encode(), logprob) for token, logprob in pairs)


def _chat_logprob(entry: Mapping[str, Any]) -> wire.TokenLogprob:
    top = tuple(
        (0, each["token"].encode(), each["logprob"]) for each in entry.get("top_logprobs", ())
    )
    return wire.TokenLogprob(0, entry["token"].encode(), entry["logprob"], top)


def _certain(choice: str, chosen: bool) -> wire.ChoiceScore:
    logprob = 0.0 if chosen else -math.inf
    return wire.ChoiceScore(choice, logprob, logprob, ())


class OpenAI(Remote):
    """OpenAI's models, or those of any server that speaks its API (`base_url`).

    `is_chat_model` None: told by the model's name. Key and address come from OPENAI_API_KEY and OPENAI_BASE_URL of
    the environment where they are not given. `is_azure`: a deployment of that name at `azure_endpoint`.
    `extra` goes into every request as it is.

    >>> bw.OpenAI("gpt-4o-mini", api_key="sk-…").welcome.model
    'gpt-4o-mini'
    """

    def __init__(
        self,
        model_name: str,
        is_chat_model: bool | None = None,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        is_azure: bool = False,
        azure_endpoint: str = "",
        api_version: str = "2024-10-21",
        extra: Mapping[str, Any] | None = None,
        timeout_s: float = 600.0,
        max_retries: int = 3,
    ) -> None:
        query = ""
        if is_azure:
            key = api_key if api_key is not None else os.environ.get("AZURE_OPENAI_API_KEY", "")
            headers = {"api-key": key}
            base_url = f"{azure_endpoint.rstrip('/')}/openai/deployments/{model_name}"
            query = f"?api-version={api_version}"
        else:
            key = api_key if api_key is not None else os.environ.get("OPENAI_API_KEY", "")
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            base_url = base_url or os.environ.get("OPENAI_BASE_URL") or _ADDRESS
        http = Http(
            model_name,
            base_url,
            headers,
            query=query,
            timeout_s=timeout_s,
            max_retries=max_retries,
        )
        is_chat = model_name not in _COMPLETES if is_chat_model is None else is_chat_model
        super().__init__(OpenAIProvider(model_name, http, is_chat, extra or {}))
