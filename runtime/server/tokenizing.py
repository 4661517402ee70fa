"""POST /tokenize, POST /detokenize, GET /tokenizer_info: the model's tokenizer, as vLLM's clients ask for it."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from branchwork.runtime.server.answers import json_response
from branchwork.runtime.server.body import read_body
from branchwork.runtime.server.conversation import Conversation, options_of, tool_use, turns_of
from branchwork.runtime.server.errors import ApiError
from branchwork.runtime.server.fields import ChatTurn, Count, Tool
from branchwork.runtime.server.gateway import Gateway
from branchwork.runtime.server.validate import decode


class TokenizeRequest(msgspec.Struct, kw_only=True):
    """A text, or a chat as the template writes it."""

    model: str | None = None
    prompt: str | None = None
    text: str | None = None
    messages: Annotated[list[ChatTurn], Meta(min_length=1)] | None = None
    tools: list[Tool] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    return_token_strs: bool | None = None
    chat_template_kwargs: dict[str, str | int | float | bool | None] | None = None


class DetokenizeRequest(msgspec.Struct, kw_only=True):
    """Token ids."""

    tokens: list[Count]
    model: str | None = None


async def tokenize(gateway: Gateway, request: Request) -> Response:
    """The tokens of a text or of a chat."""
    ask = decode(await read_body(request, gateway.config), TokenizeRequest)
    model = gateway.serving(ask.model).model
    text = ask.prompt if ask.prompt is not None else ask.text
    if (text is None) == (ask.messages is None):
        raise ApiError("give prompt or messages", param="prompt")
    if text is not None:
        special = ask.add_special_tokens is not False
        body: dict[str, Any] = {"text": text, "add_special_tokens": special}
    else:
        body = _chat(ask, gateway).rendering()
    ids = (await gateway.ask("tokenize", body))["token_ids"]
    strings = None
    if ask.return_token_strs:
        groups = [[each] for each in ids]
        strings = (await gateway.ask("detokenize_each", {"groups": groups}))["texts"]
    return json_response(
        {
            "tokens": ids,
            "count": len(ids),
            "max_model_len": model.welcome.context_len,
            "token_strs": strings,
        }
    )


def _chat(ask: TokenizeRequest, gateway: Gateway) -> Conversation:
    config = gateway.config
    return Conversation(
        turns_of(ask.messages or ()),
        tool_use(ask.tools, None, None, config.max_tools, config.max_schema_bytes),
        options=options_of(ask.chat_template_kwargs),
        generation_prompt=ask.add_generation_prompt is not False,
    )


async def detokenize(gateway: Gateway, request: Request) -> Response:
    """The text of tokens."""
    ask = decode(await read_body(request, gateway.config), DetokenizeRequest)
    attached = gateway.serving(ask.model)
    token_ids = attached.limits.token_ids(ask.tokens, "tokens")
    text = (await gateway.ask("detokenize", {"token_ids": token_ids}))["text"]
    return json_response({"prompt": text, "text": text})


async def tokenizer_info(gateway: Gateway, request: Request) -> Response:
    """What a client needs to count and to render as the model does."""
    model = gateway.attached.model
    info = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": model.welcome.context_len,
        "vocab_size": model.welcome.vocab_size,
        "bos_token": None,
        "eos_token": None,
        "pad_token": None,
        "chat_template": None,
    }
    return json_response({**info, **model.tokenizer})
