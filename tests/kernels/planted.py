"""`python -m tests.kernels.planted`: flip one detail of a kernel at a time and see that a gate notices.

A gate that lets a wrong kernel pass proves nothing. The flips are done in a copy; the cases run against it in the
interpreter. Caught means a case reported a wrong output, or the process died of the access.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Bug:
    """What is flipped, in which file of kernels/triton, and the beginning of the names of the cases to notice it."""

    name: str
    file: str
    right: str
    wrong: str
    cases: str


DECODE, SHARED, EXTEND = "attend: decode (7, 1", "attend: shared prefixes", "attend: extend (4, 2"

BUGS = [
    Bug("decode: the mask of the last block is dropped", "attention",
        "scores = tl.where(seen, scores, -float(\"inf\"))", "scores = scores", DECODE),
    Bug("decode: splits overlap", "attention",
        "last = tl.minimum(first + each, length)\n    if (first >= length) & (split > 0):",
        "last = length\n    if (first >= length) & (split > 0):", DECODE),
    Bug("decode: a split starts one key late", "attention",
        "first = begin + split * each", "first = begin + split * each + (split > 0)", DECODE),
    Bug("decode: query heads of another key head", "attention",
        "head = kv_head * GROUP + row\n", "head = kv_head + row\n", "attend: decode (8, 2"),
    Bug("decode: the window is one short", "attention",
        "place[None, :] > position[:, None] - window", "place[None, :] > position[:, None] - window + 1",
        "attend: decode, window"),
    Bug("decode: a slot's place in 32 bits", "attention",
        "slot = tl.load(slots + place, mask=inside, other=0).to(tl.int64)",
        "slot = tl.load(slots + place, mask=inside, other=0)", "attend: decode, pool beyond"),
    Bug("extend: a row that saw nothing gives NaN", "attention",
        "anchor = tl.where(new_highest == -float(\"inf\"), 0.0, new_highest)", "anchor = new_highest",
        "attend: extend, a split"),
    Bug("decode: the scale of k is forgotten", "attention",
        "            scores *= tl.load(k_scale", "            scores += 0 * tl.load(k_scale",
        "attend: decode, int8"),
    Bug("decode: sums are not shrunk", "attention",
        "sums = sums * shrink[:, None]", "sums = sums * 1.0", DECODE),
    Bug("merge: splits that were not written count", "attention",
        "present = (place < num_own) |", "present = (place < MAX_SPLITS) |", DECODE),
    Bug("merge: every split weighs the same", "attention",
        "merged = tl.sum(values * weights[:, None], 0)", "merged = tl.sum(values, 0)", DECODE),
    Bug("merge: the shared splits are left out", "attention",
        "(place < MAX_SPLITS + num_shared)", "(place < MAX_SPLITS)", SHARED),
    Bug("cascade: own keys begin at 0", "attention", "    begin = shared\n", "    begin = 0\n", SHARED),
    Bug("cascade: slots of the member of that number", "attention",
        "tl.load(rows + tl.load(members + member))", "tl.load(rows + member)", SHARED),
    Bug("extend: a token does not see itself", "attention",
        "place[None, :] <= position[:, None]", "place[None, :] < position[:, None]", EXTEND),
    Bug("extend: one block too many without a mask", "attention",
        "whole_blocks = (before + 1) // BLOCK_KEYS", "whole_blocks = (before + TOKENS) // BLOCK_KEYS", EXTEND),
    Bug("extend: positions without the prefix", "attention",
        "position = length - num_new + new", "position = new", EXTEND),
    Bug("extend: rows past a request's last token are written", "attention",
        "real = (new < num_new) & (row", "real = (row >= 0) & (row", "attend: extend (4, 2"),
    Bug("rope: the sign of the sine", "pointwise",
        "turned_right = right * cosine + left * sine", "turned_right = right * cosine - left * sine", "rope_store_kv"),
    Bug("rope: padding is written", "pointwise", "kept = slot >= 0", "kept = slot >= -1", "rope_store_kv: plain"),
    Bug("rope: the halves of v change places", "pointwise",
        "_store_head(v_pool, v_scale, place, at, left, right,", "_store_head(v_pool, v_scale, place, at, right, left,",
        "rope_store_kv: plain"),
    Bug("rope: int8 cut off instead of rounded", "pointwise", "tl.floor(left + 0.5)", "tl.floor(left)",
        "rope_store_kv: int8"),
    Bug("norm: the residual is not written back", "pointwise",
        "        tl.store(residual + row + at, value.to(x.dtype.element_ty), mask=real)\n", "", "add_rms_norm"),
    Bug("sample: the mask's bit", "sampling", "(word >> (token % 32))", "(word >> (token % 31))", "sample: masks"),
    Bug("sample: top-k one too many", "sampling",
        "k = tl.where((k > 0) & (k < width), k, width)", "k = tl.where((k > 0) & (k < width), k + 1, width)",
        "sample: cuts"),
    Bug("sample: one too many of equal weights", "sampling",
        "to(tl.int32), max_count - count)", "to(tl.int32), max_count - count + 1)", "sample: ties"),
    Bug("sample: top-p of 1, not of what top-k kept", "sampling",
        "tl.maximum(p * total, _LEAST_MASS)", "tl.maximum(p, _LEAST_MASS)", "sample: cuts"),
    Bug("sample: the bound for top-k is too high", "sampling",
        "lowest = tl.min(tl.where(better < k, tops", "lowest = tl.min(tl.where(better < k - 1, tops", "sample: cuts"),
    Bug("sample: the bound for top-p is too high", "sampling",
        "lightest = tl.maximum(0.5 * (1 - p)", "lightest = tl.maximum(30.0 * (1 - p)", "sample: cuts"),
    Bug("sample: ties are kept from the last on", "sampling",
        "rank = equals + tl.cumsum(equal.to(tl.int32), 0) - 1", "rank = num - place", "sample: ties"),
    Bug("sample: a token of the context is penalised by its count", "sampling",
        "(history & 1) != 0", "(history >> 1) != 0", "sample: edits"),
    Bug("sample: another random number", "sampling", "(position + 1)", "position", "sample: cuts"),
    Bug("sample: NaN may be chosen", "sampling",
        "return tl.where(value == value, value, -float(\"inf\"))", "return value", "sample: cuts"),
    Bug("fsm: the width of another machine", "automaton",
        "+ state * width", "+ state * 5", "fsm_advance"),
    Bug("fsm: a token that may not follow is followed", "automaton",
        "state = tl.where(allowed, following, state)", "state = tl.where(chosen, following, state)", "fsm_advance"),
    Bug("int4: the nibbles change places", "linear",
        "low_levels = ((packed & 15)", "low_levels = ((packed >> 4)", "quantized_linear: 4"),
    Bug("int4: one scale for all groups", "linear",
        "scale + column * num_groups + group", "scale + column * num_groups", "quantized_linear: 4"),
    Bug("int8: the bias is left out", "linear", "    if bias is not None:\n", "    if bias is None and num_rows < 0:\n",
        "quantized_linear: 8"),
]  # fmt: skip


def is_caught(bug: Bug) -> bool:
    """Run the bug's cases against a copy of the package that has it."""
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "branchwork"
        shutil.copytree(
            ROOT / "kernels", package / "kernels", ignore=shutil.ignore_patterns("__pycache__")
        )
        (package / "__init__.py").touch()
        path = package / "kernels" / "triton" / f"{bug.file}.py"
        source = path.read_text()
        assert bug.right in source, f"{bug.name}: its place is gone from {bug.file}.py"
        path.write_text(source.replace(bug.right, bug.wrong, 1))
        done = subprocess.run(
            [sys.executable, "-m", "tests.kernels.interpreted", bug.cases],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": folder, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
    assert f'{{"starts": "{bug.cases}' in done.stdout, done.stderr[-2000:]
    found_wrong = '"wrong": "' in done.stdout
    died = done.returncode < 0 or "InterpreterError" in done.stderr
    return found_wrong or died


def main() -> int:
    missed = 0
    for bug in BUGS:
        caught = is_caught(bug)
        missed += not caught
        print("caught" if caught else "MISSED", bug.name, flush=True)
    print(f"{len(BUGS) - missed} of {len(BUGS)} caught")
    return min(missed, 1)


if __name__ == "__main__":
    sys.exit(main())
