"""The fields of requests: one definition each, with both bounds, shared by every route that has the field.

`None` is what an absent field and an explicit null both mean. Bounds that are options of the server
(`ServerConfig`) are held in `generation.py`; those here hold for every server.
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from branchwork.runtime.wire.validate import MAX_PIN_S

MAX_INT = 2**31 - 1

Name = Annotated[str, Meta(min_length=1, max_length=256)]
Count = Annotated[int, Meta(ge=0, le=MAX_INT)]
Salt = Annotated[str, Meta(min_length=1, max_length=1024)]
Positive = Annotated[int, Meta(ge=1, le=MAX_INT)]
Share = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Bias = Annotated[float, Meta(ge=-100, le=100)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Priority = Annotated[int, Meta(ge=-MAX_INT, le=MAX_INT)]
JsonObject = dict[str, Any]


class StreamOptions(msgspec.Struct):
    """What a stream carries beside the text."""

    include_usage: bool | None = None
    include_runs: bool | None = None


class StructuredOutputs(msgspec.Struct):
    """vLLM's group of constraints; one of them is given."""

    json: JsonObject | str | bool | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: str | JsonObject | None = None
    disable_any_whitespace: bool | None = None
    any_order: bool | None = None


class NamedSchema(msgspec.Struct):
    """OpenAI's `json_schema`."""

    name: Name | None = None
    schema: JsonObject | bool | None = None
    strict: bool | None = None
    description: str | None = None


class TagStructure(msgspec.Struct):
    """One tag of a `structural_tag` format."""

    begin: str
    end: str
    schema: JsonObject | bool | None = None


class ResponseFormat(msgspec.Struct):
    """OpenAI's `response_format`, and `structural_tag` as vLLM and SGLang take it."""

    type: str
    json_schema: NamedSchema | None = None
    schema: JsonObject | bool | None = None
    structures: list[TagStructure] | None = None
    triggers: list[str] | None = None


class Sampled(msgspec.Struct, kw_only=True):
    """How tokens are chosen and when an answer ends."""

    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Share | None = None
    top_k: Annotated[int, Meta(ge=-1, le=MAX_INT)] | None = None
    min_p: Share | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=10)] | None = None
    seed: Seed | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[Count] | None = None
    stop_regex: str | list[str] | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    min_tokens: Count | None = None
    logit_bias: dict[str, Bias] | None = None


class Constraining(Sampled, kw_only=True):
    """Every way in which a request can say what its answer must look like; at most one is used."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    regex: str | None = None
    ebnf: str | None = None
    choices: list[str] | None = None
    json_schema: JsonObject | bool | str | None = None
    guided_json: JsonObject | bool | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    any_whitespace: bool | None = None
    any_order: bool | None = None


class Generating(Constraining, kw_only=True):
    """What every OpenAI route that generates has."""

    model: str | None = None
    n: Positive | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    cache_salt: Salt | None = None
    cache_pin_s: Annotated[float, Meta(ge=0, le=MAX_PIN_S)] | None = None
    priority: Priority | None = None
    return_token_ids: bool | None = None
    return_tokens: bool | None = None
    chat_template: str | None = None
    jump_forward: bool | None = None
    length_safe: bool | None = None

    # What clients send for other servers and means nothing here; their types are still held.
    user: str | None = None
    metadata: JsonObject | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None


class CompletionRequest(Generating, kw_only=True):
    """POST /v1/completions."""

    prompt: str | list[Any]
    max_tokens: Count | None = None
    best_of: Positive | None = None
    logprobs: Count | None = None
    echo: bool | None = None
    suffix: str | None = None
    add_special_tokens: bool | None = None


class Part(msgspec.Struct):
    """One part of a message's content; only texts are taken."""

    type: str
    text: str | None = None
    refusal: str | None = None


class FunctionCall(msgspec.Struct):
    """A call that the assistant made earlier."""

    name: Name
    arguments: str | JsonObject | None = None


class ToolCall(msgspec.Struct):
    """A call that the assistant made earlier, with its id."""

    function: FunctionCall
    id: str | None = None
    type: str | None = None


class ChatTurn(msgspec.Struct):
    """One message of a chat; fields that are not named here are ignored, as clients add their own."""

    role: str
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None


class Function(msgspec.Struct, omit_defaults=True):
    """A tool that the model may call."""

    name: Name
    description: str | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None


class Tool(msgspec.Struct, omit_defaults=True):
    """A tool in OpenAI's form; only functions are known."""

    type: str
    function: Function | None = None


class ChatRequest(Generating, kw_only=True):
    """POST /v1/chat/completions."""

    messages: Annotated[list[ChatTurn], Meta(min_length=1)]
    max_tokens: Positive | None = None
    max_completion_tokens: Positive | None = None
    logprobs: bool | None = None
    top_logprobs: Count | None = None
    tools: list[Tool] | None = None
    tool_choice: str | JsonObject | None = None
    parallel_tool_calls: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, str | int | float | bool | None] | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    modalities: list[str] | None = None
    prediction: JsonObject | None = None
    functions: list[Any] | None = None
    function_call: str | JsonObject | None = None
    audio: JsonObject | None = None
    web_search_options: JsonObject | None = None
    separate_reasoning: bool | None = None
