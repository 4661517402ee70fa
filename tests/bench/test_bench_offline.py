"""Piles of prompts, whoever answers them; and reports as pictures."""

import argparse
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from branchwork.bench import offline, plot
from branchwork.bench.offline import Batches, Url, _read, _report
from branchwork.bench.report import Line, Report
from branchwork.bench.serve import PeerFailed
from branchwork.commands import bench
from branchwork.runtime.wire.errors import ConfigError


class Server(BaseHTTPRequestHandler):
    """As little of an OpenAI server as can be asked."""

    asked: list[dict[str, Any]]

    def do_GET(self) -> None:
        self.answer({"data": [{"id": "a model"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(body)
        if 13 in body["prompt"]:
            self.send_error(500)
        else:
            self.answer({"usage": {"completion_tokens": body["max_tokens"]}})

    def answer(self, body: Any) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    Server.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_openai_server_is_asked_by_token_ids_and_its_own_count_is_believed(url: str) -> None:
    engine = Url(url, concurrency=4)
    seconds, tokens = engine.run([(1, 2), (3,), (4, 5, 6)], 7)
    assert tokens == 21
    assert seconds > 0
    assert sorted(tuple(body["prompt"]) for body in Server.asked) == [(1, 2), (3,), (4, 5, 6)]
    assert {body["model"] for body in Server.asked} == {"a model"}


def test_a_server_that_fails_or_is_not_there_fails_as_a_peer(url: str) -> None:
    with pytest.raises(PeerFailed, match="500"):
        Url(url, 1).run([(13,)], 1)
    with pytest.raises(PeerFailed):
        Url("http://127.0.0.1:9/v1", 1)
    with pytest.raises(ConfigError, match="--url"):
        Url("file:///etc/passwd", 1)


class FakePeer:
    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def run(self, prompts: Any, num_new: int, schema: str | None) -> Any:
        self.asked.append([len(prompt) for prompt in prompts])
        return 0.5, [(7,) * num_new for _ in prompts]


def test_a_peer_gets_prompts_of_like_lengths_together() -> None:
    peer = FakePeer()
    prompts = [(0,) * length for length in (9, 1) * 32]
    assert Batches(peer).run(prompts, 3) == (1.0, 192)  # type: ignore[arg-type]
    assert peer.asked == [[1] * 32, [9] * 32]


class FakeTokenizer:
    def request(self, what: str, body: str) -> str:
        return json.dumps({"token_ids": list(json.loads(body)["text"].encode())})


@pytest.mark.parametrize("text", ["hi\n\nyou\n", '{"prompt": "hi"}\n{"prompt": "you"}\n'])
def test_prompts_are_read_from_lines_of_text_or_json(tmp_path: Path, text: str) -> None:
    path = tmp_path / "prompts"
    path.write_text(text)
    assert _read(path, FakeTokenizer()) == [tuple(b"hi"), tuple(b"you")]  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", '{"text": "hi"}', '{"prompt": 3}', "{"])
def test_a_file_without_prompts_is_refused_by_its_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "prompts"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"--prompts {path}"):
        _read(path, FakeTokenizer())  # type: ignore[arg-type]


def test_a_report_names_every_engine_and_who_failed() -> None:
    options = argparse.Namespace(new=4, model="sprout")
    speeds: dict[str, list[tuple[float, int]]] = {
        "branchwork": [(1.0, 8), (2.0, 8), (4.0, 8)], "slow": [(6.0, 8)], "gone": [],
    }  # fmt: skip
    report = _report(options, [(1, 2), (3, 4)], speeds, ["gone failed: no"])
    assert [row[:4] for row in report.rows] == [("branchwork", 3, 2.0, 1.0), ("slow", 1, 6.0, 1 / 3)]  # fmt: skip
    assert report.rows[1][-1] == 3.0
    assert "gone failed: no" in report.notes


def test_a_report_is_drawn_as_a_png(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need branchwork[bench]")
    report = Report("a title", ("engine", "tokens/s", "seconds"), panels=(("tokens/s", "seconds"),))
    report.add("ours", 3.0, 1)
    report.add("theirs", "–", 2)
    report.add("broken", "–", True)
    plot.draw(report, tmp_path / "one.png")
    report.panels = ()
    plot.draw(report, tmp_path / "two.png")
    report.line = Line("requests", "MiB", ((1, 2.0), (2, 3.0)))
    plot.draw(report, tmp_path / "three.png")
    for name in ("one", "two", "three"):
        data = (tmp_path / f"{name}.png").read_bytes()
        assert data.startswith(b"\x89PNG")
        assert len(data) > 5000


def test_without_matplotlib_a_plot_is_refused_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(plot.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(offline, "run", lambda options: pytest.fail("it was measured"))
    with pytest.raises(ConfigError, match=r"pip install 'branchwork\[bench\]'"):
        bench.main(["offline", "--plot", str(tmp_path / "x.png")])
