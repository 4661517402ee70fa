"""Links of the pages lead somewhere, their commands exist, and the first program prints what stands below it."""

import argparse
import importlib
import re
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest

import branchwork as bw
from branchwork.__main__ import COMMANDS
from branchwork.commands.bench import BENCHES

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(path for name in ("docs", "examples", "runtime") for path in ROOT.glob(f"{name}/**/*.md"))]
)  # fmt: skip


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def links(page: Path) -> Iterator[str]:
    """Where a page points to, but for other sites."""
    text = re.sub(r"```.*?```", "", text_of(page), flags=re.DOTALL)
    found = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|srcset)="([^"]+)"', text)
    yield from (link for link in found if not re.match(r"[a-z]+:", link))


def anchors(page: Path) -> set[str]:
    """Names of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(page: Path) -> list[list[str]]:
    """The words of each `branchwork …` that stands in code on a page."""
    text = text_of(page)
    code = re.findall(r"```\n(.*?)```", text, re.DOTALL) + re.findall(r"`([^`\n]+)`", text)
    found = re.findall(r"^(?:[A-Z_]+=\S+ )*branchwork (\w.*)$", "\n".join(code), re.MULTILINE)
    return [line.partition("#")[0].split() for line in found]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_of_a_page_exists(page: Path) -> None:
    for name, *words in commands(page):
        assert name in COMMANDS, name
        if name != "bench" or not words or words[0] not in BENCHES:
            continue  # which options the server takes, test_server.py knows
        parser = argparse.ArgumentParser()
        importlib.import_module(f"branchwork.bench.{words[0]}").add_options(parser)
        for option in (word for word in words if word.startswith("--")):
            assert option in parser.format_help(), f"bench {words[0]} {option}"


def test_the_program_of_the_readme_prints_what_stands_below_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = re.search(r"```python\n(.*?)```\n```\n(.*?)```", text_of(ROOT / "README.md"), re.DOTALL)
    assert found
    program = tmp_path / "program.py"
    program.write_text(found[1])
    with bw.Runtime():
        runpy.run_path(str(program))
    assert capsys.readouterr().out == found[2]
