import base64
import gzip
from typing import Any

import pytest

from branchwork.runtime.server.app import ROUTES
from branchwork.runtime.server.config import ServerConfig
from branchwork.runtime.wire.errors import ConfigError

KEY = {"authorization": "Bearer secret"}
PATHS = sorted({route.path.replace("{name:path}", "x").replace("{name}", "x") for route in ROUTES})
OTHER_PATHS = ["/", "/docs", "/redoc", "/openapi.json", "/v1", "/nope", "/health/", "//health"]
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]


@pytest.mark.parametrize("path", PATHS + OTHER_PATHS)
def test_without_the_key_only_health_answers(serving: Any, path: str) -> None:
    server = serving(api_key="secret")
    for method in METHODS:
        answer = server.request(method, path)
        is_open = path == "/health" and method in ("GET", "HEAD")
        assert answer.status_code == (200 if is_open else 401), (method, path)
        assert server.request(method, path, headers=KEY).status_code != 401
    assert not server.backend.frames


@pytest.mark.parametrize(
    "raw_path", ["/%68ealth", "/health%2f..", "/./health", "/v1/../health", "/health;x", "/HEALTH"]
)
def test_a_path_that_only_decodes_to_health_needs_the_key(serving: Any, raw_path: str) -> None:
    server = serving(api_key="secret")
    sent: list[dict[str, Any]] = []

    async def ask(_: Any) -> None:
        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "GET", "path": "/health", "headers": []}
        scope |= {"raw_path": raw_path.encode(), "query_string": b"", "http_version": "1.1"}
        await server.app(scope, receive, send)

    server.run(ask)
    assert sent[0]["status"] == 401


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": "Bearer "},
        {"authorization": "Bearer secre"},
        {"authorization": "Bearer secretx"},
        {"authorization": "Bearer Secret"},
        {"authorization": "Digest secret"},
        {"authorization": "Basic !!"},
        {"authorization": "Basic " + base64.b64encode(b"secret:x").decode()},
        {"x-api-key": "wrong"},
        {"cookie": "key=secret"},
        {"host": "localhost/health?"},
        {"x-forwarded-for": "127.0.0.1"},
    ],
)
def test_what_is_not_the_key_opens_nothing(serving: Any, headers: dict[str, str]) -> None:
    answer = serving(api_key="secret").get("/v1/models", headers=headers)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize(
    "headers",
    [
        KEY,
        {"authorization": "bearer secret"},
        {"x-api-key": "secret"},
        {"authorization": "Bearer secret", "x-api-key": "secret"},
        {"authorization": "Basic " + base64.b64encode(b"anyone:secret").decode()},
    ],
)
def test_the_key_may_come_as_clients_and_browsers_send_it(serving: Any, headers: Any) -> None:
    assert serving(api_key="secret").get("/v1/models", headers=headers).status_code == 200


def test_two_different_keys_are_none(serving: Any) -> None:
    headers = {"authorization": "Bearer secret", "x-api-key": "other"}
    assert serving(api_key="secret").get("/v1/models", headers=headers).status_code == 401


def test_a_browser_is_asked_for_a_password_and_a_program_for_a_token(serving: Any) -> None:
    server = serving(api_key="secret")
    page = server.get("/", headers={"accept": "text/html"})
    assert page.headers["www-authenticate"].startswith("Basic")
    assert server.get("/v1/models").headers["www-authenticate"].startswith("Bearer")


def test_admin_routes_need_the_admin_key_where_there_is_one(serving: Any) -> None:
    server = serving(api_key="secret", admin_key="root")
    root = {"authorization": "Bearer root"}
    for path in ("/server/flush_cache", "/flush_cache"):
        assert server.request("POST", path, headers=KEY).status_code == 403
        assert server.request("POST", path, headers=root).status_code == 200
    every = {"abort_all": True}
    assert server.post("/abort_request", every, headers=KEY).status_code == 403
    assert server.post("/abort_request", every, headers=root).status_code == 200
    assert server.get("/server/stats", headers=KEY).status_code == 200
    assert serving(admin_key="root").request("POST", "/flush_cache").status_code == 403
    assert serving().request("POST", "/flush_cache").status_code == 200


def test_a_request_is_aborted_by_exactly_its_id(serving: Any) -> None:
    server = serving()
    for rid in ("r", "req_", "", "*"):
        answer = server.post("/abort_request", {"rid": rid})
        assert answer.status_code == 400 or answer.json() == {"aborted": 0}


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:1", "x"])
def test_pages_of_other_sites_are_refused(serving: Any, origin: str) -> None:
    for options in ({}, {"api_key": "secret"}):
        answer = serving(**options).get("/v1/models", headers={**KEY, "origin": origin})
        assert answer.status_code == 403
    assert serving().get("/v1/models", headers={"origin": "http://localhost"}).status_code == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site", "same-origin, cross-site"])
def test_what_other_sites_fetch_in_a_visitors_name_is_refused(serving: Any, site: str) -> None:
    headers = {**KEY, "sec-fetch-site": site}
    server = serving(api_key="secret")
    for path in ("/flush_cache", "/metrics", "/page/main.js"):
        assert server.get(path, headers=headers).status_code == 403
    assert server.get("/", headers=headers).status_code == 200
    for own in ("same-origin", "none"):
        assert server.get("/metrics", headers={**KEY, "sec-fetch-site": own}).status_code == 200


def test_without_a_key_only_names_of_this_machine_are_served(serving: Any) -> None:
    for host, status in [("localhost:8000", 200), ("[::1]:8000", 200), ("evil.example", 403)]:
        assert serving().get("/health", headers={"host": host}).status_code == status
    named = serving(allowed_hosts="models.lan, other.lan")
    assert named.get("/health", headers={"host": "models.lan"}).status_code == 200
    keyed = serving(api_key="secret")
    assert keyed.get("/v1/models", headers={**KEY, "host": "any.example"}).status_code == 200


def test_every_answer_has_an_id_of_the_servers_own(serving: Any) -> None:
    server = serving(api_key="secret")
    ids = [
        server.get(path, headers={**headers, "x-request-id": "mine"}).headers["x-request-id"]
        for path in ("/health", "/nope", "/v1/models")
        for headers in ({}, KEY)
    ]
    assert len(set(ids)) == 6
    assert all(each.startswith("req_") for each in ids)


def test_a_body_too_large_is_refused_before_it_is_read(serving: Any) -> None:
    server = serving(max_body=1024)
    declared = server.request("POST", "/v1/completions", content=b"x" * 2000)
    assert declared.status_code == 413

    async def pieces() -> Any:
        for _ in range(100):
            yield b"x" * 100

    streamed = server.request("POST", "/v1/completions", content=pieces())
    assert streamed.status_code == 413
    assert "--max-body" in streamed.json()["error"]["message"]


def test_a_compressed_body_is_refused_by_its_coding(serving: Any) -> None:
    body = gzip.compress(b'{"messages": [{"role": "user", "content": "hi"}]}')
    headers = {"content-encoding": "gzip"}
    answer = serving().request("POST", "/v1/chat/completions", content=body, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_encoding")
    assert "gzip" in answer.json()["error"]["message"]


def test_keys_are_read_from_files_and_a_public_address_needs_one(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BRANCHWORK_API_KEY", raising=False)
    file = tmp_path / "key"
    file.write_text("secret\n")
    assert ServerConfig(api_key_file=str(file)).with_keys().api_key == "secret"
    monkeypatch.setenv("BRANCHWORK_API_KEY", "from-env")
    assert ServerConfig(host="0.0.0.0").with_keys().api_key == "from-env"
    monkeypatch.delenv("BRANCHWORK_API_KEY")
    with pytest.raises(ConfigError, match="open to other machines"):
        ServerConfig(host="0.0.0.0").with_keys()
    assert ServerConfig(host="0.0.0.0", without_key=True).with_keys().api_key == ""
    with pytest.raises(ConfigError, match="cannot be read"):
        ServerConfig(api_key_file=str(tmp_path / "none")).with_keys()


def test_neither_keys_nor_prompts_are_logged(serving: Any, caplog: Any) -> None:
    caplog.set_level("DEBUG")
    server = serving(api_key="secret-key")
    headers = {"authorization": "Bearer secret-key"}
    server.post("/v1/completions", {"prompt": "canary-prompt"}, headers=headers)
    server.post("/v1/completions", {"prompt": "canary-prompt", "n": 0}, headers=headers)
    server.get("/v1/models?q=canary-prompt%0d%0a", headers={"authorization": "Bearer wrong-key"})
    logged = "\n".join(
        record.getMessage() for record in caplog.records if record.name.startswith("branchwork")
    )
    assert "req_" in logged
    for canary in ("secret-key", "canary-prompt", "wrong-key", "hello world"):
        assert canary not in logged
