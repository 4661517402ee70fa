import json
from concurrent.futures import Future

import numpy as np
import pytest
from tests.make_engine import generate, make_runtime, opened, text
from tests.make_tree import insert

from branchwork.runtime.engine import inspection
from branchwork.runtime.engine.inspection import report_requests, report_tree
from branchwork.runtime.engine.radix import Namespace, RadixTree
from branchwork.runtime.inbox import Control


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def make_tree() -> RadixTree:
    """1 2 → 3 | 4 5, and 9 in another namespace; `4 5` was used last but one."""
    tree = RadixTree()
    insert(tree, Namespace(), ints(1, 2, 3), ints(0, 1, 2))
    insert(tree, Namespace(), ints(1, 2, 4, 5), ints(0, 1, 3, 4))
    insert(tree, Namespace("salt", 2), ints(9), ints(5))
    return tree


def test_the_report_names_each_edge_after_its_parent_latest_first() -> None:
    report = report_tree(make_tree())
    shown = [(node["parent"], node["space"], node["head"], node["age"]) for node in report["nodes"]]
    assert shown == [
        (None, 1, [9], 0),
        (None, 0, [1, 2], 2),
        (1, 0, [4, 5], 2),
        (1, 0, [3], 4),
    ]
    assert [node["end"] for node in report["nodes"]] == [1, 2, 4, 3]
    assert report["adapters"] == [0, 2]
    assert report["tokens"] == 6


def test_a_salt_is_in_no_report() -> None:
    assert "salt" not in json.dumps(report_tree(make_tree()))


def test_what_is_left_out_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "MAX_NODES", 3)
    nodes = report_tree(make_tree())["nodes"]
    assert [node["hidden"] for node in nodes] == [0, 1, 0]


def test_the_report_changes_nothing() -> None:
    tree = make_tree()
    before = list(tree.prefixes())
    report_tree(tree)
    tree.check()
    assert list(tree.prefixes()) == before


def test_requests_are_shown_as_they_run() -> None:
    runtime = make_runtime()
    runtime.put(opened(1), text(1, "Hello"), generate(1, ignore_eos=True))
    reply: Future[str] = Future()
    runtime.put(Control("inspect", reply))
    runtime.step()
    (waiting,) = json.loads(reply.result(0))["requests"]
    assert (waiting["kind"], waiting["state"], waiting["computed"]) == ("generation", "waiting", 0)
    runtime.step()
    scheduler = runtime.engine.scheduler
    (running,) = report_requests(scheduler.running, scheduler.waiting)
    assert running["state"] == "decode"
    assert running["tokens"] > waiting["tokens"]
    runtime.run()
    assert report_requests(scheduler.running, scheduler.waiting) == []
