import re
from typing import Any

import pytest

from branchwork.runtime.server.static import page

KEY = {"authorization": "Bearer secret"}
ROOT = {"authorization": "Bearer root"}
LINK = re.compile(r'(?:src|href)="(page/[^"]+)"|from "\./([^"]+)"')


def test_every_file_that_the_page_names_is_there(serving: Any) -> None:
    server, wanted, seen = serving(), [""], set()
    while wanted:
        name = wanted.pop()
        answer = server.get("/" + name)
        assert answer.status_code == 200, name
        seen.add(name.removeprefix("page/") or "index.html")
        found = (first or f"page/{second}" for first, second in LINK.findall(answer.text))
        wanted += [each for each in found if each.removeprefix("page/") not in seen]
    assert seen == set(page())


def test_the_page_runs_nothing_inline_and_loads_nothing_from_elsewhere(serving: Any) -> None:
    answer = serving().get("/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    for file in page().values():
        text = file.content.decode().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|<script>| style=| on[a-z]+=|innerHTML|eval\(", text)


@pytest.mark.parametrize(
    "name", ["x", "..%2fconfig.py", "%2e%2e/config.py", "index.html%00", "/etc/passwd", ""]
)
def test_only_the_files_of_the_page_are_served(serving: Any, name: str) -> None:
    answer = serving().get(f"/page/{name}")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"


def test_a_file_that_has_not_changed_is_not_sent_again(serving: Any) -> None:
    server = serving()
    tag = server.get("/page/page.css").headers["etag"]
    assert server.get("/page/page.css", headers={"if-none-match": tag}).status_code == 304


def test_the_page_sees_requests_tree_and_durations(serving: Any) -> None:
    server = serving()
    server.post("/v1/completions", {"prompt": "hi", "stream": True})
    report = server.get("/server/inspect").json()
    assert report["stats"]["slots_total"] == 100
    assert report["requests"] == []
    (node,) = report["tree"]["nodes"]
    assert node["text"] == "hi"
    first = report["durations"]["first_token"]
    assert sum(first["counts"]) == 1
    assert len(first["counts"]) == len(first["bounds"]) + 1


@pytest.mark.parametrize(
    ("options", "headers", "is_shown"),
    [
        ({}, {}, True),
        ({"api_key": "secret"}, KEY, False),
        ({"api_key": "secret", "admin_key": "root"}, KEY, False),
        ({"api_key": "secret", "admin_key": "root"}, ROOT, True),
        ({"without_key": True, "host": "0.0.0.0"}, {}, False),
    ],
)
def test_what_others_asked_is_shown_by_the_admin_key_or_at_home(
    serving: Any, options: Any, headers: Any, is_shown: bool
) -> None:
    (node,) = serving(**options).get("/server/inspect", headers=headers).json()["tree"]["nodes"]
    assert "head" not in node
    assert ("text" in node) == is_shown
