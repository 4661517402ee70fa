"""What a run looks like."""

import pytest

import branchwork as bw
from branchwork.lang import show
from branchwork.lang.testing.scripted import Scripted


@bw.function
def story(s: bw.State) -> None:
    s += "Once <b> " + bw.gen("a") + " then " + bw.select("b", ["x", "y"])
    forks = s.fork(2)
    forks += lambda i: f" fork {i}" + bw.gen("c")


def test_every_branch_is_a_row_and_every_stretch_has_its_kind() -> None:
    state = story.run(backend=Scripted({"a": "upon", "b": "y"}))
    rows = show.rows(state.branch.program)
    assert [(row.depth, row.title) for row in rows] == [(0, "story"), (1, "fork 0"), (1, "fork 1")]
    assert [(each.text, each.kind) for each in rows[0].stretches] == [
        ("Once <b> ", "prefilled"),
        ("upon", "sampled"),
        (" then ", "prefilled"),
        ("y", "selected"),
    ]
    assert rows[2].stretches[-1].note.startswith("c: 1 tokens")


def test_the_tree_can_be_printed(capsys: pytest.CaptureFixture[str]) -> None:
    story.run(backend=Scripted({"a": "upon", "b": "y"})).show(colour=False)
    out = capsys.readouterr().out
    assert "┌─ story" in out
    assert "│  ┌─ fork 1" in out
    assert "Once <b> [sampled: upon]" in out


def test_colours_never_run_into_the_tree() -> None:
    state = bw.function(lambda s: s.append("?" + bw.gen("a"))).run(
        backend=Scripted({"a": "one\ntwo"})
    )
    text = show.as_text(state.branch.program, colour=True)
    assert "\x1b[32mone\x1b[0m\n│ \x1b[32mtwo\x1b[0m" in text


def test_the_page_is_one_piece_and_escapes_what_was_said() -> None:
    page = story.run(backend=Scripted({"a": "<script>", "b": "y"}))._repr_html_()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "http" not in page
    assert "> a: 1 tokens, " in page
