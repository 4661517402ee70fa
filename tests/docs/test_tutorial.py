"""The blocks of docs/language.md run, in order, on the embedded model."""

import re
import runpy
from pathlib import Path

import pytest

import branchwork as bw

ROOT = Path(__file__).parents[2]


def blocks(name: str) -> list[str]:
    """The Python blocks of a page."""
    return re.findall(r"```python\n(.*?)```", (ROOT / "docs" / name).read_text(), re.DOTALL)


@pytest.mark.timeout(240)
def test_the_tutorial_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tutorial = tmp_path / "tutorial.py"
    tutorial.write_text("\n".join(blocks("language.md")))
    with bw.Runtime():
        runpy.run_path(str(tutorial))
    out = capsys.readouterr().out
    assert "Tokyo" in out
    assert "InvalidParameter" in out
    assert "capital(country)" in out


def test_the_blocks_about_migrating_are_python() -> None:
    for block in blocks("migrating.md"):
        compile(block, "docs/migrating.md", "exec")
