"""GET / and its files: the page, read once from the package; no path of a request is ever opened."""

import hashlib
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from branchwork.runtime.server.errors import ApiError
from branchwork.runtime.server.gateway import Gateway

TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}

# Nothing from elsewhere, nothing inline: a prompt that looks like a script stays a text.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class File(NamedTuple):
    """One file of the page."""

    content: bytes
    media_type: str
    tag: str


async def index(gateway: Gateway, request: Request) -> Response:
    """The page: a playground, and the runtime as it is now."""
    return _answer(request, "index.html")


async def part(gateway: Gateway, request: Request) -> Response:
    """A script, style or picture of the page."""
    return _answer(request, request.path_params["name"])


def _answer(request: Request, name: str) -> Response:
    file = page().get(name)
    if file is None:
        raise ApiError("the page has no such file", 404, code="not_found")
    headers = {
        "etag": file.tag,
        "cache-control": "no-cache",
        "content-security-policy": POLICY,
        "referrer-policy": "no-referrer",
    }
    if request.headers.get("if-none-match") == file.tag:
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers=headers, media_type=file.media_type)


@cache
def page() -> dict[str, File]:
    """All files of the page, by name."""
    found = {}
    for entry in files("branchwork.runtime.server").joinpath("page").iterdir():
        kind = TYPES.get(entry.name.rpartition(".")[2])
        if kind is not None:
            content = entry.read_bytes()
            tag = f'"{hashlib.blake2b(content, digest_size=12).hexdigest()}"'
            found[entry.name] = File(content, kind, tag)
    return found
