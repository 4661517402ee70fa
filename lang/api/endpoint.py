"""A server's own text interface, `POST /generate`: `branchwork serve`, and SGLang's servers."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from branchwork.lang.api.http import Http
from branchwork.lang.api.provider import Completion, Emit
from branchwork.lang.api.remote import Remote
from branchwork.lang.api.transcript import CHAT_FORMAT, Transcript
from branchwork.lang.chat_template import get_chat_template
from branchwork.runtime.wire import messages as wire
from branchwork.runtime.wire.errors import BranchworkError, ConstraintError

_REASONS = {"length": "length", "stop": "stop"}


class EndpointProvider:
    """The model that a server holds; texts go in and come out, constraints are the server's to enforce."""

    continues = True

    def __init__(self, name: str, http: Http, chat_format: wire.ChatFormat) -> None:
        self.name = name
        self.chat_format = chat_format
        self._http = http

    def generate(self, transcript: Transcript, gen: wire.Gen, emit: Emit) -> Completion:
        """One call."""
        body: dict[str, Any] = {"text": transcript.prompt, "sampling_params": _sampling(gen)}
        if gen.logprobs is not None:
            body |= {
                "return_logprob": True,
                "top_logprobs_num": gen.logprobs,
                "return_text_in_logprobs": True,
            }
            if gen.prompt_logprobs_from is not None:
                body["logprob_start_len"] = gen.prompt_logprobs_from
        if not gen.stream:
            return _completion(self._http.post("/generate", body))
        return self._stream(body, emit)

    def _stream(self, body: dict[str, Any], emit: Emit) -> Completion:
        last: Mapping[str, Any] = {"text": "", "meta_info": {}}
        shown = 0
        logprobs: tuple[wire.TokenLogprob, ...] = ()
        num_told = 0
        for last in self._http.events("/generate", {**body, "stream": True}):
            text, meta = last["text"], last["meta_info"]
            found = _output_logprobs(meta)
            # Servers that tell how many there are in all send each only once.
            logprobs = logprobs + found if "output_token_logprobs_length" in meta else found
            if len(text) > shown and not text.endswith("\ufffd"):
                emit(text[shown:], logprobs[num_told:])
                shown, num_told = len(text), len(logprobs)
        return msgspec.structs.replace(_completion(last), logprobs=logprobs)

    def select(self, transcript: Transcript, select: wire.Select) -> Sequence[wire.ChoiceScore]:
        """Each choice's log-probability after the prompt."""
        start = self._length(transcript.prompt)
        return [self._score(transcript.prompt, choice, start, select) for choice in select.choices]

    def _score(self, prompt: str, choice: str, start: int, select: wire.Select) -> wire.ChoiceScore:
        # From two tokens before the end on: the choice's first letters may have joined the prompt's last token.
        given = self._tokens(prompt + choice, max(start - 2, 0))[max(0, min(2, start)) :]
        alone: tuple[wire.TokenLogprob, ...] = ()
        if select.method == "unconditional_likelihood_normalized":
            alone = self._tokens(choice, 0)
        total = sum(token.logprob or 0.0 for token in given)
        score = total / max(len(given), 1)
        return wire.ChoiceScore(choice, score, total, given, alone)

    def _length(self, text: str) -> int:
        answer = self._http.post(
            "/generate", {"text": text, "sampling_params": {"max_new_tokens": 0}}
        )
        return int(answer["meta_info"]["prompt_tokens"])

    def _tokens(self, text: str, start: int) -> tuple[wire.TokenLogprob, ...]:
        body = {
            "text": text,
            "sampling_params": {"max_new_tokens": 0, "temperature": 0.0},
            "return_logprob": True,
            "logprob_start_len": start,
            "return_text_in_logprobs": True,
        }
        return _logprobs(
            self._http.post("/generate", body)["meta_info"].get("input_token_logprobs"), None
        )


def _sampling(gen: wire.Gen) -> dict[str, Any]:
    sampling = gen.sampling
    fields = {
        "max_new_tokens": sampling.max_tokens,
        "min_new_tokens": sampling.min_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k or -1,
        "min_p": sampling.min_p,
        "frequency_penalty": sampling.frequency_penalty,
        "presence_penalty": sampling.presence_penalty,
        "repetition_penalty": sampling.repetition_penalty,
        "stop": list(sampling.stop),
        "stop_token_ids": list(sampling.stop_token_ids),
        "ignore_eos": sampling.ignore_eos,
        "no_stop_trim": sampling.include_stop,
    }
    if sampling.stop_regex:
        fields["stop_regex"] = list(sampling.stop_regex)
    return {**fields, **_constraint(gen.constraint)}


def _constraint(constraint: wire.Constraint | None) -> dict[str, Any]:
    if constraint is None:
        return {}
    if isinstance(constraint, wire.Regex):
        return {"regex": constraint.pattern}
    if isinstance(constraint, wire.JsonSchema):
        return {"json_schema": constraint.schema}
    if isinstance(constraint, wire.Ebnf):
        return {"ebnf": constraint.text}
    raise ConstraintError(
        f"a constraint of type {type(constraint).__name__} cannot be sent to this server"
    )


def _completion(answer: Mapping[str, Any]) -> Completion:
    meta = answer["meta_info"]
    finish = meta.get("finish_reason") or {}
    return Completion(
        answer["text"],
        _REASONS.get(finish.get("type", "stop"), "stop"),
        meta.get("prompt_tokens", 0),
        meta.get("completion_tokens", 0),
        meta.get("cached_tokens", 0),
        finish.get("matched"),
        _output_logprobs(meta),
        _logprobs(meta.get("input_token_logprobs"), meta.get("input_top_logprobs")),
    )


def _output_logprobs(meta: Mapping[str, Any]) -> tuple[wire.TokenLogprob, ...]:
    return _logprobs(meta.get("output_token_logprobs"), meta.get("output_top_logprobs"))


def _logprobs(
    entries: Sequence[Any] | None, tops: Sequence[Any] | None
) -> tuple[wire.TokenLogprob, ...]:
    rows = tops or [()] * len(entries or ())
    return tuple(
        wire.TokenLogprob(
            entry[1], _bytes(entry), entry[0], tuple((t[1], _bytes(t), t[0]) for t in top or ())
        )
        for entry, top in zip(entries or (), rows, strict=False)
    )


def _bytes(entry: Sequence[Any]) -> bytes:
    return (entry[2] or "").encode()


class RuntimeEndpoint(Remote):
    """A server, by its address: `RuntimeEndpoint("http://localhost:8000")`.

    Messages are written as the server says its model wants them, or as the chat template of that name does.

    >>> bw.RuntimeEndpoint(url).get_model_name()
    'tiny'
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        *,
        chat_template_name: str | None = None,
        timeout_s: float = 600.0,
        max_retries: int = 3,
    ) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        http = Http("the server", base_url, headers, timeout_s=timeout_s, max_retries=max_retries)
        name = str(http.get("/get_model_info").get("model_path", "server"))
        super().__init__(EndpointProvider(name, http, _chat_format(http)))
        self._http = http
        if chat_template_name is not None:
            self.chat_template = get_chat_template(chat_template_name)

    def get_model_name(self) -> str:
        """The model, as the server names it."""
        return self.provider.name

    def request(self, what: str, body: str = "{}", timeout_s: float | None = 60.0) -> str:
        """What the server has a route for: "flush_cache", and "stats"."""
        if what == "flush_cache":
            self._http.send("/flush_cache")
            return "{}"
        return json.dumps(self._http.get("/get_server_info"))


def _chat_format(http: Http) -> wire.ChatFormat:
    """The server's own, where it tells one; else ChatML."""
    try:
        told = http.get("/get_server_info").get("chat_format")
    except BranchworkError:
        told = None
    return wire.ChatFormat(**told) if told else CHAT_FORMAT
