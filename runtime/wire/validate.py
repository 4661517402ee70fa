"""The one validator: every instruction passes here, whichever route it came by.

The runtime checks all that arrives; the gateway and the language may check earlier, to name the parameter in their own
words. Types are checked too, since a program makes instructions by hand; every number has both its bounds.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from branchwork.runtime.wire.errors import ConstraintError, InvalidParameter
from branchwork.runtime.wire.messages import (
    Abort,
    AnyOf,
    Chat,
    Choices,
    Close,
    Concat,
    Constraint,
    Ebnf,
    Embed,
    FreeText,
    Gen,
    Instruction,
    JsonSchema,
    JsonValue,
    Open,
    Regex,
    Sampling,
    Select,
    StructuralTags,
    Text,
    Welcome,
)

MAX_ID = 2**63 - 1
MAX_NAME_BYTES = 1024
MAX_PRIORITY = 1000
MAX_DEADLINE_S = 7 * 86_400.0
MAX_PIN_S = 86_400.0
MAX_MESSAGES = 100_000
MAX_STOP_TOKEN_IDS = 1024
MAX_NAMES_SAID = 16
MAX_CONSTRAINT_PARTS = 4096
MAX_CONSTRAINT_DEPTH = 64

# The model's context bounds a request where it is served; this bounds the number alone.
MAX_TOKENS = 10_000_000

# Bounds of the numbers of `Sampling`: temperature and penalties as OpenAI's API states them, the others as their
# definitions do. top_p 0 and temperature 0 mean the most likely token.
FLOAT_BOUNDS: Mapping[str, tuple[float, float]] = {
    "temperature": (0.0, 2.0),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "frequency_penalty": (-2.0, 2.0),
    "presence_penalty": (-2.0, 2.0),
    "repetition_penalty": (0.01, 2.0),
}
INT_BOUNDS: Mapping[str, tuple[int, int]] = {
    "min_tokens": (0, MAX_TOKENS),
    "top_k": (0, MAX_TOKENS),
}
OPTIONAL_INT_BOUNDS: Mapping[str, tuple[int, int]] = {
    "max_tokens": (0, MAX_TOKENS),
    "seed": (-(2**63), MAX_ID),
}
LOGIT_BIAS_BOUND = 100.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What instructions are measured against; the names are those of `RuntimeConfig`."""

    vocab_size: int
    context_len: int
    max_text_bytes: int
    max_choices: int
    max_stops: int
    max_stop_bytes: int
    max_logprobs: int
    max_logit_bias: int
    max_schema_bytes: int
    adapters: tuple[str, ...] = ()

    @classmethod
    def of(cls, welcome: Welcome) -> "Limits":
        """The limits of the runtime that said `welcome`."""
        return cls(
            vocab_size=welcome.vocab_size,
            context_len=welcome.context_len,
            max_text_bytes=welcome.limits["max_text_bytes"],
            max_choices=welcome.limits["max_choices"],
            max_stops=welcome.limits["max_stops"],
            max_stop_bytes=welcome.limits["max_stop_bytes"],
            max_logprobs=welcome.limits["max_logprobs"],
            max_logit_bias=welcome.limits["max_logit_bias"],
            max_schema_bytes=welcome.limits["max_schema_bytes"],
            adapters=welcome.adapters,
        )


def check(instruction: Instruction, limits: Limits) -> None:
    """Raise InvalidParameter or ConstraintError, with `param`, unless the instruction can be served as it stands."""
    check_int("branch", instruction.branch, 0, MAX_ID)
    _CHECKS[type(instruction)](instruction, limits)


def check_sampling(sampling: Sampling, limits: Limits) -> None:
    """`check` of the sampling parameters alone."""
    for name, (low, high) in FLOAT_BOUNDS.items():
        check_float(name, getattr(sampling, name), low, high)
    for name, (low, high) in INT_BOUNDS.items():
        check_int(name, getattr(sampling, name), low, high)
    for name, (low, high) in OPTIONAL_INT_BOUNDS.items():
        value = getattr(sampling, name)
        if value is not None:
            check_int(name, value, low, high)
    if sampling.max_tokens is not None and sampling.min_tokens > sampling.max_tokens:
        raise InvalidParameter(
            f"min_tokens {sampling.min_tokens} is above max_tokens {sampling.max_tokens}",
            "min_tokens",
        )
    for name in ("include_stop", "ignore_eos"):
        check_bool(name, getattr(sampling, name))
    if not (sampling.stop or sampling.stop_regex or sampling.stop_token_ids or sampling.logit_bias):
        return
    for name in ("stop", "stop_regex"):
        _check_stops(name, getattr(sampling, name), limits)
    check_count("stop_token_ids", sampling.stop_token_ids, 0, MAX_STOP_TOKEN_IDS)
    check_token_ids("stop_token_ids", sampling.stop_token_ids, limits)
    check_count("logit_bias", sampling.logit_bias, 0, limits.max_logit_bias)
    for pair in sampling.logit_bias:
        check_count("logit_bias", pair, 2, 2)
        token_id, bias = pair
        check_int("logit_bias", token_id, 0, limits.vocab_size - 1)
        check_float("logit_bias", bias, -LOGIT_BIAS_BOUND, LOGIT_BIAS_BOUND)


def check_constraint(constraint: Constraint, limits: Limits) -> None:
    """Bound a constraint's size and depth before anything is compiled; `param` is "constraint"."""
    if isinstance(constraint, str):
        raise ConstraintError("a text alone is no constraint", "constraint")
    size, parts = 0, 0
    todo: list[tuple[Constraint | str, int]] = [(constraint, 0)]
    while todo:
        part, depth = todo.pop()
        parts += 1
        texts, children = _dissect(part)
        size += sum(_size("constraint", text) for text in texts)
        if size > limits.max_schema_bytes:
            raise ConstraintError(
                f"a constraint of more than {limits.max_schema_bytes} bytes (--max-schema-bytes)",
                "constraint",
            )
        if depth > MAX_CONSTRAINT_DEPTH or parts + len(children) > MAX_CONSTRAINT_PARTS:
            raise ConstraintError("a constraint of too many parts inside each other", "constraint")
        todo.extend((child, depth + 1) for child in children)


def check_int(param: str, value: object, low: int, high: int) -> None:
    """An integer, and no bool, within both bounds."""
    if type(value) is not int:
        raise InvalidParameter(f"{param} must be an integer, not {_kind(value)}", param)
    if not low <= value <= high:
        raise InvalidParameter(f"{param} {value} is not between {low} and {high}", param)


def check_float(param: str, value: object, low: float, high: float) -> None:
    """A finite number, and no bool, within both bounds."""
    if type(value) is not float and type(value) is not int:
        raise InvalidParameter(f"{param} must be a number, not {_kind(value)}", param)
    if not low <= value <= high:  # NaN is refused here too
        raise InvalidParameter(f"{param} {value} is not between {low:g} and {high:g}", param)


def check_bool(param: str, value: object) -> None:
    """True or false."""
    if type(value) is not bool:
        raise InvalidParameter(f"{param} must be true or false, not {_kind(value)}", param)


def check_text(param: str, value: object, low: int, high: int) -> None:
    """A string of `low` to `high` bytes in UTF-8."""
    size = _size(param, value)
    if not low <= size <= high:
        if size == 0:
            raise InvalidParameter(f"{param} is empty", param)
        raise InvalidParameter(f"{param} has {size} bytes; at most {high} are taken", param)


def check_count(param: str, values: object, low: int, high: int) -> None:
    """A tuple of `low` to `high` entries."""
    if type(values) is not tuple and type(values) is not list:
        raise InvalidParameter(f"{param} must be a sequence, not {_kind(values)}", param)
    if not low <= len(values) <= high:
        if not values:
            raise InvalidParameter(f"{param} is empty", param)
        bound = f"at most {high}" if len(values) > high else f"at least {low}"
        raise InvalidParameter(f"{param} has {len(values)} entries; {bound} are taken", param)


def check_adapter(name: str, known: Sequence[str]) -> None:
    """The name of an adapter that the runtime has."""
    if name not in known:
        there = ", ".join(known[:MAX_NAMES_SAID]) + (", …" if len(known) > MAX_NAMES_SAID else "")
        raise InvalidParameter(
            f"there is no adapter {name[:128]!r}; there {'is' if len(known) < 2 else 'are'} {there or 'none'}",
            "adapter",
        )


def check_token_ids(param: str, token_ids: tuple[int, ...], limits: Limits) -> None:
    """Ids of the vocabulary, each."""
    if not token_ids:
        return
    for token_id in token_ids:
        if type(token_id) is not int:
            raise InvalidParameter(f"{param} must hold integers, not {_kind(token_id)}", param)
    for token_id in (min(token_ids), max(token_ids)):
        if not 0 <= token_id < limits.vocab_size:
            raise InvalidParameter(
                f"{param}: token {token_id} is not in the vocabulary (0 to {limits.vocab_size - 1})",
                param,
            )


def _check_open(message: Open, limits: Limits) -> None:
    if message.parent is not None:
        check_int("parent", message.parent, 0, MAX_ID)
    check_text("salt", message.salt, 0, MAX_NAME_BYTES)
    check_int("priority", message.priority, -MAX_PRIORITY, MAX_PRIORITY)
    check_int("program", message.program, 0, MAX_ID)
    check_bool("keep", message.keep)
    check_float("pin_s", message.pin_s, 0.0, MAX_PIN_S)
    check_text("adapter", message.adapter, 0, MAX_NAME_BYTES)
    if message.adapter:
        if message.parent is not None:
            raise InvalidParameter(
                "a fork has the adapter of its parent, and names none", "adapter"
            )
        check_adapter(message.adapter, limits.adapters)


def _check_text(message: Text, limits: Limits) -> None:
    check_text("text", message.text, 0, limits.max_text_bytes)
    check_count("token_ids", message.token_ids, 0, MAX_TOKENS)
    check_token_ids("token_ids", message.token_ids, limits)
    check_bool("special", message.special)


def _check_chat(message: Chat, limits: Limits) -> None:
    check_count("messages", message.messages, 1, MAX_MESSAGES)
    size = 0
    for entry in message.messages:
        check_text("messages", entry.role, 1, MAX_NAME_BYTES)
        size += _size("messages", entry.content) + _size("messages", entry.extra)
        if entry.extra != "{}":
            _check_json("messages", entry.extra, dict)
    check_text("tools", message.tools, 1, limits.max_text_bytes)
    check_text("options", message.options, 1, limits.max_text_bytes)
    if size > limits.max_text_bytes:
        raise InvalidParameter(
            f"messages have {size} bytes; at most {limits.max_text_bytes} are taken", "messages"
        )
    _check_json("tools", message.tools, list)
    _check_json("options", message.options, dict)
    check_bool("add_generation_prompt", message.add_generation_prompt)


def _check_gen(message: Gen, limits: Limits) -> None:
    check_text("slot", message.slot, 1, MAX_NAME_BYTES)
    check_sampling(message.sampling, limits)
    if message.constraint is not None:
        check_constraint(message.constraint, limits)
    if message.logprobs is not None:
        check_int("logprobs", message.logprobs, 0, limits.max_logprobs)
    if message.prompt_logprobs_from is not None:
        check_int("prompt_logprobs_from", message.prompt_logprobs_from, 0, limits.context_len)
    for name in ("heal", "stream", "jump_forward", "length_safe"):
        check_bool(name, getattr(message, name))
    _check_deadline(message.deadline_s)


def _check_select(message: Select, limits: Limits) -> None:
    check_text("slot", message.slot, 1, MAX_NAME_BYTES)
    check_count("choices", message.choices, 1, limits.max_choices)
    size = 0
    for choice in message.choices:
        check_text("choices", choice, 1, limits.max_text_bytes)
        size += len(choice)
    if size > limits.max_text_bytes:
        raise InvalidParameter(
            f"choices have {size} characters; at most {limits.max_text_bytes} are taken", "choices"
        )
    _check_deadline(message.deadline_s)


def _check_embed(message: Embed, limits: Limits) -> None:
    check_text("slot", message.slot, 1, MAX_NAME_BYTES)


def _check_end(message: Close | Abort, limits: Limits) -> None:
    return


def _check_stops(name: str, stops: tuple[str, ...], limits: Limits) -> None:
    check_count(name, stops, 0, limits.max_stops)
    for stop in stops:
        check_text(name, stop, 1, limits.max_stop_bytes)


def _check_deadline(deadline_s: float | None) -> None:
    if deadline_s is not None:
        check_float("deadline_s", deadline_s, 0.0, MAX_DEADLINE_S)


def _check_json(param: str, text: str, kind: type) -> None:
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        raise InvalidParameter(f"{param} is not JSON: {error}", param) from error
    if type(value) is not kind:
        raise InvalidParameter(f"{param} must be JSON of a {kind.__name__}", param)


def _dissect(part: Constraint | str) -> tuple[tuple[str, ...], tuple["Constraint | str", ...]]:
    """The texts and the parts that a constraint directly holds."""
    match part:
        case str():
            return (part,), ()
        case Regex(pattern=text) | JsonSchema(schema=text):
            return (text,), ()
        case Ebnf(text=text, root=root):
            return (text, root), ()
        case Choices(values=values):
            check_count("constraint", values, 1, MAX_TOKENS)
            return values, ()
        case FreeText(until=until):
            return until, ()
        case StructuralTags(tags=tags, triggers=triggers):
            ends = tuple(text for tag in tags for text in (tag.begin, tag.end))
            return (*ends, *triggers), tuple(tag.content for tag in tags)
        case Concat(parts=parts) | AnyOf(options=parts):
            return (), parts
        case JsonValue():
            return (), ()
        case _:
            raise ConstraintError(f"{_kind(part)} is no constraint", "constraint")


def _size(param: str, value: object) -> int:
    if type(value) is not str:
        raise InvalidParameter(f"{param} must be a string, not {_kind(value)}", param)
    if value.isascii():
        return len(value)
    try:
        return len(value.encode())
    except UnicodeEncodeError as error:
        raise InvalidParameter(
            f"{param} holds a lone surrogate at character {error.start}", param
        ) from error


def _kind(value: object) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return "null" if value is None else type(value).__name__


_CHECKS: Mapping[type, Callable[..., None]] = {
    Open: _check_open,
    Text: _check_text,
    Chat: _check_chat,
    Gen: _check_gen,
    Select: _check_select,
    Embed: _check_embed,
    Close: _check_end,
    Abort: _check_end,
}
