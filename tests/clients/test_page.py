"""The page, in a browser without a window; skipped where there is none.

`BRANCHWORK_PICTURES` names a folder for the pictures of the documentation: `docs/pictures`.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.clients.conftest import ADMIN_KEY, KEY

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = [pytest.mark.clients, pytest.mark.filterwarnings("ignore")]

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
PATIENCE_MS = 30_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if BROWSER is None:
        pytest.skip("no browser is installed")
    with playwright.sync_playwright() as tool:
        # A container's root has no sandbox; the page comes from this test's own server.
        yield tool.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])


class Visit:
    """A page that was opened with a key; `problems` are its errors."""

    def __init__(self, browser: Any, url: str, key: str, scheme: str = "light") -> None:
        self.problems: list[str] = []
        credentials = {"username": "", "password": key}
        size = {"width": 1440, "height": 900}
        self.context = browser.new_context(
            http_credentials=credentials, color_scheme=scheme, viewport=size
        )
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on(
            "console", lambda m: self.problems.append(m.text) if m.type == "error" else None
        )
        self.page.goto(url)

    def ask(self, prompt: str, held: str = "free", constraint: str = "", mode: str = "chat") -> Any:
        """Fill the form as a user would, run, and return the new exchange."""
        page = self.page
        count = page.locator(".exchange").count()
        page.get_by_text("Chat" if mode == "chat" else "Text", exact=True).click()
        page.fill("#prompt", prompt)
        page.locator(f"input[name=held][value={held}] + span").click()
        if constraint:
            page.fill("#constraint", constraint)
        page.keyboard.press("Control+Enter")
        exchange = page.locator(".exchange").nth(count)
        exchange.get_by_text("ended by").wait_for()
        return exchange

    def num_nodes(self) -> int:
        """Nodes of the drawn tree, after its next refresh."""
        self.page.locator("#stop[disabled]").wait_for()
        with self.page.expect_response("**/server/inspect"):
            pass
        self.page.wait_for_timeout(100)
        return int(self.page.locator("#tree .node").count())

    def close(self) -> None:
        """Leave; nothing may have gone wrong on the way."""
        self.context.close()
        assert self.problems == []


RECORD = "Name: Mara Lindqvist\nAge: 34\nCity: Oslo\n\nWrite this record as JSON."
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def texts(exchange: Any, kind: str) -> list[str]:
    return list(exchange.locator(f".answer .token.{kind}").all_inner_texts())


def test_a_schema_is_set_and_valid_json_arrives_coloured(browser: Any, url: str) -> None:
    visit = Visit(browser, url, KEY)
    exchange = visit.ask(RECORD, "schema", json.dumps(SCHEMA))
    answer = exchange.locator(".answer .tokens").inner_text()
    assert set(json.loads(answer)) == {"name", "age"}
    exchange.get_by_text("valid JSON").wait_for()
    jumped, sampled = texts(exchange, "jumped"), texts(exchange, "sampled")
    assert '{"' in jumped[0]
    assert len(jumped) + len(sampled) == exchange.locator(".answer .token").count()
    prompt = exchange.locator(".prompt h3").inner_text()
    total, cached, prefilled = map(int, re.findall(r"\d+", prompt))
    assert cached + prefilled == total == exchange.locator(".prompt .token").count()
    visit.close()


def test_the_tree_grows_and_shows_texts_to_administrators_only(browser: Any, url: str) -> None:
    visit = Visit(browser, url, ADMIN_KEY)
    before = visit.num_nodes()
    visit.ask("The tree has a branch for this.", mode="text")
    assert visit.num_nodes() > before
    assert "The tree has a branch" in visit.page.locator("#tree").inner_text()
    visit.close()
    stranger = Visit(browser, url, KEY)
    assert stranger.num_nodes() > before
    assert re.fullmatch(r"(\d+ tokens?\s*)+", stranger.page.locator("#tree").inner_text())
    stranger.close()


def test_arrow_keys_walk_over_tokens_and_show_alternatives(browser: Any, url: str) -> None:
    visit = Visit(browser, url, KEY)
    exchange = visit.ask("What is the capital of France?")
    exchange.locator(".answer .tokens").focus()
    visit.page.keyboard.press("ArrowRight")
    shown = visit.page.locator("#alternatives")
    assert shown.locator("tr").count() == 5
    assert shown.locator("tr.taken").count() == 1
    visit.page.keyboard.press("Escape")
    assert shown.is_hidden()
    visit.close()


def test_what_is_wrong_is_said_on_the_page(browser: Any, url: str) -> None:
    visit = Visit(browser, url, KEY)
    page = visit.page
    page.fill("#prompt", "x")
    page.locator("input[name=held][value=schema] + span").click()
    page.fill("#constraint", "{")
    page.click("#run")
    page.get_by_text("The schema is no JSON").wait_for()
    page.locator("input[name=held][value=regex] + span").click()
    page.fill("#constraint", "a(")
    page.click("#run")
    page.locator("#problem").get_by_text("regex").wait_for()
    visit.problems = [each for each in visit.problems if "400" not in each]
    visit.close()


def test_a_text_that_looks_like_a_script_stays_a_text(browser: Any, url: str) -> None:
    visit = Visit(browser, url, ADMIN_KEY)
    attack = "<img src=x onerror=alert(1)><script>document.title='broken'</script>"
    exchange = visit.ask(attack, mode="text")
    assert attack in exchange.locator(".prompt .tokens").inner_text()
    visit.num_nodes()
    assert visit.page.title() == "branchwork"
    visit.close()


def test_without_the_key_there_is_no_page(browser: Any, url: str) -> None:
    visit = Visit(browser, url, "wrong")
    assert visit.page.locator("#prompt").count() == 0
    visit.problems.clear()
    visit.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_drawn_in_light_and_dark(
    browser: Any, url: str, tmp_path: Path, scheme: str
) -> None:
    httpx.post(f"{url}/server/flush_cache", auth=("", ADMIN_KEY)).raise_for_status()
    visit = Visit(browser, url, ADMIN_KEY, scheme)
    page = visit.page
    for examples in ("12", "03"):
        page.click("#clear")
        for position, example in enumerate(examples):
            page.select_option("#example", example)
            page.click("#run")
            page.locator(".exchange").nth(position).get_by_text("ended by").wait_for()
            page.locator("#stop[disabled]").wait_for()
    visit.num_nodes()
    page.locator(".answer .tokens").first.focus()
    for _ in range(2):
        page.keyboard.press("ArrowRight")
    folder = Path(os.environ.get("BRANCHWORK_PICTURES") or tmp_path)
    picture = folder / f"page-{scheme}.png"
    page.screenshot(path=picture, full_page=True)
    assert picture.stat().st_size > 20_000
    visit.close()
