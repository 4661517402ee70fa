"""Calls over HTTP with nothing but the standard library: JSON in, JSON or server-sent events out."""

import json
import random
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

from branchwork.runtime.wire.errors import (
    InvalidParameter,
    QueueFull,
    RequestError,
    RequestTooLong,
    RuntimeUnreachable,
)

_RETRIED = (408, 409, 429, 500, 502, 503, 504, 529)


class Http:
    """One API's address, headers and patience. A call that fails in passing is tried again, ever later.

    `query` follows every path.
    """

    def __init__(
        self,
        name: str,
        base_url: str,
        headers: Mapping[str, str],
        *,
        query: str = "",
        timeout_s: float = 600.0,
        max_retries: int = 3,
        retry_after_s: float = 0.5,
    ) -> None:
        self._name = name
        self._base_url = base_url.rstrip("/")
        self._headers = {"Content-Type": "application/json", **headers}
        self._query = query
        self._timeout_s = timeout_s
        self._max_retries = max_retries
        self._retry_after_s = retry_after_s

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The JSON answer. Raises RequestError when the API refuses, RuntimeUnreachable when nobody answers."""
        with self._open(path, body) as response:
            return json.load(response)

    def get(self, path: str) -> Any:
        """The JSON answer of a GET."""
        with self._open(path, None) as response:
            return json.load(response)

    def send(self, path: str) -> None:
        """A POST whose answer says nothing."""
        with self._open(path, {}) as response:
            response.read()

    def events(self, path: str, body: Mapping[str, Any]) -> Iterator[Any]:
        """The JSON of each server-sent event, until the last or "[DONE]"."""
        with self._open(path, body) as response:
            for line in response:
                if not line.startswith(b"data:"):
                    continue
                data = line[5:].strip()
                if data == b"[DONE]":
                    return
                yield json.loads(data)

    def _open(self, path: str, body: Mapping[str, Any] | None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._base_url + path + self._query, data, self._headers)
        for attempt in range(self._max_retries + 1):
            try:
                return urllib.request.urlopen(request, timeout=self._timeout_s)
            except urllib.error.HTTPError as error:
                if error.code not in _RETRIED or attempt == self._max_retries:
                    raise self._refusal(error) from None
                delay_s = _retry_after(error) or self._backoff_s(attempt)
                error.close()
            except (urllib.error.URLError, OSError) as error:
                if attempt == self._max_retries:
                    reason = getattr(error, "reason", error)
                    raise RuntimeUnreachable(
                        f"{self._name} at {self._base_url}: {reason}"
                    ) from None
                delay_s = self._backoff_s(attempt)
            time.sleep(delay_s)
        raise AssertionError("the last attempt returns or raises")

    def _backoff_s(self, attempt: int) -> float:
        # Spread, so that calls that failed together do not come back together.
        return self._retry_after_s * float(2**attempt) * random.uniform(0.5, 1.0)

    def _refusal(self, error: urllib.error.HTTPError) -> RequestError:
        with error:
            text = error.read(65_536).decode("utf-8", "replace")
        message = f"{self._name} answered {error.code}: {_sentence(text)}"
        if error.code == 429:
            return QueueFull(message)
        if error.code == 413 or "context length" in text or "context_length" in text:
            return RequestTooLong(message)
        if error.code in (400, 422):
            return InvalidParameter(message)
        return RequestError(message)


def _sentence(text: str) -> str:
    """What the API says is wrong, from the usual places of its JSON."""
    try:
        body = json.loads(text)
    except ValueError:
        return text[:300]
    error = body.get("error", body) if isinstance(body, dict) else body
    return str(error.get("message", error) if isinstance(error, dict) else error)[:300]


def _retry_after(error: urllib.error.HTTPError) -> float | None:
    value = error.headers.get("Retry-After", "")
    return min(float(value), 60.0) if value.replace(".", "", 1).isdigit() else None
