"""`python -m tests.kernels.planted`: flip one detail of a kernel or of the device's runner, and see that it is noticed.

A gate that lets a wrong kernel pass proves nothing. The flips are done in a copy; a kernel's cases run against it in
the interpreter, the runner's programs over the reference. Caught means that an output was reported wrong, or that the
process died of the access.
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
    """What is flipped, and who is to notice it: cases, by the beginning of their names, or a program.

    `file` is one of kernels/triton. A whole path is a bug of the device's runner, and `cases` names a program then,
    or one of kernels/cpu, and `cases` names a test of test_cpu_matrix.py, or of the file's own.
    """

    name: str
    file: str
    right: str
    wrong: str
    cases: str

    @property
    def is_of_the_runner(self) -> bool:
        return self.file.startswith("runtime/")

    @property
    def is_of_the_cpu(self) -> bool:
        return self.file.startswith("kernels/cpu/")

    @property
    def tests_of_the_cpu(self) -> Path:
        """The file whose tests are to notice it."""
        own = ROOT / "tests" / "kernels" / f"test_cpu_{Path(self.file).name}.py"
        return own if own.exists() else own.with_name("test_cpu_matrix.py")

    @property
    def path(self) -> Path:
        """From the package's root."""
        return Path("" if "/" in self.file else "kernels/triton") / f"{self.file}.py"


DECODE, SHARED, EXTEND = "attend: decode (7, 1", "attend: shared prefixes", "attend: extend (4, 2"

BUGS = [
    Bug("decode: the mask of the last block is dropped", "attention",
        "scores = tl.where(seen, scores, -float(\"inf\"))", "scores = scores", DECODE),
    Bug("decode: splits overlap", "attention",
        "        last = tl.minimum(first + each, length)\n        highest",
        "        last = length\n        highest", DECODE),
    Bug("decode: a program takes only its first split", "attention",
        "num_splits, tl.num_programs(2))", "num_splits, MAX_SPLITS)", DECODE),
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
        "present = (place < num_own) |", "present = (place < 4) |", DECODE),
    Bug("merge: every split weighs the same", "attention",
        "tl.sum(values * weights[:, :, None], 1)", "tl.sum(values, 1)", DECODE),
    Bug("merge: what came before a higher one is not shrunk", "attention",
        "sums = sums * shrink[:, None] + tl.sum(", "sums = sums + tl.sum(", DECODE),
    Bug("merge: the first parts alone", "attention",
        "tl.range(0, end, BLOCK_PARTS, num_stages=1)", "tl.range(0, BLOCK_PARTS, BLOCK_PARTS, num_stages=1)", DECODE),
    Bug("merge: one more is waited for than comes", "attention",
        "last = count == num_programs - 1", "last = count == num_programs", DECODE),
    Bug("merge: programs that have nothing to do are waited for", "attention",
        "num_programs = tl.minimum(num_splits, tl.num_programs(2))", "num_programs = tl.num_programs(2)", SHARED),
    Bug("merge: the next launch finds the count of this one", "attention",
        "tl.store(arrived, 0)", "tl.store(arrived, 1)", DECODE),
    Bug("merge: the shared splits are left out", "attention",
        "(place < first_shared + num_shared)", "(place < first_shared)", SHARED),
    Bug("cascade: own keys begin at 0", "attention", "    begin = shared\n", "    begin = 0\n", SHARED),
    Bug("cascade: slots of the member of that number", "attention",
        "tl.load(rows + tl.load(members + member))", "tl.load(rows + member)", SHARED),
    Bug("extend: a token does not see itself", "attention",
        "place[None, :] <= position[:, None]", "place[None, :] < position[:, None]", EXTEND),
    Bug("extend: one block too many without a mask", "attention",
        "whole_blocks = (before + 1) // BLOCK_KEYS", "whole_blocks = (before + TOKENS) // BLOCK_KEYS", EXTEND),
    Bug("extend: positions without the prefix", "attention",
        "position = length - num_new + new", "position = new", EXTEND),
    Bug("extend: the last tile is taken twice, the first not at all", "attention",
        "tl.cdiv(num_new, TOKENS) - 1 - number", "tl.cdiv(num_new, TOKENS) - 1 - (number + 1) % 2", EXTEND),
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
    Bug("sample: a program looks through its first chunk only", "sampling",
        "num_chunks, tl.num_programs(1),", "num_chunks, num_chunks,", "sample: cuts"),
    Bug("sample: the bound for top-k is too high", "sampling",
        "lowest = tl.min(tl.where(better < k, tops", "lowest = tl.min(tl.where(better < k - 1, tops", "sample: cuts"),
    Bug("sample: the bound for top-p is too high", "sampling",
        "lightest = tl.maximum(0.5 * (1 - p)", "lightest = tl.maximum(30.0 * (1 - p)", "sample: cuts"),
    Bug("sample: top-p of what are candidates", "sampling",
        "    total = tl.where(k < width, total, whole)\n", "", "sample: a light tail"),
    Bug("sample: top-k loses its light tokens before top-p", "sampling",
        "lightest = tl.where(k < width, 0.0, lightest)", "lightest = lightest * 1.0", "sample: a light tail"),
    Bug("sample: ties are kept from the last on", "sampling",
        "rank = equals + tl.cumsum(equal.to(tl.int32), 0) - 1", "rank = num - place", "sample: ties"),
    Bug("sample: a token of the context is penalised by its count", "sampling",
        "(history & 1) != 0", "(history >> 1) != 0", "sample: edits"),
    Bug("sample: another random number", "sampling", "(position + 1)", "position", "sample: cuts"),
    Bug("sample: NaN may be chosen", "sampling",
        "return tl.where(value == value, value, -float(\"inf\"))", "return value", "sample: cuts"),
    Bug("lanes: the position is not advanced", "lanes",
        "tl.store(row_position + row, at + 1, mask=live)", "tl.store(row_position + row, at, mask=live)",
        "advance_rows"),
    Bug("lanes: a token does not see itself", "lanes",
        "tl.where(live, at + 1, 0)", "tl.where(live, at, 0)", "fill_lanes"),
    Bug("lanes: padding has keys", "lanes", "tl.where(live, at + 1, 0)", "at + 1", "fill_lanes"),
    Bug("lanes: padding has a slot", "lanes", "+ at, mask=live, other=-1)", "+ at, mask=real, other=-1)", "fill_lanes"),
    Bug("lanes: the mask of the row of that number", "lanes",
        "tl.load(row_mask + row, mask=real", "tl.load(row_mask + lane, mask=real", "fill_lanes"),
    Bug("lanes: padding advances its row", "lanes",
        "tl.store(row_position + row, at + 1, mask=live)",
        "tl.store(row_position + row, at + 1, mask=lane < num_lanes)",
        "advance_rows"),
    Bug("lanes: no token is a token", "lanes",
        "tl.maximum(tl.load(chosen + lane, mask=live, other=0), 0)", "tl.load(chosen + lane, mask=live, other=0)",
        "advance_rows"),
    Bug("lanes: the next choice has the randomness of this one", "lanes",
        "(at + 1).to(tl.int64)", "at.to(tl.int64)", "fill_lanes"),
    Bug("fsm: a request without a machine loses its mask", "automaton",
        "tl.store(mask_rows + request, row, mask=bound)",
        "tl.store(mask_rows + request, tl.where(bound, row, -1), mask=real)", "fsm_advance"),
    Bug("fsm: the width of another machine", "automaton",
        "+ state * width", "+ state * 5", "fsm_advance"),
    Bug("fsm: a token that may not follow is followed", "automaton",
        "state = tl.where(allowed, following, state)", "state = tl.where(chosen, following, state)", "fsm_advance"),
    Bug("int4: the nibbles change places", "linear",
        "low = ((packed & 15)", "low = ((packed >> 4)", "quantized_linear: 4"),
    Bug("int4: two bytes change places in bfloat16", "linear",
        "prmt.b32 $3, high, 0x43434343, 0x4342", "prmt.b32 $3, high, 0x43434343, 0x4243",
        "quantized_linear: 4 bits, group 128, 17"),
    Bug("int4: levels are one too high in bfloat16", "linear",
        "0xC308C308", "0xC307C307", "quantized_linear: 4 bits, group 128, 17"),
    Bug("splits: each reads the first one's inputs", "linear",
        "first = tl.program_id(1) * each", "first = tl.program_id(1) * 0", "quantized_linear_split"),
    Bug("splits: one comes twice, and another not at all", "linear",
        "at += num_rows * num_columns", "at += 0", "quantized_linear_split"),
    Bug("splits: the next product finds the count of this one", "linear",
        "tl.store(arrived + tl.program_id(0), 0)", "tl.store(arrived + tl.program_id(0), 1)",
        "quantized_linear_split"),
    Bug("int4: one scale for all groups", "linear",
        "scale + column * num_groups + group", "scale + column * num_groups", "quantized_linear: 4"),
    Bug("int4: a last group of inputs is taken for whole", "linear",
        "real = real & (at < num_inputs)[None, :]", "real = real & (at >= 0)[None, :]",
        "quantized_linear: 4 bits, 150"),
    Bug("int4: a group of the padding counts for the next output", "linear",
        "line = column[:, None].to(tl.int64) * (num_groups * (GROUP // 2))",
        "line = column[:, None].to(tl.int64) * (num_inputs // 2)",
        "quantized_linear: 4 bits, 150"),
    Bug("widen: the scale of the first group", "linear",
        "factor = tl.load(scale + column * num_groups + group, mask=real,",
        "factor = tl.load(scale + column * num_groups, mask=real,", "widen: 4"),
    Bug("widen: the halves of a group change places", "linear",
        "_store_wide(high, factor, out, column, at + GROUP // 2,",
        "_store_wide(low, factor, out, column, at + GROUP // 2,",
        "widen: 4"),
    Bug("widen: what follows the last input is written", "linear",
        "mask = mask & (at < num_inputs)[None, :]", "mask = mask & (at >= 0)[None, :]", "widen: 8"),
    Bug("experts: an expert's last block begins the next one's", "grouping",
        "blocks = (counts + BLOCK_ROWS - 1) // BLOCK_ROWS", "blocks = counts // BLOCK_ROWS", "expert_linear: 21"),
    Bug("experts: the expert before is taken", "grouping",
        "(tl.cumsum(blocks, 0) <= block)", "(tl.cumsum(blocks, 0) < block)", "expert_linear: 21"),
    Bug("experts: every block is an expert's first", "grouping",
        "row = first * BLOCK_ROWS + tl.arange", "row = 0 * first + tl.arange", "expert_linear: 21"),
    Bug("experts: pairs behind the last are written", "experts",
        "mask = real_row[:, None] & real_column[None, :]", "mask = (pair >= 0)[:, None] & real_column[None, :]",
        "expert_linear: 21"),
    Bug("experts: a pair's row is that of its number", "experts",
        "(pair // CHOICES)[:, None]", "pair[:, None]", "expert_linear: 21"),
    Bug("experts: inputs behind the last count", "experts",
        "inside = (start + inner < num_inputs)[None, :]", "inside = (start + inner >= 0)[None, :]",
        "expert_linear: 21"),
    Bug("route: an expert is chosen twice", "experts",
        "rest = tl.where(at == which, -2.0, rest)", "rest = tl.where(at == PADDED, -2.0, rest)", "route: some"),
    Bug("route: of equal scores the last", "experts",
        "which = tl.min(tl.where(rest == best, at, PADDED), 0)", "which = tl.max(tl.where(rest == best, at, -1), 0)",
        "route: some"),
    Bug("route: the weights of all experts sum to 1", "experts",
        "    if NORMALISED:\n", "    if NORMALISED and EXPERTS < 0:\n", "route: some"),
    Bug("adapters: a token has the adapter of its number", "low_rank",
        "mask=token < num_tokens, other=0) - 1", "mask=token < num_tokens, other=0)", "low_rank: rank 16"),
    Bug("adapters: who has none is of the last", "low_rank",
        "real = (number >= 0) & (number < ADAPTERS)",
        "number = tl.where(number < 0, ADAPTERS - 1, number)\n    real = number < ADAPTERS", "low_rank: rank 16"),
    Bug("adapters: every split reads the first inputs", "low_rank",
        "tl.range(split * SPLIT_INPUTS, end,", "tl.range(0, end - split * SPLIT_INPUTS,", "low_rank: rank 16"),
    Bug("adapters: a split goes on into the next", "low_rank",
        "end = tl.minimum((split + 1) * SPLIT_INPUTS, num_inputs)", "end = num_inputs", "low_rank: rank 16"),
    Bug("adapters: the last split is left out", "low_rank",
        "for split in tl.static_range(SPLITS):", "for split in tl.static_range(SPLITS - 1):", "low_rank: rank 16"),
    Bug("adapters: every part has the first one's values", "low_rank",
        "* (PARTS * RANK) + part * RANK", "* (PARTS * RANK)", "low_rank: two parts"),
    Bug("adapters: a part's tile takes all columns", "low_rank",
        "own = (column >= begin) & (column < end)", "own = column < num_columns", "low_rank: parts that end"),
    Bug("adapters: what was there is forgotten", "low_rank",
        "    sums += tl.load(target, mask=mask, other=0.0).to(tl.float32)\n", "", "low_rank: rank 16"),
    Bug("adapters: padding of the rank is read", "low_rank",
        "real_inner = inner < RANK", "real_inner = inner >= 0", "low_rank: rank 8"),
    Bug("adapters: another adapter's A", "low_rank",
        "line = adapter.to(tl.int64) * num_values + value", "line = value.to(tl.int64)", "low_rank: every token"),
    Bug("combine: the weight of the token's first choice", "experts",
        "tl.load(weight + pair)", "tl.load(weight + token * CHOICES)", "combine"),
    Bug("int8: the bias is left out", "linear", "    if bias is not None:\n", "    if bias is None and num_rows < 0:\n",
        "quantized_linear: 8"),
    Bug("cpu int8: the sign is lost", "kernels/cpu/levels",
        "np.abs(padded) | (padded & -128)", "np.abs(padded)", "test_a_product_equals"),
    Bug("cpu int4: the nibbles change places", "kernels/cpu/levels",
        "ordered[..., ::2] | ordered[..., 1::2] << 4", "ordered[..., 1::2] | ordered[..., ::2] << 4",
        "test_a_product_equals"),
    Bug("cpu int4: the scale of the group before", "kernels/cpu/matrix",
        "_add_scaled(scratch.part[r], scales[chunk], scratch.sums[r])",
        "_add_scaled(scratch.part[r], scales[chunk - 1], scratch.sums[r])", "test_a_product_equals"),
    Bug("cpu int8: a chunk forgets those before it", "kernels/cpu/matrix",
        "scratch.sums, PANEL, chunk,", "scratch.sums, PANEL, 0,", "test_a_product_equals"),
    Bug("cpu int8: scales of another panel", "kernels/cpu/matrix",
        ", matrix.scales[layer, panel]\n", ", matrix.scales[layer, 0]\n",
        "test_a_product_equals"),
    Bug("cpu adapters: a tile's rows are those of its number", "kernels/cpu/low_rank",
        "to = sums[adapted.rows[first + i] - row]", "to = sums[first + i]", "test_what_adapters_add"),
    Bug("cpu adapters: every part has the first one's values", "kernels/cpu/low_rank",
        "adapted.values[first:, low.part[piece] * width :]", "adapted.values[first:]", "test_what_adapters_add"),
    Bug("cpu adapters: columns of another part are its own", "kernels/cpu/low_rank",
        "np.where(own[:, None], b[rows[columns]], stored.type(0))", "b[rows[columns]]", "test_what_adapters_add"),
    Bug("cpu adapters: tiles reach into the next block", "kernels/cpu/low_rank",
        "keys = found // PRODUCT_ROWS << 32 | adapters[found]", "keys = adapters[found].astype(np.int64)",
        "test_rows_lie_in_tiles"),
    Bug("runner: the gate and what it opens change places", "runtime/models/placing",
        "levels(joined(layer.gate_up), layer", "levels(joined(layer.gate_up[::-1]), layer", "weights in int4"),
    Bug("runner: the head in four bits", "runtime/models/placing", "head_bits, kernels.INT4_GROUP)",
        "bits, kernels.INT4_GROUP)", "weights in int4"),
    Bug("runner: the pool is of the model's type", "runtime/models/device_runner",
        "kv_dtype or decoder.dtype", "decoder.dtype", "K/V in int8"),
    Bug("runner: one line of masks for all rows", "runtime/models/device_state",
        "        line = self._first + row\n", "        line = self._first\n",
        "a constraint that is too big, beside one that is not"),
    Bug("runner: a row's position is one late", "runtime/models/device_state",
        "position = segment.start + len(segment.token_ids) - 1", "position = segment.start + len(segment.token_ids)",
        "one, greedy"),
    Bug("runner: slots go to the beginning of their row", "runtime/models/device_state",
        "row * self._known.shape[1] + start + differs", "row * self._known.shape[1] + differs", "one, greedy"),
    Bug("runner: a mask that the machine moved is taken for known", "runtime/models/device_state",
        "        self._mask_row.pop(segment.row, None)\n", "", "a row that is free, held by a machine, and free again"),
    Bug("runner: another machine's line", "runtime/models/device_state",
        "mask_row = place.block * MAX_STATES + place.state", "mask_row = place.state",
        "two constraints sampled token by token"),
    Bug("runner: the token of another row", "runtime/models/device_runner",
        "np.repeat(batch.rows, counts)", "np.repeat(batch.rows[::-1], counts)", "one joins, one leaves"),
    Bug("runner: tokens are read where the next step writes", "runtime/models/device_runner",
        "self._ring[self._num_launched % len(self._ring)]", "self._ring[0]", "one, greedy"),
    Bug("runner: who is in which lane is looked at once", "runtime/models/decode_program",
        "who != self._who or groups != self._groups", "self._who is None", "one joins, one leaves"),
    Bug("runner: a lane keeps the adapter of who was there before", "runtime/models/decode_program",
        "_block(s), s.adapter)", "_block(s), 0)", "two adapters and none"),
    Bug("runner: lanes in the order of the samplers' seeds", "runtime/models/decode_program",
        "row[:num] = [segment.row for segment in segments]", "row[:num] = [segment.row for segment in segments][::-1]",
        "five at once, drawn in every way"),
]  # fmt: skip


def is_caught(bug: Bug) -> bool:
    """Run the bug's cases, or its program, against a copy of the package that has it."""
    module = (
        "tests.runtime.models.device_programs"
        if bug.is_of_the_runner
        else "tests.kernels.interpreted"
    )
    command = [sys.executable, "-m", module, bug.cases]
    if bug.is_of_the_cpu:
        test = str(bug.tests_of_the_cpu)
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "--noconftest",
            test,
            "-k",
            bug.cases,
        ]
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "branchwork"
        left_out = shutil.ignore_patterns("__pycache__", "sprout", "page", "compat", "lang")
        shutil.copytree(ROOT / "src" / "branchwork", package, ignore=left_out)
        (package / "__init__.py").write_text("")
        path = package / bug.path
        source = path.read_text()
        assert bug.right in source, f"{bug.name}: its place is gone from {bug.path}"
        path.write_text(source.replace(bug.right, bug.wrong, 1))
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": folder, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
    if bug.is_of_the_cpu:
        assert "passed" in done.stdout or "failed" in done.stdout, done.stdout[-2000:]
        return "AssertionError" in done.stdout
    assert f'{{"starts": "{bug.cases}' in done.stdout, done.stderr[-2000:]
    found_wrong = '"wrong": "' in done.stdout
    died = (
        done.returncode < 0 or "InterpreterError" in done.stderr or "AssertionError" in done.stderr
    )
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
