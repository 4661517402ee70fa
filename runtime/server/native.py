"""The routes of SGLang's own interface: /generate and what its frontend asks beside it.

Prompts go as they are; an answer is `text` and `meta_info`, and a stream repeats the text so far in every event.
"""

import time
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from branchwork.runtime.server import answers
from branchwork.runtime.server.body import read_body
from branchwork.runtime.server.errors import ApiError
from branchwork.runtime.server.fields import Count, Generating, JsonObject, Priority, Salt
from branchwork.runtime.server.gateway import Attached, Gateway
from branchwork.runtime.server.generation import Generation, cache_salt
from branchwork.runtime.server.jobs import Answer, total_usage
from branchwork.runtime.server.prompts import as_prompt, prompts_of
from branchwork.runtime.server.stream import DONE, Events, data, error_data, stream
from branchwork.runtime.server.validate import convert, decode
from branchwork.runtime.wire.errors import InvalidParameter
from branchwork.runtime.wire.messages import Done, TokenLogprob, Tokens, Usage
from branchwork.runtime.wire.validate import check_adapter

DEFAULT_MAX_NEW_TOKENS = 128


class GenerateRequest(msgspec.Struct, kw_only=True):
    """POST /generate; `sampling_params` are one for all prompts, or one for each, and so is `lora_path`.

    The latter is an adapter's name, as SGLang calls it.
    """

    text: str | list[str] | None = None
    input_ids: list[Any] | None = None
    sampling_params: JsonObject | list[JsonObject] | None = None
    return_logprob: bool | list[bool] | None = None
    logprob_start_len: Annotated[int, Meta(ge=-1)] | None = None
    top_logprobs_num: Count | None = None
    return_text_in_logprobs: bool | None = None
    stream: bool | None = None
    rid: str | list[str] | None = None
    image_data: Any = None
    lora_path: str | list[str | None] | None = None
    cache_salt: Salt | None = None
    priority: Priority | None = None


class SrtSampling(Generating, kw_only=True):
    """SGLang's sampling parameters: those it shares with OpenAI's routes, and its own names."""

    max_new_tokens: Count | None = None
    min_new_tokens: Count | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    no_stop_trim: bool | None = None
    structural_tag: str | JsonObject | None = None


class AbortRequest(msgspec.Struct, kw_only=True):
    """Which request: the id of its answer's header, whole; or all of them (administrators only)."""

    rid: str | None = None
    abort_all: bool | None = None


async def generate(gateway: Gateway, request: Request) -> Response:
    """Continue texts or token ids."""
    ask = decode(await read_body(request, gateway.config), GenerateRequest)
    attached = gateway.attached
    if ask.image_data is not None:
        raise ApiError("image_data: this model takes text only", param="image_data")
    if (ask.text is None) == (ask.input_ids is None):
        raise ApiError("give text or input_ids", param="text")
    given = ask.text if ask.text is not None else ask.input_ids
    assert given is not None
    prompts = prompts_of(given, attached.limits)
    sampling = _sampling(ask, len(prompts))
    adapters = _adapters(ask, len(prompts), attached.model.welcome.adapters)
    shape = Shape(ask, request.state.request_id, sampling, not _is_batch(given))
    generations = [
        Generation(
            as_prompt(prompt),
            shape.gen(each, attached),
            attached.limits.answers(each.n),
            cache_salt(ask.cache_salt or each.cache_salt),
            (each.priority if ask.priority is None else ask.priority) or 0,
            "sampling_params",
            each.cache_pin_s or 0.0,
            adapter,
        )
        for prompt, each, adapter in zip(prompts, sampling, adapters, strict=True)
    ]
    if ask.stream:
        return await stream(gateway, request, generations, GenerateStream(shape))
    async with gateway.running(request, generations) as job:
        found = await job.answers()
    for answer in found:
        gateway.metrics.add_usage(answer.usage)
    return answers.json_response(shape.whole(found))


def _is_batch(given: str | list[Any]) -> bool:
    return isinstance(given, list) and type(given[0]) is not int


def _adapters(ask: GenerateRequest, num_prompts: int, known: Sequence[str]) -> list[str]:
    """The adapter of each prompt, by name; "": none. Raises ApiError."""
    given = ask.lora_path
    names = (
        [name or "" for name in given] if isinstance(given, list) else [given or ""] * num_prompts
    )
    if len(names) != num_prompts:
        raise ApiError(
            f"lora_path has {len(names)} entries for {num_prompts} prompts", param="lora_path"
        )
    for name in names:
        if name:
            try:
                check_adapter(name, known)
            except InvalidParameter as error:
                raise ApiError(str(error), param="lora_path") from None
    return names


def _sampling(ask: GenerateRequest, num_prompts: int) -> list[SrtSampling]:
    given = ask.sampling_params
    if not isinstance(given, list):
        return [convert(given or {}, SrtSampling, "sampling_params")] * num_prompts
    if len(given) != num_prompts:
        raise ApiError(
            f"sampling_params has {len(given)} entries for {num_prompts} prompts",
            param="sampling_params",
        )
    return [convert(each, SrtSampling, f"sampling_params[{i}]") for i, each in enumerate(given)]


class Shape:
    """How one request wants its answers written."""

    def __init__(
        self, ask: GenerateRequest, request_id: str, sampling: list[SrtSampling], single: bool
    ) -> None:
        self.request_id = request_id
        self.counts = [each.n or 1 for each in sampling]
        self.single = single and self.counts == [1]
        self.began = time.monotonic()
        wanted = ask.return_logprob
        self.with_logprobs = any(wanted) if isinstance(wanted, list) else bool(wanted)
        self.top = ask.top_logprobs_num or 0
        self.with_text = bool(ask.return_text_in_logprobs)
        start = ask.logprob_start_len
        self.start = None if start is None or start < 0 else start
        self._streamed = bool(ask.stream)

    def gen(self, sampling: SrtSampling, attached: Attached) -> Any:
        """The instruction for one prompt."""
        limits = attached.limits
        max_tokens = sampling.max_new_tokens
        if sampling.structural_tag is not None:
            outputs = {"structural_tag": sampling.structural_tag}
            sampling = convert(
                {**msgspec.to_builtins(sampling), "structured_outputs": outputs}, SrtSampling
            )
        sampling.min_tokens = sampling.min_new_tokens or 0
        sampling.include_stop_str_in_output = sampling.no_stop_trim
        gen = limits.gen(
            sampling,
            DEFAULT_MAX_NEW_TOKENS if max_tokens is None else max_tokens,
            limits.reading(sampling).wanted(sampling).constraint,
            limits.logprobs(self.top, "top_logprobs_num") if self.with_logprobs else None,
            self._streamed,
        )
        start = self.start if self.with_logprobs else None
        return msgspec.structs.replace(gen, prompt_logprobs_from=start)

    def whole(self, found: list[Answer]) -> Any:
        """The answer in one piece: an object for one prompt, a list for several."""
        bodies = [self.body(answer.text, answer, answer.done) for answer in found]
        return bodies[0] if self.single else bodies

    def body(self, text: str, answer: Answer, done: Done | None) -> dict[str, Any]:
        """One answer, finished or so far."""
        usage = done.usage if done else Usage(completion=len(answer.token_ids))
        meta: dict[str, Any] = {
            "id": self.request_id,
            "finish_reason": _finish(done) if done else None,
            "prompt_tokens": usage.prompt,
            "completion_tokens": usage.completion,
            "cached_tokens": usage.cached,
            "jumped_tokens": usage.jumped,
            "e2e_latency": time.monotonic() - self.began,
            **(answers.warned(done) if done else {}),
        }
        if self.with_logprobs:
            before = done.prompt_logprobs if done else ()
            meta["input_token_logprobs"] = [self._logprob(each) for each in before]
            meta["output_token_logprobs"] = [self._logprob(each) for each in answer.logprobs]
            if self.top:
                meta["input_top_logprobs"] = [self._tops(each) for each in before]
                meta["output_top_logprobs"] = [self._tops(each) for each in answer.logprobs]
        return {"text": text, "output_ids": answer.token_ids, "meta_info": meta}

    def _logprob(self, token: TokenLogprob) -> tuple[float | None, int, str | None]:
        text = token.data.decode(errors="replace") if self.with_text else None
        return answers.floor(token.logprob), token.token_id, text

    def _tops(self, token: TokenLogprob) -> list[tuple[float | None, int, str | None]] | None:
        if token.logprob is None:
            return None
        return [
            self._logprob(TokenLogprob(token_id, text, logprob))
            for token_id, text, logprob in token.top[: self.top]
        ]


def _finish(done: Done) -> dict[str, Any]:
    if done.reason == "length":
        return {"type": "length", "length": done.usage.completion}
    return {"type": "stop", "matched": done.matched}


class GenerateStream:
    """Writes the text so far of each answer, event by event."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        count = sum(shape.counts)
        self._answers = [Answer() for _ in range(count)]
        self._decoders = [answers.decoder() for _ in range(count)]

    @property
    def usage(self) -> Usage:
        """What the request cost so far."""
        return total_usage([answer.usage for answer in self._answers], 1)

    def write(self, events: Events) -> bytes:
        """An event for each."""
        return b"".join(self._event(index, event) for index, event in events)

    def _event(self, index: int, event: Any) -> bytes:
        answer = self._answers[index]
        text = answer.text
        if isinstance(event, Tokens):
            text += self._decoders[index].decode(event.data)
        answer.add(event)
        done = event if isinstance(event, Done) else None
        if done is None:
            answer.text = text
        body = self._shape.body(answer.text, answer, done)
        return data(body if self._shape.single else {**body, "index": index})

    def error(self, error: ApiError) -> bytes:
        """An error in mid-stream."""
        return error_data(error)

    def end(self) -> bytes:
        """The end."""
        return DONE


async def model_info(gateway: Gateway, request: Request) -> Response:
    """What SGLang's clients read of the model."""
    model = gateway.attached.model
    return answers.json_response(
        {
            "model_path": model.name,
            "tokenizer_path": model.name,
            "is_generation": True,
            "preferred_sampling_params": None,
            "weight_version": model.welcome.model_checksum,
        }
    )


async def server_info(gateway: Gateway, request: Request) -> Response:
    """What SGLang's clients read of the server."""
    welcome = gateway.attached.model.welcome
    return answers.json_response(
        {
            "version": welcome.runtime_version,
            "model_path": gateway.attached.model.name,
            "context_length": welcome.context_len,
            "max_total_num_tokens": welcome.context_len,
            "limits": welcome.limits,
            "chat_format": msgspec.structs.asdict(welcome.chat_format),
            "internal_states": [await gateway.ask("stats")],
        }
    )


async def flush_cache(gateway: Gateway, request: Request) -> Response:
    """Forget every cached prefix that nothing uses."""
    await gateway.ask("flush_cache")
    return PlainTextResponse("Cache flushed.\n")


async def abort_request(gateway: Gateway, request: Request) -> Response:
    """Abort one request, by exactly its id, or all."""
    ask = decode(await read_body(request, gateway.config), AbortRequest)
    if ask.abort_all:
        if not request.state.admin:
            raise ApiError("abort_all needs the admin key", 403, code="admin_key_needed")
        return answers.json_response({"aborted": gateway.abort_all()})
    if not ask.rid:
        raise ApiError("rid is required", param="rid", code="missing_parameter")
    return answers.json_response({"aborted": int(gateway.abort(ask.rid))})
