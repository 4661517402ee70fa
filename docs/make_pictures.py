"""The pictures of docs/language.md, from a real run on sprout: `python docs/make_pictures.py`.

What a terminal shows is drawn as SVG; the HTML page is photographed by Chromium, where there is one.
"""

import html
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from branchwork import Runtime, State, assistant, function, gen, select, user

FOLDER = Path(__file__).parent / "pictures"

# GitHub's dark terminal, by the number of the ANSI code.
COLOURS = {"0": "#e6edf3", "2": "#7d8590", "32": "#3fb950", "33": "#d29922", "35": "#bc8cff"}
COLOURS |= {"36": "#39c5cf"}
CHAR_WIDTH, LINE_HEIGHT, MARGIN = 7.83, 19, 16  # of 13 px monospace, in pixels


@dataclass
class Person:
    """What is read from a text."""

    name: str
    age: int


@function
def story(s: State, text: str, country: str) -> None:
    """A program with a typed slot, two forks and a select."""
    s += user(f"Extract the record as JSON.\n{text}\nKeys: name, age")
    s += assistant(gen("person", type=Person))
    questions = [f"What is the {what} of {country}?" for what in ("capital", "currency")]
    forks = s.fork(len(questions))
    for fork, question in zip(forks, questions, strict=True):
        fork += user(question) + assistant(gen("answer", stop="\n"))
    s += user("Review: The soup was cold and the waiter was rude.\nIs it positive or negative?")
    s += assistant(select("mood", ["positive", "negative"]))


def runs(line: str) -> Iterator[tuple[str, str]]:
    """The stretches of a line of terminal output, each with the ANSI code that colours it."""
    before, *coloured = re.split(r"\x1b\[(\d+)m", line)
    yield "0", before
    yield from zip(coloured[::2], coloured[1::2], strict=True)


def as_svg(text: str) -> str:
    """Terminal output as a picture of a terminal."""
    lines = text.rstrip("\n").split("\n")
    widest = max(len(re.sub(r"\x1b\[\d+m", "", line)) for line in lines)
    width = round(widest * CHAR_WIDTH) + 2 * MARGIN
    height = len(lines) * LINE_HEIGHT + 2 * MARGIN
    drawn = []
    for i, line in enumerate(lines):
        spans = "".join(
            f'<tspan fill="{COLOURS[code]}">{html.escape(part)}</tspan>'
            for code, part in runs(line)
            if part
        )
        y = MARGIN + (i + 0.75) * LINE_HEIGHT
        drawn.append(f'<text x="{MARGIN}" y="{y}" xml:space="preserve">{spans}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        'font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, monospace" font-size="13">\n'
        f'<rect width="{width}" height="{height}" rx="8" fill="#0d1117"/>\n'
        + "\n".join(drawn)
        + "\n</svg>\n"
    )


def photograph(page: str, picture: Path, size: str) -> None:
    """Have Chromium take a picture of a page of HTML."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("chromium is not installed: the picture of the HTML page was not made")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "page.html"
        source.write_text(f'<meta charset="utf-8">{page}', encoding="utf-8")
        options = [f"--screenshot={picture}", f"--window-size={size}", "--hide-scrollbars"]
        options += ["--headless", "--no-sandbox", "--force-device-scale-factor=2"]
        subprocess.run([chromium, *options, source.as_uri()], check=True, capture_output=True)


def main() -> None:
    """Make them all."""
    with Runtime():
        story.run(
            text="Kurt Moss is 51 years old.", country="Peru", temperature=0
        )  # warms the cache
        state = story.run(text="Ada Berg is 36 years old.", country="Japan", temperature=0)
        shown = StringIO()
        with redirect_stdout(shown):
            state.show(colour=True)
        page = state.to_html()
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "show-terminal.svg").write_text(as_svg(shown.getvalue()), encoding="utf-8")
    graph = story.graph(text="…", country="Japan")
    (FOLDER / "graph.svg").write_text(as_svg(str(graph)), encoding="utf-8")
    photograph(page, FOLDER / "show-page.png", "620,535")


if __name__ == "__main__":
    main()
