import json
from pathlib import Path
from typing import Any

import pytest
from tests.runtime.server.test_supervisor import FakeRuntime

from branchwork.runtime.server import batch
from branchwork.runtime.server.batch import finished_ids, run_batch
from branchwork.runtime.wire.errors import ConfigError


def line(custom_id: str, **body: Any) -> str:
    request = {"custom_id": custom_id, "method": "POST", "url": "/v1/completions"}
    return json.dumps({**request, "body": {"prompt": "hi", **body}}) + "\n"


def answers(target: Path) -> dict[str, Any]:
    found = [json.loads(each) for each in target.read_text().splitlines()]
    return {each["custom_id"]: each["response"] for each in found}


def test_every_line_is_answered_in_openais_form(tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(line("a") + "\n" + line("b", n=0) + "not json\n")
    result = run_batch(source, target, FakeRuntime, progress=False)
    assert (result.answered, result.failed, result.skipped) == (1, 2, 0)
    found = answers(target)
    assert found["a"]["body"]["choices"][0]["text"] == "hello world"
    assert found["a"]["request_id"].startswith("req_")
    assert found["b"]["status_code"] == 400
    assert found["b"]["body"]["error"]["param"] == "n"
    assert found[None]["status_code"] == 400


def test_a_run_that_was_interrupted_goes_on_where_it_stopped(tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(line(f"r{i}") for i in range(4)))
    run_batch(source, target, FakeRuntime, progress=False)
    lines = target.read_text().splitlines(keepends=True)
    target.write_text("".join(lines[:2]) + lines[2][:30])
    result = run_batch(source, target, FakeRuntime, progress=False)
    assert (result.answered, result.skipped) == (2, 2)
    assert set(answers(target)) == {"r0", "r1", "r2", "r3"}


def test_a_file_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "out.jsonl"
    target.write_text("dear diary\nmore\n")
    with pytest.raises(ConfigError, match="holds no batch answers"):
        finished_ids(target)
    assert target.read_text() == "dear diary\nmore\n"
    with pytest.raises(ConfigError, match="no such file"):
        run_batch(tmp_path / "none", target, FakeRuntime)


def test_a_request_is_tried_again_while_the_runtime_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "PAUSES_S", (0.05,) * 100)
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(line("a"))
    runtimes: list[FakeRuntime] = []

    def start() -> FakeRuntime:
        runtimes.append(FakeRuntime())
        if len(runtimes) == 1:
            runtimes[0].die()
        return runtimes[-1]

    result = run_batch(source, target, start, progress=False)
    assert result.answered == 1
    assert len(runtimes) == 2
