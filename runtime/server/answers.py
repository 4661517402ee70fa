"""The parts of answers that chat and completions share: ids, usage, why an answer ended, and log-probabilities."""

import codecs
import secrets
import time
from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.responses import Response

from branchwork.runtime.wire.messages import Done, Run, TokenLogprob, Tokens, Usage

# What OpenAI writes for a token that cannot be.
LOWEST = -9999.0


def new_id(prefix: str) -> str:
    """An id nobody can guess."""
    return prefix + secrets.token_hex(12)


def now() -> int:
    """Seconds since the epoch, as OpenAI's `created`."""
    return int(time.time())


def json_response(value: Any) -> Response:
    """A whole answer."""
    return Response(msgspec.json.encode(value), media_type="application/json")


def usage_body(usage: Usage, thought: int | None = None) -> dict[str, Any]:
    """OpenAI's `usage`, with what the cache and the grammar saved beside it."""
    details: dict[str, int] = {
        "jumped_tokens": usage.jumped,
        "speculated_tokens": usage.speculated,
    }
    if thought is not None:
        details["reasoning_tokens"] = thought
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
        "completion_tokens_details": details,
    }


def finish_reason(reason: str) -> str:
    """OpenAI's word for the end of an answer."""
    return "length" if reason == "length" else "stop"


def warned(*ends: Done) -> dict[str, list[str]]:
    """What the runtime warns of in these answers, each sentence once, as a field of the body; mostly no field."""
    found = list(dict.fromkeys(each for done in ends for each in done.warnings))
    return {"warnings": found} if found else {}


def decoder() -> codecs.IncrementalDecoder:
    """Bytes to text, never cutting a character; bytes that are none become U+FFFD."""
    return codecs.getincrementaldecoder("utf-8")(errors="replace")


def num_tokens(event: Tokens) -> int:
    """How many tokens an event tells of."""
    return sum(len(run.token_ids) for run in event.runs)


def runs_body(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """How tokens came about, run by run."""
    return [{"kind": run.kind, "token_ids": run.token_ids} for run in runs]


def token_text(data: bytes) -> str:
    """A token alone, as text: one that is no whole text is shown by its bytes, so that no two look alike."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def chat_logprobs(tokens: Sequence[TokenLogprob], k: int) -> dict[str, Any]:
    """OpenAI's `logprobs` of a chat choice."""
    return {"content": [_chat_logprob(token, k) for token in tokens], "refusal": None}


def _chat_logprob(token: TokenLogprob, k: int) -> dict[str, Any]:
    return {
        "token": token_text(token.data),
        # A jumped token may have none; clients of this route reckon with a number.
        "logprob": LOWEST if token.logprob is None else floor(token.logprob),
        "bytes": list(token.data),
        "top_logprobs": [
            {"token": token_text(data), "logprob": floor(logprob), "bytes": list(data)}
            for _, data, logprob in token.top[:k]
        ],
    }


def floor(logprob: float | None) -> float | None:
    """A log-probability that JSON can hold."""
    return None if logprob is None else max(logprob, LOWEST)


class CompletionLogprobs:
    """OpenAI's `logprobs` of a completion choice, piece by piece; offsets count characters of the whole text."""

    def __init__(self, k: int, offset: int = 0) -> None:
        self.k = k
        self._offset = offset
        self._decoder = decoder()

    def add(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
        """The next tokens, as one object of parallel lists."""
        offsets = []
        for token in tokens:
            offsets.append(self._offset)
            self._offset += len(self._decoder.decode(token.data))
        return {
            "tokens": [token_text(token.data) for token in tokens],
            "token_logprobs": [floor(token.logprob) for token in tokens],
            "top_logprobs": [self._top(token) for token in tokens],
            "text_offset": offsets,
        }

    def _top(self, token: TokenLogprob) -> dict[str, float | None] | None:
        if token.logprob is None or self.k == 0:
            return None
        top = {token_text(data): floor(logprob) for _, data, logprob in token.top[: self.k]}
        top.setdefault(token_text(token.data), floor(token.logprob))
        return top
