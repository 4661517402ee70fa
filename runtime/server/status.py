"""Routes about the server itself: which model, whether it lives, and its numbers."""

import asyncio
from importlib.metadata import version as installed_version
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from branchwork.runtime.server.answers import json_response
from branchwork.runtime.server.body import read_body
from branchwork.runtime.server.errors import ApiError
from branchwork.runtime.server.fields import Salt
from branchwork.runtime.server.gateway import Gateway
from branchwork.runtime.server.generation import cache_salt
from branchwork.runtime.server.validate import decode


async def models(gateway: Gateway, request: Request) -> Response:
    """The models this server has: its model under each of its names, and that with each adapter."""
    model = gateway.attached.model
    names = (*model.names, *model.welcome.adapters)
    cards = [model.called(name).card(name) for name in names]
    return json_response({"object": "list", "data": cards})


async def model(gateway: Gateway, request: Request) -> Response:
    """One model."""
    name = request.path_params["name"]
    return json_response(gateway.serving(name).model.card(name))


async def health(gateway: Gateway, request: Request) -> Response:
    """Whether the runtime lives: read from its heartbeat, so that asking costs it nothing."""
    trouble = gateway.trouble()
    body = {"status": "ok"} if trouble is None else {"status": "unhealthy", "reason": trouble}
    return Response(
        msgspec.json.encode(body), 200 if trouble is None else 503, media_type="application/json"
    )


async def ready(gateway: Gateway, request: Request) -> Response:
    """Whether new requests are taken."""
    is_ready = gateway.ready and gateway.trouble() is None
    body = msgspec.json.encode({"ready": is_ready})
    return Response(body, 200 if is_ready else 503, media_type="application/json")


async def metrics(gateway: Gateway, request: Request) -> Response:
    """Numbers for Prometheus."""
    try:
        runtime: Any = await gateway.ask("stats")
    except ApiError:
        runtime = {}
    return Response(gateway.metrics.text(runtime), media_type="text/plain; version=0.0.4")


async def version(gateway: Gateway, request: Request) -> Response:
    """The server's version."""
    return json_response({"version": installed_version("branchwork")})


async def stats(gateway: Gateway, request: Request) -> Response:
    """The runtime's numbers: slots, requests, the cache."""
    numbers = await gateway.ask("stats")
    return json_response({**numbers, "requests_in_gateway": gateway.num_running})


async def inspect(gateway: Gateway, request: Request) -> Response:
    """What the runtime holds at this moment: its requests and its prefix tree, for the page.

    The tree's texts are what others asked: without the admin key its nodes are counted in tokens only.
    """
    numbers, report = await asyncio.gather(gateway.ask("stats"), gateway.ask("inspect"))
    names = ("", *gateway.attached.model.welcome.adapters)
    for running in report["requests"]:
        running["adapter"] = names[running["adapter"]]
    report["tree"]["adapters"] = [names[number] for number in report["tree"]["adapters"]]
    nodes = report["tree"]["nodes"]
    heads = [node.pop("head") for node in nodes]
    if request.state.admin and gateway.config.shows_prompts:
        texts = (await gateway.ask("detokenize_each", {"groups": heads}))["texts"]
        for node, text in zip(nodes, texts, strict=True):
            node["text"] = text
    return json_response(
        {"stats": numbers, "durations": gateway.metrics.durations(), **report},
    )


class FlushRequest(msgspec.Struct):
    """POST /server/flush_cache."""

    cache_salt: Salt | None = None


async def flush_cache(gateway: Gateway, request: Request) -> Response:
    """Forget every cached prefix that nothing uses, stored or not; with `cache_salt`, those of that salt."""
    body = await read_body(request, gateway.config)
    ask = decode(body, FlushRequest) if body.strip() else FlushRequest()
    question = {} if ask.cache_salt is None else {"salt": cache_salt(ask.cache_salt)}
    return json_response(await gateway.ask("flush_cache", question))


async def save_cache(gateway: Gateway, request: Request) -> Response:
    """Begin to save every cached prefix that has no salt to `--kv-store`."""
    return json_response(await gateway.ask("save_cache"))
