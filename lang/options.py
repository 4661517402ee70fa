"""The options of a slot and of a run: their names, what values they take, and how the two are put together.

An option given to `gen` goes before the same option given to `run`. Bounds (a temperature below zero) are the
runtime's to check; here a value is only brought into the form that crosses the socket.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TypedDict

from branchwork.lang.ir import Gen
from branchwork.runtime.wire import messages as wire
from branchwork.runtime.wire.errors import InvalidParameter, UnknownOption

MAX_TOKENS = 128
"""Of a slot that says nothing else, as SGLang's."""

MAX_VALUE_TOKENS = 1024
"""Of a slot that holds a JSON value: cut short, it would be another value."""


class RunOptions(TypedDict, total=False):
    """How tokens are chosen and when a slot ends; every name is an option of `gen` and of `run`.

    `max_tokens` (or `max_new_tokens`) and `min_tokens` bound the slot's length in tokens. `stop` (a string or
    several), `stop_token_ids` and `stop_regex` end it; `include_stop` keeps the stop in the text; `ignore_eos` goes
    on after the model's own end. `temperature` 0 is greedy. `top_k` ≤ 0 is no bound. `seed` makes the answer
    repeatable. `logit_bias` maps token ids to what is added to their logits. `return_logprob` gives the tokens'
    log-probabilities in `meta_info`, with `top_logprobs_num` alternatives, and of the prompt from token
    `logprob_start_len` on. `heal` lets the slot choose across the last token before it. `jump_forward` False
    samples also what the constraint decides. `length_safe` False lets `max_tokens` cut a constrained answer.
    """

    max_new_tokens: int
    min_tokens: int
    min_new_tokens: int
    stop: str | Sequence[str]
    stop_token_ids: Sequence[int]
    stop_regex: str | Sequence[str]
    include_stop: bool
    ignore_eos: bool
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    frequency_penalty: float
    presence_penalty: float
    repetition_penalty: float
    logit_bias: Mapping[int, float]
    seed: int
    return_logprob: bool
    logprob_start_len: int
    top_logprobs_num: int
    return_text_in_logprobs: bool
    heal: bool
    jump_forward: bool
    length_safe: bool


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError("a whole number")
    return value


def _count(value: Any) -> int:
    if _integer(value) < 1:
        raise TypeError("at least 1")
    return int(value)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("a number")
    return float(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError("True or False")
    return value


def _strings(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    items: tuple[Any, ...] = tuple(value) if isinstance(value, Iterable) else (None,)
    if not all(isinstance(item, str) for item in items):
        raise TypeError("a string or a list of strings")
    return items


def _integers(value: Any) -> tuple[int, ...]:
    if not isinstance(value, Iterable) or isinstance(value, str):
        raise TypeError("a list of whole numbers")
    return tuple(_integer(item) for item in value)


def _bias(value: Any) -> tuple[tuple[int, float], ...]:
    if not isinstance(value, Mapping):
        raise TypeError("a mapping of token ids to numbers")
    try:  # ids may be text, as in JSON
        return tuple((_integer(int(token)), _number(bias)) for token, bias in value.items())
    except (TypeError, ValueError):
        raise TypeError("a mapping of token ids to numbers") from None


def _top_k(value: Any) -> int:
    return max(_integer(value), 0)  # SGLang and OpenAI servers write "no bound" as -1


_SAMPLING: dict[str, Callable[[Any], Any]] = {
    "max_tokens": _integer,
    "min_tokens": _integer,
    "stop": _strings,
    "stop_token_ids": _integers,
    "stop_regex": _strings,
    "include_stop": _flag,
    "ignore_eos": _flag,
    "temperature": _number,
    "top_p": _number,
    "top_k": _top_k,
    "min_p": _number,
    "frequency_penalty": _number,
    "presence_penalty": _number,
    "repetition_penalty": _number,
    "logit_bias": _bias,
    "seed": _integer,
}

_BESIDE: dict[str, Callable[[Any], Any]] = {
    "return_logprob": _flag,
    "logprob_start_len": _integer,
    "top_logprobs_num": _integer,
    "return_text_in_logprobs": _flag,
    "heal": _flag,
    "jump_forward": _flag,
    "length_safe": _flag,
}

_OF_ONE_SLOT: dict[str, Callable[[Any], Any]] = {"n": _count, "timeout": _number}

_ALIASES = {"max_new_tokens": "max_tokens", "min_new_tokens": "min_tokens"}

_NORMAL = _SAMPLING | _BESIDE | _OF_ONE_SLOT

RUN_OPTIONS = frozenset(_SAMPLING | _BESIDE | _ALIASES)


def unknown_option(name: str, known: Iterable[str]) -> UnknownOption:
    """The error for a name that nobody knows, with the nearest name that somebody does."""
    if name == "adapter":
        return UnknownOption(
            "adapter is no option of a slot, as a branch has one for life: give it to run(…) or function(…), "
            "or ask with gen(…, on=with_adapter(…))"
        )
    near = get_close_matches(name, list(known), n=1)
    return UnknownOption(f"{name}; did you mean {near[0]}?" if near else f"{name} is not an option")


def normalise(given: Mapping[str, Any], also_known: Iterable[str] = ()) -> dict[str, Any]:
    """`given` under canonical names and in the form that crosses the socket; None values are left out.

    Raises UnknownOption for a name that is no option (`also_known` are suggested too) and InvalidParameter for a
    value of another type. The caller's own lists are copied, never kept.
    """
    options: dict[str, Any] = {}
    for name, value in given.items():
        if value is None:
            continue
        canonical = _ALIASES.get(name, name)
        check = _NORMAL.get(canonical)
        if check is None:
            raise unknown_option(name, [*_NORMAL, *_ALIASES, *also_known])
        try:
            options[canonical] = check(value)
        except (TypeError, ValueError) as error:
            raise InvalidParameter(f"{name}={value!r}: must be {error}", name) from None
    return options


class Defaults:
    """A run's options, ready to be completed by each slot's own."""

    __slots__ = ("options", "sampling", "stream")

    def __init__(self, options: Mapping[str, Any], stream: bool = False) -> None:
        self.options = dict(options)
        self.stream = stream
        self.sampling = self._sampling(self.options, MAX_TOKENS, ())

    def instruction(
        self, branch: wire.BranchId, slot: str, gen: Gen, deadline_s: float | None, seed_offset: int
    ) -> wire.Gen:
        """The instruction that fills `slot` as `gen` says.

        `deadline_s` is what the program has left; `seed_offset` tells the samples of one slot apart.
        """
        own, hole = gen.options, gen.hole
        merged = {**self.options, **own} if own else self.options
        if seed_offset and "seed" in merged:
            merged = {**merged, "seed": merged["seed"] + seed_offset}
        is_value = isinstance(hole.constraint, wire.JsonSchema)
        if merged is self.options and not is_value and not hole.stop:
            sampling = self.sampling
        else:
            limit = MAX_VALUE_TOKENS if is_value else MAX_TOKENS
            sampling = self._sampling(merged, limit, hole.stop)
        wants_logprobs = merged.get("return_logprob", False)
        start = merged.get("logprob_start_len", -1)
        return wire.Gen(
            branch,
            slot,
            sampling,
            hole.constraint,
            merged.get("top_logprobs_num", 0) if wants_logprobs else None,
            start if wants_logprobs and start >= 0 else None,
            merged.get("heal", False),
            self.stream,
            merged.get("jump_forward", True),
            merged.get("length_safe", True),
            own.get("timeout", deadline_s),
        )

    @staticmethod
    def _sampling(options: Mapping[str, Any], limit: int, stop: tuple[str, ...]) -> wire.Sampling:
        fields = {name: options[name] for name in options if name in _SAMPLING}
        fields.setdefault("max_tokens", limit)
        if stop:
            fields["stop"] = (*fields.get("stop", ()), *stop)
        return wire.Sampling(**fields)
