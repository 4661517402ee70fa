"""The workloads, and what is made of engines that fail."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from branchwork.bench import peer
from branchwork.bench.serve import Entrant, PeerFailed, _report, _run_once, _try_once, add_options
from branchwork.bench.workloads import SCHEMA, WORKLOADS, Prompt, draw


class Noting:
    """Answers with sevens, and notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[int], int, str | None]] = []

    def run(
        self, prompts: list[Prompt], num_new: int, schema: str | None
    ) -> tuple[float, list[Prompt]]:
        self.asked.append(([len(prompt) for prompt in prompts], num_new, schema))
        return 0.5, [(7,) * num_new for _ in prompts]


class Failing(Noting):
    """Cannot."""

    def run(
        self, prompts: list[Prompt], num_new: int, schema: str | None
    ) -> tuple[float, list[Prompt]]:
        raise PeerFailed("no vocabulary")


def test_the_turns_of_a_chat_hold_all_that_was_said() -> None:
    engine = Noting()
    seconds, tokens = _run_once(engine, WORKLOADS["W4"], 4096)
    assert [(lengths, new) for lengths, new, _ in engine.asked] == [
        ([64] * 8, 32),
        ([160] * 8, 32),
        ([256] * 8, 32),
        ([352] * 8, 32),
    ]
    assert (seconds, tokens) == (2.0, 4 * 8 * 32)


def test_workloads_are_named_in_any_case_and_an_unknown_one_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    parser = argparse.ArgumentParser()
    add_options(parser)
    options = parser.parse_args(["--workloads", "w2,W3W", "--peer", "vllm=/bin/python:w4"])
    assert options.workloads == [WORKLOADS["W2"], WORKLOADS["W3w"]]
    assert options.peer == [("vllm", "/bin/python", [WORKLOADS["W4"]])]
    with pytest.raises(SystemExit):
        parser.parse_args(["--workloads", "w9"])
    assert "'w9' is none of W1, W2" in capsys.readouterr().err


def test_a_leader_warms_the_prefix_that_the_others_share() -> None:
    leader, others = draw(WORKLOADS["W3w"], 4096, seed=1)
    assert (len(leader), len(others)) == (1, 63)
    prefix = leader[0][0][:1024]
    assert all(turns[0][:1024] == prefix for turns in others)
    assert len({turns[0] for turns in others}) == 63


def test_only_w5_is_under_a_schema() -> None:
    for name, workload in WORKLOADS.items():
        engine = Noting()
        _run_once(engine, workload, 4096)
        assert {schema for _, _, schema in engine.asked} == {SCHEMA if name == "W5" else None}


def test_an_engine_that_fails_is_said_so_and_the_others_have_their_figures() -> None:
    ours = Entrant("branchwork", Noting(), {"W1"})
    peer = Entrant("peer", Failing(), {"W1"})
    for entrant in (ours, peer):
        _try_once(entrant, WORKLOADS["W1"], 4096)
    assert peer.workloads == set()
    text = _report("m", [WORKLOADS["W1"]], [ours, peer]).text()
    assert "| 256 " in text
    assert "peer failed on W1: no vocabulary" in text


ENDLESS = """
import subprocess, time
import peer

class Endless:
    def __init__(self, model):
        subprocess.Popen(["sleep", "600"])  # engines have processes of their own

    def run(self, prompts, num_new, schema):
        time.sleep(600)

peer.PEERS["endless"], peer.PACKAGES["endless"] = Endless, "pytest"
peer.main("endless", "")
"""


def test_a_peer_ends_in_the_midst_of_its_work_when_whoever_asked_has_gone() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", ENDLESS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(peer.__file__).parent,
        start_new_session=True,
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert "ready" in process.stdout.readline()
        process.stdin.write('{"prompts": [[1]], "num_new": 1, "schema": null}\n')
        process.stdin.close()
        assert process.stdout.read() == ""  # also the engine's own process has let go of it
        assert process.wait(60) < 0
