"""POST /v1/completions: prompts as texts or token ids, one or many, streamed or whole."""

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from branchwork.runtime.server import answers
from branchwork.runtime.server.answers import CompletionLogprobs
from branchwork.runtime.server.body import read_body
from branchwork.runtime.server.errors import ApiError
from branchwork.runtime.server.fields import CompletionRequest
from branchwork.runtime.server.gateway import Gateway
from branchwork.runtime.server.generation import Generation, Limits, cache_salt
from branchwork.runtime.server.jobs import Answer, total_usage
from branchwork.runtime.server.prompts import as_prompt, prompts_of
from branchwork.runtime.server.stream import DONE, Events, data, error_data, stream
from branchwork.runtime.server.validate import decode
from branchwork.runtime.wire.messages import Constraint, Done, Gen, TokenLogprob, Tokens, Usage

DEFAULT_MAX_TOKENS = 16
"""OpenAI's own default of this route; an answer under a constraint is not cut by it."""


async def completions(gateway: Gateway, request: Request) -> Response:
    """Answer one request. Raises ApiError."""
    ask = decode(await read_body(request, gateway.config), CompletionRequest)
    attached = gateway.serving(ask.model)
    if ask.suffix:
        raise ApiError("suffix is not supported by this model", param="suffix")
    prompts = prompts_of(ask.prompt, attached.limits)
    wanted = attached.limits.reading(ask).wanted(ask)
    gen = _gen(ask, wanted.constraint, attached.limits)
    n = attached.limits.answers(ask.n)
    best_of = _best_of(ask, n, attached.limits)
    if len(prompts) * best_of > gateway.config.max_prompts:
        raise ApiError(
            f"prompt and n ask for {len(prompts) * best_of} answers, the server takes at most "
            f"{gateway.config.max_prompts} (--max-prompts)",
            param="n",
        )
    salt = cache_salt(ask.cache_salt)
    generations = [
        Generation(
            as_prompt(prompt),
            gen,
            best_of,
            salt,
            ask.priority or 0,
            wanted.field,
            ask.cache_pin_s or 0.0,
            attached.model.adapter,
        )
        for prompt in prompts
    ]
    echoes = await _echoes(gateway, prompts) if ask.echo else None
    with_ids = ask.return_token_ids or ask.return_tokens
    prompt_ids = await _prompt_ids(gateway, prompts) if with_ids else None
    shape = Shape(ask, attached.model.name, len(prompts) * n, n, echoes, prompt_ids)
    if ask.stream:
        return await stream(gateway, request, generations, CompletionStream(shape))
    async with gateway.running(request, generations) as job:
        found = await job.answers()
    usage = total_usage([answer.usage for answer in found], best_of)
    gateway.metrics.add_usage(usage)
    if best_of > n:
        found = _best(found, best_of, n)
    return answers.json_response(shape.whole(found, usage))


def _gen(ask: CompletionRequest, constraint: Constraint | None, limits: Limits) -> Gen:
    max_tokens = ask.max_tokens
    if max_tokens is None and constraint is None:
        max_tokens = DEFAULT_MAX_TOKENS
    logprobs = None if ask.logprobs is None else limits.logprobs(ask.logprobs, "logprobs")
    wanted = 0 if logprobs is None and (ask.best_of or 1) > (ask.n or 1) else logprobs
    gen = limits.gen(ask, max_tokens, constraint, wanted, bool(ask.stream))
    if ask.echo and logprobs is not None:
        gen = msgspec.structs.replace(gen, prompt_logprobs_from=0)
    return gen


def _best_of(ask: CompletionRequest, n: int, limits: Limits) -> int:
    best_of = limits.answers(ask.best_of or n, "best_of")
    if best_of < n:
        raise ApiError(f"best_of ({best_of}) must not be less than n ({n})", param="best_of")
    if best_of > n and ask.stream:
        raise ApiError("best_of cannot be streamed", param="best_of")
    return best_of


def _best(found: list[Answer], best_of: int, n: int) -> list[Answer]:
    """The `n` answers to each prompt whose tokens are likeliest on average."""
    kept = []
    for first in range(0, len(found), best_of):
        group = found[first : first + best_of]
        kept += sorted(group, key=_mean_logprob, reverse=True)[:n]
    return kept


def _mean_logprob(answer: Answer) -> float:
    total = sum(token.logprob or 0.0 for token in answer.logprobs)
    return total / max(len(answer.logprobs), 1)


async def _echoes(gateway: Gateway, prompts: list[str | tuple[int, ...]]) -> list[str]:
    """The prompts as texts."""
    return [
        prompt
        if isinstance(prompt, str)
        else str((await gateway.ask("detokenize", {"token_ids": prompt}))["text"])
        for prompt in prompts
    ]


async def _prompt_ids(
    gateway: Gateway, prompts: list[str | tuple[int, ...]]
) -> list[tuple[int, ...]]:
    """The prompts as token ids."""
    return [
        tuple((await gateway.ask("tokenize", {"text": prompt}))["token_ids"])
        if isinstance(prompt, str)
        else prompt
        for prompt in prompts
    ]


class Shape:
    """How one request wants its answers written."""

    def __init__(
        self,
        ask: CompletionRequest,
        model: str,
        num_choices: int,
        n: int,
        echoes: list[str] | None,
        prompt_ids: list[tuple[int, ...]] | None,
    ) -> None:
        self.ask = ask
        self.id = answers.new_id("cmpl-")
        self.model = model
        self.created = answers.now()
        self.num_choices = num_choices
        self.n = n
        self.echoes = echoes
        self.prompt_ids = prompt_ids
        self.include_usage = bool(ask.stream_options and ask.stream_options.include_usage)
        self.include_runs = bool(ask.stream_options and ask.stream_options.include_runs)

    def head(self) -> dict[str, Any]:
        """What every object of the answer begins with."""
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
        }

    def echo(self, index: int) -> str:
        """The prompt's text, where it was asked for."""
        return self.echoes[index // self.n] if self.echoes else ""

    def logprobs(self, offset: int = 0) -> CompletionLogprobs | None:
        """A writer of log-probabilities, where they were asked for; texts begin at `offset`."""
        return None if self.ask.logprobs is None else CompletionLogprobs(self.ask.logprobs, offset)

    def choice(self, index: int, text: str, reason: str | None = None) -> dict[str, Any]:
        """One choice, whole or in part."""
        return {"index": index, "text": text, "logprobs": None, "finish_reason": reason}

    def whole(self, found: list[Answer], usage: Usage) -> dict[str, Any]:
        """The answer in one piece."""
        choices = [self._whole_choice(index, answer) for index, answer in enumerate(found)]
        body = {**self.head(), "choices": choices, "usage": answers.usage_body(usage)}
        return body | answers.warned(*(answer.done for answer in found if answer.done))

    def _whole_choice(self, index: int, answer: Answer) -> dict[str, Any]:
        choice = self.choice(
            index, self.echo(index) + answer.text, answers.finish_reason(answer.reason)
        )
        choice["stop_reason"] = answer.matched
        if (logprobs := self.logprobs()) is not None:
            before: list[TokenLogprob] = []
            if self.echoes is not None and answer.done is not None:
                before = list(answer.done.prompt_logprobs)
            choice["logprobs"] = logprobs.add(before + answer.logprobs)
        if self.prompt_ids is not None:
            choice["token_ids"] = answer.token_ids
            choice["prompt_token_ids"] = self.prompt_ids[index // self.n]
        return choice


class CompletionStream:
    """Writes a completion's events as OpenAI's chunks."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._usages: dict[int, Usage] = {}
        self._decoders = [answers.decoder() for _ in range(shape.num_choices)]
        self._logprobs = [shape.logprobs(len(shape.echo(i))) for i in range(shape.num_choices)]
        self._begun = [False] * shape.num_choices
        # The runtime tells the prompt's log-probabilities with the end, and they come first: till then all waits.
        self._waits = shape.echoes is not None and shape.ask.logprobs is not None
        self._waiting: list[list[Tokens]] = [[] for _ in range(shape.num_choices)]
        annotated = shape.prompt_ids is not None or shape.include_runs
        self._plain = shape.ask.logprobs is None and not annotated
        head = b"data: " + msgspec.json.encode(shape.head())[:-1] + b',"choices":[{"index":'
        self._heads = [b'%s%d,"text":' % (head, index) for index in range(shape.num_choices)]
        usage = b',"usage":null' if shape.include_usage else b""
        self._tail = b',"logprobs":null,"finish_reason":null}]%s}\n\n' % usage

    @property
    def usage(self) -> Usage:
        """What the request cost so far."""
        usages = [self._usages.get(i, Usage()) for i in range(self._shape.num_choices)]
        return total_usage(usages, self._shape.n)

    def write(self, events: Events) -> bytes:
        """The chunks of these events."""
        out = []
        for index, event in events:
            if isinstance(event, Tokens) and self._waits:
                self._waiting[index].append(event)
            elif isinstance(event, Tokens):
                out.append(self._more(index, event))
            elif isinstance(event, Done):
                if self._waits:
                    out.append(self._prompt(index, event))
                    out += [self._more(index, each) for each in self._waiting[index]]
                out.append(self._last(index, event))
        return b"".join(out)

    def _prompt(self, index: int, event: Done) -> bytes:
        """The chunk of the prompt, with its log-probabilities."""
        self._begun[index] = True
        choice = self._shape.choice(index, self._shape.echo(index))
        logprobs = self._shape.logprobs()
        if logprobs is not None and event.prompt_logprobs:
            choice["logprobs"] = logprobs.add(event.prompt_logprobs)
        if self._shape.prompt_ids is not None:
            choice["prompt_token_ids"] = self._shape.prompt_ids[index // self._shape.n]
        return self._chunk(choice)

    def _more(self, index: int, event: Tokens) -> bytes:
        text = self._decoders[index].decode(event.data)
        first, self._begun[index] = not self._begun[index], True
        if first:
            text = self._shape.echo(index) + text
        if self._plain:
            if not text:
                return b""
            return self._heads[index] + msgspec.json.encode(text) + self._tail
        choice = self._shape.choice(index, text)
        self._annotate(choice, index, event)
        if first and self._shape.prompt_ids is not None:
            choice["prompt_token_ids"] = self._shape.prompt_ids[index // self._shape.n]
        return self._chunk(choice)

    def _annotate(self, choice: dict[str, Any], index: int, event: Tokens) -> None:
        logprobs = self._logprobs[index]
        if logprobs is not None and event.logprobs:
            choice["logprobs"] = logprobs.add(event.logprobs)
        if self._shape.prompt_ids is not None:
            choice["token_ids"] = [id_ for run in event.runs for id_ in run.token_ids]
        if self._shape.include_runs:
            choice["runs"] = answers.runs_body(event.runs)

    def _last(self, index: int, event: Done) -> bytes:
        self._usages[index] = event.usage
        text = self._decoders[index].decode(b"", final=True)
        if not self._begun[index]:
            text = self._shape.echo(index) + text
        choice = self._shape.choice(index, text, answers.finish_reason(event.reason))
        choice["stop_reason"] = event.matched
        choice |= answers.warned(event)
        return self._chunk(choice)

    def _chunk(self, choice: dict[str, Any]) -> bytes:
        body = {**self._shape.head(), "choices": [choice]}
        if self._shape.include_usage:
            body["usage"] = None
        return data(body)

    def error(self, error: ApiError) -> bytes:
        """An error in mid-stream."""
        return error_data(error)

    def end(self) -> bytes:
        """The usage, if asked for, and the end."""
        if not self._shape.include_usage:
            return DONE
        body = {**self._shape.head(), "choices": [], "usage": answers.usage_body(self.usage)}
        return data(body) + DONE
