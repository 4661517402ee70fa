"""As `sglang.test.test_utils`: the command line of benchmark programs, and the base of test cases."""

import argparse
import json
import os
import unittest
from collections.abc import Sequence
from typing import Any

from branchwork.lang.api.endpoint import RuntimeEndpoint
from branchwork.lang.api.openai import OpenAI
from branchwork.runtime.wire.backend import Backend
from branchwork.runtime.wire.errors import ProgramError

DEFAULT_MODEL_NAME_FOR_TEST = "sprout"
DEFAULT_SMALL_MODEL_NAME_FOR_TEST = "sprout"
DEFAULT_URL_FOR_TEST = "http://127.0.0.1:30000"


def is_in_ci() -> bool:
    """Whether this runs in somebody's continuous integration."""
    return bool(os.environ.get("CI"))


def add_common_sglang_args_and_parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Add the options of the frontend's benchmark programs, and parse."""
    parser.add_argument("--parallel", type=int, default=64, help="programs at once")
    parser.add_argument("--host", default="http://127.0.0.1", help="where the server is")
    parser.add_argument("--port", type=int, default=30000, help="its port")
    parser.add_argument(
        "--backend", default="srt", help="srt, embedded, or the name of an OpenAI model"
    )
    parser.add_argument("--device", default="auto", help="taken, and not used")
    parser.add_argument("--result-file", default="result.jsonl", help="where results are appended")
    parser.add_argument("--raw-result-file", default=None, help="where each answer is written")
    return parser.parse_args()


def select_sglang_backend(args: Any) -> Backend:
    """The backend that the command line asks for. Raises ProgramError for one that is not known."""
    if args.backend == "embedded":
        # Starts a process; only who asks for it pays.
        from branchwork.lang.default import default_backend  # noqa: PLC0415

        return default_backend()
    if args.backend.startswith("srt"):
        return RuntimeEndpoint(f"{args.host}:{args.port}")
    if args.backend.startswith("gpt-"):
        return OpenAI(args.backend)
    raise ProgramError(f"backend {args.backend!r} is none of srt, embedded, or an OpenAI model")


def dump_bench_raw_result(
    path: str | None, states: Sequence[Any], preds: Sequence[Any], labels: Sequence[Any]
) -> None:
    """Write prompt, answer and whether it is right, a line for each state; nothing without a path."""
    if not path:
        return
    with open(path, "w", encoding="utf-8") as out:
        for i, state in enumerate(states):
            answer = state["answer"]
            row = {
                "prompt_id": i,
                "prompt": state.text().removesuffix(answer),
                "output": answer,
                "correct": bool(preds[i] == labels[i]),
            }
            out.write(json.dumps(row) + "\n")


class CustomTestCase(unittest.TestCase):
    """A test case."""
