"""Constraints that are made to be expensive: what each costs to serve or refuse, and what other clients notice.

Streams run all the while. Each constraint is sent again and again, never the same twice (so nothing is cached), and
the gaps between the streams' tokens are compared with those of the quiet runtime, before and after.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from branchwork.bench.load import Job, run_jobs
from branchwork.bench.report import Report, percentile
from branchwork.runtime.wire.backend import Backend
from branchwork.runtime.wire.launcher import launch
from branchwork.runtime.wire.messages import AnyOf, Choices, Constraint, Ebnf, JsonSchema, Regex


def nested(depth: int) -> AnyOf:
    """One constraint in another, so many times."""
    constraint: Constraint = Regex("a")
    for _ in range(depth):
        constraint = AnyOf((constraint,))
    assert isinstance(constraint, AnyOf)
    return constraint


_DEEP = '{"type": "array", "items": ' * 5000 + "true" + "}" * 5000
# Distinct words that share no ends.
_WORDS = [f"{n * 7919 % 1000003:x}{n * 104729 % 999983:x}" for n in range(50_000)]
CASES: dict[str, Constraint] = {
    "(a+)+b": Regex("(a+)+b"),
    "x{100000}": Regex("x{100000}"),
    "((x{100}){100}){100}": Regex("((x{100}){100}){100}"),
    "30,000 parentheses": Regex("(" * 30_000),
    "30,000 groups": Regex("(" * 30_000 + "a" + ")" * 30_000),
    "(a|b)*a(a|b){200}": Regex("(a|b)*a(a|b){200}"),
    "no character": Regex("[^\\s\\S]"),
    "trailing backslash": Regex("a\\"),
    "possessive": Regex("a++"),
    "stars of stars": Regex("((a*)*)*b{0,1000}(a|b|ab)*"),
    "1,000 counts": Regex("|".join(f"a{{{n}}}b" for n in range(1000))),
    "root ::= root": Ebnf("root ::= root"),
    "30,000 in EBNF": Ebnf("root ::= " + "(" * 30_000),
    "20,000 rules": Ebnf("".join(f"r{n} ::= r{n + 1}\n" for n in range(20_000)), root="r0"),
    "self-$ref": JsonSchema('{"$ref": "#"}'),
    "5,000 arrays": JsonSchema(_DEEP),
    "5,000 allOf": JsonSchema('{"allOf": [' * 5000 + "true" + "]}" * 5000),
    "50,000 values": JsonSchema(json.dumps({"enum": [f"value {n}" for n in range(50_000)]})),
    "50,000 words": JsonSchema(json.dumps({"enum": _WORDS})),
    "50,000 choices": Choices(tuple(_WORDS)),
    "10,000 properties": JsonSchema(
        json.dumps({"properties": {f"p{n}": {"type": "integer"} for n in range(10_000)}})
    ),
    "1 MB": JsonSchema('{"description": "' + "x" * 1_000_000 + '"}'),
    "10,000 patterns": JsonSchema(
        json.dumps({"properties": {f"p{n}": {"pattern": f"^[a-z]+{n}$"} for n in range(10_000)}})
    ),
    "2**40 cases": JsonSchema(
        json.dumps(
            {"allOf": [{"anyOf": [{"required": [f"a{n}"]}, {"required": [f"b{n}"]}]} for n in range(40)]}
        )
    ),
    "300 AnyOf": nested(300),
}  # fmt: skip


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be changed."""
    parser.add_argument("--model", default="sprout", help="model folder (default: sprout)")
    parser.add_argument("--only", default="", help="constraints whose name holds this")
    parser.add_argument("--streams", type=int, default=8, help="other clients (default: 8)")
    parser.add_argument("--each", type=float, default=2.0, help="seconds of each (default: 2)")
    parser.add_argument("--quiet", type=float, default=5.0, help="seconds without (default: 5)")


def run(options: argparse.Namespace) -> Report:
    """One row per constraint."""
    report = Report(
        f"expensive constraints beside {options.streams} streams on {options.model}",
        ("constraint", "answer", "seconds", "CPU seconds", "MiB", "p99 gap ms", "over quiet"),
    )
    with launch(model=options.model) as runtime:
        attacker = runtime.connect()
        _ask(attacker, Regex("warm"))
        children = _Children(runtime.pid)
        streams = _Streams(runtime.address, options.streams)
        streams.gaps_ms(options.quiet)  # the first ones warm up
        quiet = streams.gaps_ms(options.quiet)
        found = {
            name: _attack(attacker, constraint, options.each, streams, children)
            for name, constraint in CASES.items()
            if options.only in name
        }
        streams.gaps_ms(1.0)
        quiet += streams.gaps_ms(options.quiet)
        children.stop()
        streams.stop()
    usual = percentile(quiet, 0.99)
    for name, one in found.items():
        p99 = percentile(one.gaps_ms, 0.99)
        report.add(name, one.answer, one.seconds, one.cpu_s, one.mib, p99, p99 / usual)
    every = percentile([gap for one in found.values() for gap in one.gaps_ms], 0.99)
    report.add("all", "", "", "", max(one.mib for one in found.values()), every, every / usual)
    report.notes.append(
        f"Quiet: p50 {median(quiet):.2f} ms, p99 {usual:.2f} ms. Seconds: medians; MiB: of the largest child, "
        "above its start."
    )
    return report


@dataclass(frozen=True, slots=True)
class _Attacked:
    answer: str
    seconds: float
    cpu_s: float
    mib: float
    gaps_ms: list[float]


def _attack(
    client: Backend,
    constraint: Constraint,
    least_s: float,
    streams: "_Streams",
    children: "_Children",
) -> _Attacked:
    """Send a constraint, each time another one like it, for `least_s` seconds."""
    times, answer, begun = list[float](), "", time.monotonic()
    children.take()
    while not times or time.monotonic() - begun < least_s:
        start = time.monotonic()
        answer = _ask(client, _varied(constraint))
        times.append(time.monotonic() - start)
    cpu_s, mib = children.take()
    gaps_ms = streams.gaps_ms(0.0)
    return _Attacked(answer, median(times), cpu_s / len(times), mib, gaps_ms)


def _ask(client: Backend, constraint: Constraint) -> str:
    """Ask for one token under a constraint; what came of it. One that needs more tokens has been compiled."""
    job = Job((1, 2, 3), 1, constraint)
    run_jobs(client, [job])
    return "served" if job.error is None or "max_tokens" in job.error else "refused"


_nonces = itertools.count(1)


def _varied(constraint: Constraint) -> Constraint:
    """The same work in another text."""
    nonce = next(_nonces)
    match constraint:
        case Regex(pattern):
            return Regex(f"(?#{nonce}){pattern}")
        case Ebnf(text, root):
            return Ebnf(f"{text}\n# {nonce}\n", root)
        case JsonSchema(schema):
            return JsonSchema(schema + " " * nonce)
        case Choices(values):
            return Choices((*values, f"choice {nonce}"))
        case AnyOf(options):
            return AnyOf((*options, Regex(str(nonce))))
    return constraint


class _Streams:
    """Other clients, in a process of their own: an attacker in the same interpreter would delay them itself."""

    def __init__(self, address: str, count: int) -> None:
        self._gaps_ms: list[float] = []
        command = [sys.executable, "-m", "branchwork.bench.streams", address, str(count)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def gaps_ms(self, wait_s: float) -> list[float]:
        """The gaps since the last call, after a wait."""
        time.sleep(wait_s)
        found, self._gaps_ms = self._gaps_ms, []
        return found

    def stop(self) -> None:
        """End them."""
        self._process.kill()
        self._process.wait()
        self._thread.join()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._gaps_ms += json.loads(line)


class _Children:
    """The compiling children of a runtime: their CPU time and their memory, looked at every few milliseconds."""

    def __init__(self, pid: int) -> None:
        self._runtime = pid
        self._cpu_s: dict[int, float] = {}
        self._mib: dict[int, float] = {}
        self._at_start_mib = 0.0
        self._spent_s = 0.0
        self._stopping = False
        self._look()
        self._at_start_mib = max(self._mib.values(), default=0.0)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def take(self) -> tuple[float, float]:
        """CPU seconds since the last call, and the most memory of one above the start, in MiB."""
        self._look()
        cpu_s = sum(self._cpu_s.values())
        mib = max(self._mib.values(), default=0.0) - self._at_start_mib
        spent, self._spent_s = cpu_s - self._spent_s, cpu_s
        self._mib.clear()
        return spent, max(mib, 0.0)

    def stop(self) -> None:
        """Look no more."""
        self._stopping = True
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping:
            self._look()
            time.sleep(0.01)

    def _look(self) -> None:
        for pid in _compilers(self._runtime):
            try:
                status = Path(f"/proc/{pid}/statm").read_text().split()
                times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has just ended
            mib = int(status[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
            self._mib[pid] = max(self._mib.get(pid, 0.0), mib)
            self._cpu_s[pid] = (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")


def _compilers(pid: int) -> list[int]:
    """The children of a process that compile constraints (Linux)."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            command = Path(f"/proc/{child}/cmdline")
            if command.exists() and b"compiler_child" in command.read_bytes():
                found.append(int(child))
    return found
