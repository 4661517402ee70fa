"""What can be told about a slot beside its value, under the names that SGLang's programs read."""

from collections.abc import Sequence
from typing import Any

from branchwork.lang import choices
from branchwork.lang.ir import Select
from branchwork.lang.slot import Slot
from branchwork.runtime.wire import messages as wire


def meta_info(slot: Slot, with_text: bool = False) -> dict[str, Any]:
    """The numbers of an ended slot; of a slot that is still open, what has come so far.

    Token entries are `(logprob, token_id, text)`, in nats, the text None unless `with_text` or the slot asked for it.
    With `gen(n=…)`, those of the first sample.
    """
    result = slot.result
    usage = wire.Usage() if result is None else result.usage
    meta: dict[str, Any] = {
        "id": slot.wire_name,
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "cached_tokens": usage.cached,
        "sampled_tokens": usage.sampled,
        "jumped_tokens": usage.jumped,
        "speculated_tokens": usage.speculated,
        "first_token_latency": usage.first_token_ms / 1e3,
        "e2e_latency": usage.total_ms / 1e3,
        "finish_reason": None if result is None else _finish_reason(result),
    }
    if isinstance(slot.expr, Select):
        if result is not None:
            meta |= choices.meta_info(slot.expr.method, result.scores)
        return meta
    return meta | _logprobs(slot, slot.expr.options.get("return_text_in_logprobs", with_text))


def news(slot: Slot, num_known: int, with_text: bool = False) -> dict[str, Any]:
    """As `meta_info`, of a slot that is being read while it is written: of its output tokens only those that are new.

    `num_known` output tokens have been told of before; "output_token_logprobs_length" is how many there are by now.
    """
    meta = meta_info(slot, with_text)
    num_tokens = len(slot.logprobs) or sum(len(run.token_ids) for run in slot.runs)
    meta |= {"completion_tokens": num_tokens, "output_token_logprobs_length": num_tokens}
    for key in ("output_token_logprobs", "output_top_logprobs"):
        if key in meta:
            meta[key] = meta[key][num_known:]
    return meta


def _finish_reason(result: wire.Done) -> dict[str, Any]:
    if result.reason == "length":
        return {"type": "length", "length": result.usage.completion}
    return {"type": "stop", "matched": result.matched}


def _logprobs(slot: Slot, with_text: bool) -> dict[str, Any]:
    prompt = slot.result.prompt_logprobs if slot.result is not None else ()
    if not slot.logprobs and not prompt:
        return {}
    return {
        "output_token_logprobs": _entries(slot.logprobs, with_text),
        "output_top_logprobs": _top(slot.logprobs, with_text),
        "input_token_logprobs": _entries(prompt, with_text),
        "input_top_logprobs": _top(prompt, with_text),
    }


def _entries(
    tokens: Sequence[wire.TokenLogprob], with_text: bool
) -> list[tuple[float | None, int, str | None]]:
    return [(token.logprob, token.token_id, _text(token.data, with_text)) for token in tokens]


def _top(
    tokens: Sequence[wire.TokenLogprob], with_text: bool
) -> list[list[tuple[float, int, str | None]]]:
    return [
        [(logprob, id, _text(data, with_text)) for id, data, logprob in token.top]
        for token in tokens
    ]


def _text(data: bytes, with_text: bool) -> str | None:
    return data.decode("utf-8", "replace") if with_text else None
