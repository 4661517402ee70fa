"""The application: the table of routes, and what happens to errors.

One handler is one function `(gateway, request) -> Response`; FastAPI routes and describes them.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, NamedTuple

import msgspec
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

import branchwork.runtime.server.fields as fields
from branchwork.runtime.server import (
    chat,
    completions,
    embeddings,
    messages,
    native,
    responses,
    static,
    status,
    tokenizing,
)
from branchwork.runtime.server.errors import ApiError, error_response, from_error
from branchwork.runtime.server.gateway import Gateway
from branchwork.runtime.server.guard import Guard
from branchwork.runtime.server.jobs import ClientGone
from branchwork.runtime.wire.errors import BranchworkError

log = logging.getLogger(__name__)

Handler = Callable[[Gateway, Request], Awaitable[Response]]


class Route(NamedTuple):
    """One way in. `body` is the struct its body is read into; `admin` routes need the admin key."""

    method: str
    path: str
    handler: Handler
    body: type[msgspec.Struct] | None = None
    admin: bool = False


ROUTES = (
    Route("POST", "/v1/chat/completions", chat.chat_completions, fields.ChatRequest),
    Route("POST", "/v1/completions", completions.completions, fields.CompletionRequest),
    Route("POST", "/v1/responses", responses.responses, responses.ResponsesRequest),
    Route("GET", "/v1/responses/{name}", responses.stored_response),
    Route("DELETE", "/v1/responses/{name}", responses.delete_response),
    Route("POST", "/v1/messages", messages.messages, messages.MessagesRequest),
    Route("POST", "/v1/messages/count_tokens", messages.count_tokens, messages.CountRequest),
    Route("POST", "/v1/embeddings", embeddings.embeddings, embeddings.EmbeddingRequest),
    Route("POST", "/v1/score", embeddings.score, embeddings.ScoreRequest),
    Route("GET", "/v1/models", status.models),
    Route("GET", "/v1/models/{name:path}", status.model),
    Route("GET", "/health", status.health),
    Route("GET", "/ready", status.ready),
    Route("GET", "/metrics", status.metrics),
    Route("GET", "/version", status.version),
    Route("GET", "/server/stats", status.stats),
    Route("GET", "/server/inspect", status.inspect),
    Route("POST", "/server/flush_cache", status.flush_cache, status.FlushRequest, admin=True),
    Route("POST", "/server/save_cache", status.save_cache, admin=True),
    Route("POST", "/tokenize", tokenizing.tokenize, tokenizing.TokenizeRequest),
    Route("POST", "/detokenize", tokenizing.detokenize, tokenizing.DetokenizeRequest),
    Route("GET", "/tokenizer_info", tokenizing.tokenizer_info),
    Route("POST", "/generate", native.generate, native.GenerateRequest),
    Route("GET", "/get_model_info", native.model_info),
    Route("GET", "/model_info", native.model_info),
    Route("GET", "/get_server_info", native.server_info),
    Route("GET", "/server_info", native.server_info),
    Route("GET", "/health_generate", status.health),
    Route("POST", "/flush_cache", native.flush_cache, admin=True),
    Route("GET", "/flush_cache", native.flush_cache, admin=True),
    Route("POST", "/abort_request", native.abort_request, native.AbortRequest),
    Route("GET", "/", static.index),
    Route("GET", "/page/{name}", static.part),
)


def build_app(
    gateway: Gateway, lifespan: Callable[[], AbstractAsyncContextManager[None]]
) -> ASGIApp:
    """The whole application behind its guard; `lifespan` surrounds its life on the event loop."""

    @asynccontextmanager
    async def living(_: FastAPI) -> AsyncIterator[None]:
        sweep = asyncio.create_task(gateway.sweep())
        async with lifespan():
            yield
        sweep.cancel()
        with suppress(asyncio.CancelledError):
            await sweep

    # FastAPI's own pages of the API fetch their code from elsewhere; /openapi.json needs nobody.
    app = FastAPI(
        title="branchwork", lifespan=living, redirect_slashes=False, docs_url=None, redoc_url=None
    )
    for route in ROUTES:
        _add(app, gateway, route)
    _describe_bodies(app)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(Exception, _on_bug)
    return Guard(app, gateway)


def _add(app: FastAPI, gateway: Gateway, route: Route) -> None:
    endpoint = _endpoint(gateway, route)
    app.add_api_route(
        route.path,
        endpoint,
        methods=[route.method],
        response_class=Response,
        operation_id=f"{route.method.lower()}{route.path}".replace("/", "_"),
        summary=(route.handler.__doc__ or "").partition("\n")[0],
        openapi_extra=_described(route.body),
    )
    if route.method == "GET":
        app.add_api_route(route.path, endpoint, methods=["HEAD"], include_in_schema=False)


def _endpoint(gateway: Gateway, route: Route) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        try:
            if route.admin and not request.state.admin:
                raise ApiError("this route needs the admin key", 403, code="admin_key_needed")
            return await route.handler(gateway, request)
        except ApiError as error:
            return error_response(error, request.url.path)
        except BranchworkError as error:
            return error_response(from_error(error), request.url.path)
        except ClientGone:
            return Response(status_code=499)  # nobody reads it

    return endpoint


async def _on_http_exception(request: Request, error: Exception) -> Response:
    """An unknown path or method, in the shape of every other error."""
    assert isinstance(error, HTTPException)
    codes = {404: "not_found", 405: "method_not_allowed"}
    detail = f"{str(error.detail).lower()}: see GET /openapi.json for the routes"
    answer = ApiError(detail, error.status_code, code=codes.get(error.status_code, "http_error"))
    response = error_response(answer, request.scope["path"])
    response.headers.update(error.headers or {})
    return response


async def _on_bug(request: Request, error: Exception) -> Response:
    """A bug of ours: the caller learns that it is one, the log where; neither shows the request."""
    return error_response(
        ApiError("the server failed in this request", 500, code="internal_error"),
        request.scope["path"],
    )


def _described(body: type[msgspec.Struct] | None) -> dict[str, Any] | None:
    if body is None:
        return None
    schema = {"$ref": f"#/components/schemas/{body.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _describe_bodies(app: FastAPI) -> None:
    """Add the structs of all bodies to the OpenAPI page, as msgspec describes them."""
    bodies = [route.body for route in ROUTES if route.body is not None]
    _, components = msgspec.json.schema_components(
        bodies, ref_template="#/components/schemas/{name}"
    )
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        page = generate()
        page.setdefault("components", {}).setdefault("schemas", {}).update(components)
        return page

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own way to extend it
