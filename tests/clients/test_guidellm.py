"""guidellm: its own command measures the server, on every route it knows."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.clients.jobs import KEY

pytest.importorskip("guidellm")
pytestmark = [pytest.mark.clients, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(600)]

SPROUT = Path(__file__).parents[2] / "runtime/models/sprout"
PROMPT, ANSWER, REQUESTS = 64, 16, 12


@pytest.mark.parametrize("streamed", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("route", ["/v1/chat/completions", "/v1/completions", "/v1/responses"])
def test_a_route_is_measured(url: str, tmp_path: Path, route: str, streamed: bool) -> None:
    report = tmp_path / "report.json"
    settings = {
        "backend": {
            "kind": "openai_http",
            "target": url,
            "model": "sprout",
            "api_key": KEY,
            "request_format": route,
            "stream": streamed,
        },
        "profile": {"kind": "concurrent", "streams": [4]},
        "constraint": {"kind": "max_requests", "count": REQUESTS},
        "tokenizer": {"kind": "huggingface_auto", "model": str(SPROUT)},
        "data": {"kind": "synthetic_text", "prompt_tokens": PROMPT, "output_tokens": ANSWER},
        "output": {"kind": "json", "path": str(report)},
    }
    command = [sys.executable, "-m", "guidellm", "run", "--disable-console"]
    for name, value in settings.items():
        command += [f"--{name}", json.dumps(value)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-3000:]
    (benchmark,) = json.loads(report.read_text())["benchmarks"]
    requests: dict[str, list[Any]] = benchmark["requests"]
    assert len(requests["successful"]) == REQUESTS
    assert not requests["errored"]
    # It asks to ignore the end of the text, so that every answer has its length.
    assert {each["output_tokens"] for each in requests["successful"]} == {ANSWER}
