"""The door: who may come in, how much they may bring, and what every answer carries.

Raw ASGI around the whole application, so that nothing is reachable beside it: it reads the path as it came over the
wire, never one rebuilt from headers, and lets only GET and HEAD of exactly `/health` through without a key.
"""

import base64
import binascii
import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from branchwork.runtime.server.body import too_large
from branchwork.runtime.server.errors import ApiError, error_response
from branchwork.runtime.server.gateway import Gateway
from branchwork.runtime.server.spans import Finished

log = logging.getLogger(__name__)

LOOPBACK_NAMES = frozenset(("localhost", "127.0.0.1", "::1"))
# What a browser says of a request that this server's own page made, or its user by hand.
OWN_SITES = frozenset((b"same-origin", b"none"))


class Guard:
    """Wraps the application. Each request gets an id made here, and its answer names it."""

    def __init__(self, app: ASGIApp, gateway: Gateway) -> None:
        self._app = app
        self._gateway = gateway
        self._config = gateway.config
        self._key = _digest(gateway.config.api_key)
        self._admin_key = _digest(gateway.config.admin_key)
        named = gateway.config.allowed_hosts.lower().split(",")
        self._named_hosts = frozenset(name.strip() for name in named if name.strip())
        self._own_hosts = self._named_hosts | LOOPBACK_NAMES | {gateway.config.host.lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it here."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = "req_" + secrets.token_hex(12)
        began = time.monotonic()
        status = 0

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", request_id.encode()),
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(message)

        try:
            admin = self._admit(scope)
        except ApiError as error:
            await _refuse(error, scope, receive, send_named)
        else:
            scope["state"] = {
                **scope.get("state", {}),
                "request_id": request_id,
                "began": began,
                "admin": admin,
                "send": send,
            }
            await self._app(scope, receive, send_named)
        self._book(scope, request_id, status, began)

    def _book(self, scope: Scope, request_id: str, status: int, began: float) -> None:
        """Count and log a request that has been answered; of what it said, nothing."""
        route = getattr(scope.get("route"), "path", "other")
        method = scope["method"] if scope["method"].isalpha() else "?"
        self._gateway.metrics.requests.labels(route, str(status)).inc()
        took_ms = (time.monotonic() - began) * 1e3
        log.info("%s %s %s %d %.1f ms", request_id, method, route, status, took_ms)
        if self._gateway.spans is not None:
            parents = _values(scope["headers"], b"traceparent")
            parent = parents[0].decode("latin-1") if len(parents) == 1 else ""
            usages = scope.get("state", {}).get("usages", ())
            self._gateway.spans.record(
                Finished(request_id, method, route, status, began, parent, usages)
            )

    def _admit(self, scope: Scope) -> bool:
        """Whether the caller is an administrator. Raises ApiError for who may not come in."""
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        self._check_origin(scope)
        admin = self._check_key(scope, headers)
        for value in _values(headers, b"content-length"):
            if not value.isdigit() or len(value) > 18 or int(value) > self._config.max_body:
                raise too_large(self._config)
        return admin

    def _check_key(self, scope: Scope, headers: list[tuple[bytes, bytes]]) -> bool:
        if self._key is None and self._admin_key is None:
            return True
        given = _given_key(headers)
        if _equal(given, self._admin_key):
            return True
        if self._key is None or _equal(given, self._key):
            return self._admin_key is None
        if scope.get("raw_path") == b"/health" and scope["method"] in ("GET", "HEAD"):
            return False
        raise ApiError(
            "give the server's API key: Authorization: Bearer KEY",
            status=401,
            code="invalid_api_key",
        )

    def _check_origin(self, scope: Scope) -> None:
        """No other site's page may use this server through its visitor's browser, which may know the key.

        What a page fetches in another's name carries an Origin, or (a picture, a link) only what the browser adds.
        """
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        hosts = [value.decode("latin-1") for value in _values(headers, b"host")]
        host = hosts[0] if hosts else ""
        for origin in _values(headers, b"origin"):
            netloc = _netloc(origin.decode("latin-1"))
            if netloc != host.lower() and _name(netloc) not in self._named_hosts:
                raise _origin_refused()
        is_visit = scope.get("raw_path") == b"/" and scope["method"] == "GET"
        sites = set(_values(headers, b"sec-fetch-site"))
        if not sites <= OWN_SITES and not is_visit and not _values(headers, b"origin"):
            raise _origin_refused()
        keyless = self._key is None and not self._config.without_key
        if keyless and host and _name(host) not in self._own_hosts:
            # A name that an attacker points at this machine (DNS rebinding) has another Host.
            raise ApiError(
                "this name is not served without a key (--allowed-hosts)", 403, code="host_refused"
            )


async def _refuse(error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
    response = error_response(error, scope["path"])
    if error.status == 401:
        # A browser that opens the page asks its user; its password is the key.
        wants_page = any(b"text/html" in value for value in _values(scope["headers"], b"accept"))
        response.headers["www-authenticate"] = (
            'Basic realm="branchwork"' if wants_page else 'Bearer realm="branchwork"'
        )
    # What was not read of the body is not waited for.
    response.headers["connection"] = "close"
    await response(scope, receive, send)


def _origin_refused() -> ApiError:
    return ApiError("requests of other sites are refused", 403, code="origin_refused")


def _values(headers: Iterable[tuple[bytes, bytes]], wanted: bytes) -> list[bytes]:
    return [value for name, value in headers if name == wanted]


def _given_key(headers: list[tuple[bytes, bytes]]) -> bytes:
    """The one key a request carries: as bearer token, as `x-api-key`, or as a browser's password."""
    given = _values(headers, b"authorization") + _values(headers, b"x-api-key")
    if len(set(given)) != 1:
        bearers = {value.partition(b" ")[2] or value for value in given}
        return bearers.pop() if len(bearers) == 1 else b""
    scheme, _, rest = given[0].partition(b" ")
    if not rest:
        return scheme
    if scheme.lower() == b"bearer":
        return rest.strip()
    if scheme.lower() == b"basic":
        try:
            return base64.b64decode(rest.strip(), validate=True).partition(b":")[2]
        except binascii.Error:
            return b""
    return b""


def _digest(key: str) -> bytes | None:
    return hashlib.sha256(key.encode()).digest() if key else None


def _equal(given: bytes, digest: bytes | None) -> bool:
    """Constant in time, whatever the length of what was given."""
    return digest is not None and hmac.compare_digest(hashlib.sha256(given).digest(), digest)


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _name(host: str) -> str:
    """The name in a Host header, without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()
