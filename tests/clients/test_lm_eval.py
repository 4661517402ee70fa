"""lm-eval's local-completions: likelihoods of choices and generated answers, on a task of our own without a network."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.clients.conftest import KEY

pytest.importorskip("lm_eval")
pytestmark = [pytest.mark.clients, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(600)]

QUESTIONS = [("France", "Paris"), ("Norway", "Oslo"), ("Italy", "Rome"), ("Japan", "Tokyo")]
CHOICE_TASK = """
task: capitals_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{data}"}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "Q: What is the capital of {{{{country}}}}?\\nA:"
doc_to_choice: ["Paris", "Oslo", "Rome", "Tokyo"]
doc_to_target: "{{{{label}}}}"
metric_list: [{{metric: acc}}]
"""
GENERATE_TASK = """
task: capitals_generate
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{data}"}}}}
test_split: test
output_type: generate_until
doc_to_text: "Q: What is the capital of {{{{country}}}}?\\nA:"
doc_to_target: " {{{{capital}}}}"
generation_kwargs: {{until: ["\\n"], do_sample: false, max_gen_toks: 12}}
metric_list: [{{metric: exact_match}}]
"""


def run(url: str, folder: Path, task: str, **model_args: Any) -> dict[str, Any]:
    """The figures of one task, by lm-eval's own command."""
    arguments = {
        "model": "sprout",
        "base_url": url + "/v1/completions",
        "num_concurrent": 2,
        "auth_token": KEY,
        "max_retries": 1,
        **model_args,
    }
    joined = ",".join(f"{name}={value}" for name, value in arguments.items())
    command = [sys.executable, "-m", "lm_eval", "--model", "local-completions"]
    command += ["--model_args", joined, "--tasks", task, "--include_path", str(folder)]
    command += ["--output_path", str(folder / "out")]
    environment = {**os.environ, "OPENAI_API_KEY": KEY, "HF_HOME": str(folder / "hf")}
    environment |= {"HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    (found,) = (folder / "out").rglob("results*.json")
    figures: dict[str, Any] = json.loads(found.read_text())["results"][task]
    return figures


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    data = tmp_path / "capitals.jsonl"
    rows = [
        {"country": country, "capital": capital, "label": label}
        for label, (country, capital) in enumerate(QUESTIONS)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, text in (("choice", CHOICE_TASK), ("generate", GENERATE_TASK)):
        (tmp_path / f"{name}.yaml").write_text(text.format(data=data))
    return tmp_path


def test_likelihoods_of_choices(url: str, tasks: Path) -> None:
    figures = run(url, tasks, "capitals_choice", tokenizer_backend="remote")
    assert 0 <= figures["acc,none"] <= 1


def test_generated_answers(url: str, tasks: Path) -> None:
    figures = run(
        url,
        tasks,
        "capitals_generate",
        tokenizer_backend="None",
        tokenized_requests="False",
    )
    assert 0 <= figures["exact_match,none"] <= 1
