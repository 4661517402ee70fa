"""POST /v1/embeddings, and POST /v1/score: what the model makes of texts without writing any."""

import array
import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from branchwork.runtime.server import answers
from branchwork.runtime.server.body import read_body
from branchwork.runtime.server.errors import ApiError
from branchwork.runtime.server.fields import Count
from branchwork.runtime.server.gateway import Attached, Gateway
from branchwork.runtime.server.generation import SLOT, Generation, Prompt
from branchwork.runtime.server.jobs import Answer, total_usage
from branchwork.runtime.server.prompts import as_prompt, prompts_of
from branchwork.runtime.server.validate import decode
from branchwork.runtime.wire.messages import Done, Embed, Select, Usage


class EmbeddingRequest(msgspec.Struct, kw_only=True):
    """POST /v1/embeddings."""

    input: str | list[Any]
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    pooling: Literal["mean", "last"] | None = None
    user: str | None = None


class ScoreRequest(msgspec.Struct, kw_only=True):
    """POST /v1/score, in one of three forms.

    `query` and `items` with `label_token_ids`: how likely each label follows each item (as SGLang scores).
    `prompt` and `choices`: the log-probability of each choice. `text_1` and `text_2`: how alike two texts are.
    """

    model: str | None = None
    query: str | None = None
    items: str | list[str] | None = None
    label_token_ids: Annotated[list[Count], Meta(min_length=1)] | None = None
    apply_softmax: bool | None = None
    item_first: bool | None = None
    prompt: str | None = None
    choices: Annotated[list[str], Meta(min_length=1)] | None = None
    text_1: str | list[str] | None = None
    text_2: str | list[str] | None = None


async def embeddings(gateway: Gateway, request: Request) -> Response:
    """Vectors of unit length for texts or token ids."""
    ask = decode(await read_body(request, gateway.config), EmbeddingRequest)
    attached = gateway.serving(ask.model)
    prompts = [as_prompt(each) for each in prompts_of(ask.input, attached.limits, "input")]
    asked = Asked(gateway, request, attached)
    vectors, usage = await asked.embed(prompts, ask.pooling or "mean")
    if ask.dimensions is not None:
        vectors = [_shortened(vector, ask.dimensions) for vector in vectors]
    as_base64 = ask.encoding_format == "base64"
    body = {
        "object": "list",
        "data": [
            {
                "object": "embedding",
                "index": index,
                "embedding": _base64(vector) if as_base64 else vector,
            }
            for index, vector in enumerate(vectors)
        ],
        "model": attached.model.name,
        "usage": {
            "prompt_tokens": usage.prompt,
            "total_tokens": usage.prompt,
            "prompt_tokens_details": {"cached_tokens": usage.cached},
        },
    }
    return answers.json_response(body)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request of one of these routes, and the model that it names."""

    gateway: Gateway
    request: Request
    attached: Attached

    async def embed(
        self, prompts: list[Prompt], pooling: Literal["mean", "last"]
    ) -> tuple[list[Sequence[float]], Usage]:
        """A vector for each prompt, and what they cost together."""
        found = await self.all(prompts, Embed(0, SLOT, pooling))
        usage = total_usage([answer.usage for answer in found], 1)
        return [_done(answer).embedding for answer in found], usage

    async def all(self, prompts: list[Prompt], ask: Embed | Select) -> list[Answer]:
        """What is asked of each prompt."""
        adapter = self.attached.model.adapter
        generations = [Generation(prompt, ask, adapter=adapter) for prompt in prompts]
        async with self.gateway.running(self.request, generations) as job:
            found = await job.answers()
        self.gateway.metrics.add_usage(total_usage([answer.usage for answer in found], 1))
        return found

    def texts(self, given: str | list[str] | None, name: str) -> list[str]:
        """The texts of a field. Raises ApiError naming it."""
        texts = [given] if isinstance(given, str) else list(given or ())
        if not texts:
            raise ApiError(f"{name} must not be empty", param=name)
        most = self.gateway.config.max_prompts
        self.attached.limits.at_most(len(texts), most, name, "--max-prompts")
        return texts

    def scored(self, body: dict[str, Any], found: list[Answer]) -> Response:
        """The answer that carries scores."""
        usage = total_usage([answer.usage for answer in found], 1)
        model = self.attached.model.name
        whole = {**body, "object": "scoring", "model": model, "usage": answers.usage_body(usage)}
        return answers.json_response(whole)


def _done(answer: Answer) -> Done:
    assert answer.done is not None
    return answer.done


def _shortened(vector: Sequence[float], dimensions: int) -> list[float]:
    """The first dimensions, of unit length again."""
    if dimensions > len(vector):
        raise ApiError(
            f"dimensions is {dimensions}, this model's vectors have {len(vector)}",
            param="dimensions",
        )
    kept = vector[:dimensions]
    norm = math.sqrt(sum(x * x for x in kept)) or 1.0
    return [x / norm for x in kept]


def _base64(vector: Sequence[float]) -> str:
    return base64.b64encode(array.array("f", vector).tobytes()).decode()


async def score(gateway: Gateway, request: Request) -> Response:
    """How likely labels or choices are, or how alike texts are."""
    ask = decode(await read_body(request, gateway.config), ScoreRequest)
    asked = Asked(gateway, request, gateway.serving(ask.model))
    if ask.query is not None and ask.items is not None and ask.label_token_ids is not None:
        return await _score_labels(asked, ask)
    if ask.prompt is not None and ask.choices is not None:
        return await _score_choices(asked, ask)
    if ask.text_1 is not None and ask.text_2 is not None:
        return await _score_likeness(asked, ask)
    raise ApiError(
        "give query, items and label_token_ids; or prompt and choices; or text_1 and text_2",
        param="query",
    )


async def _score_labels(asked: Asked, ask: ScoreRequest) -> Response:
    gateway, limits = asked.gateway, asked.attached.limits
    items = asked.texts(ask.items, "items")
    given = len(ask.label_token_ids or ())
    limits.at_most(given, gateway.config.max_prompts, "label_token_ids", "--max-prompts")
    label_ids = limits.token_ids(ask.label_token_ids or [], "label_token_ids")
    labels = [
        str((await gateway.ask("detokenize", {"token_ids": [label]}))["text"])
        for label in label_ids
    ]
    if not all(labels) or any("\ufffd" in label for label in labels):
        raise ApiError("label_token_ids holds a token that is no text", param="label_token_ids")
    pairs = [
        item + (ask.query or "") if ask.item_first else (ask.query or "") + item for item in items
    ]
    select = Select(0, SLOT, tuple(labels), "none")
    found = await asked.all([Prompt.of_text(pair) for pair in pairs], select)
    scores = []
    for answer in found:
        chances = [math.exp(choice.logprob) for choice in _done(answer).scores]
        total = sum(chances) or 1.0
        scores.append([chance / total for chance in chances] if ask.apply_softmax else chances)
    return asked.scored({"scores": scores}, found)


async def _score_choices(asked: Asked, ask: ScoreRequest) -> Response:
    select = Select(0, SLOT, tuple(asked.texts(ask.choices, "choices")), "none")
    found = await asked.all([Prompt.of_text(ask.prompt or "")], select)
    scores = [
        {"text": choice.text, "logprob": choice.logprob, "tokens": len(choice.logprobs)}
        for choice in _done(found[0]).scores
    ]
    return asked.scored({"scores": scores}, found)


async def _score_likeness(asked: Asked, ask: ScoreRequest) -> Response:
    first, second = asked.texts(ask.text_1, "text_1"), asked.texts(ask.text_2, "text_2")
    if len(first) == 1:
        first = first * len(second)
    if len(first) != len(second):
        raise ApiError("text_1 must be one text, or as many as text_2", param="text_1")
    prompts = [Prompt.of_text(text) for text in [*first, *second]]
    vectors, usage = await asked.embed(prompts, "mean")
    pairs = zip(vectors[: len(first)], vectors[len(first) :], strict=True)
    found = [
        {"index": i, "object": "score", "score": sum(x * y for x, y in zip(a, b, strict=True))}
        for i, (a, b) in enumerate(pairs)
    ]
    body = {"object": "list", "data": found, "model": asked.attached.model.name}
    return answers.json_response({**body, "usage": answers.usage_body(usage)})
