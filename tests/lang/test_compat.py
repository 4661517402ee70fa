"""What programs written for SGLang's frontend import."""

import subprocess
import sys
from pathlib import Path

import pydantic
import pytest

import branchwork as bw
from branchwork.compat import utils
from branchwork.compat.lang import ir
from branchwork.compat.lang.backend.base_backend import BaseBackend
from branchwork.compat.lang.chat_template import get_chat_template
from branchwork.compat.srt.constrained.outlines_backend import build_regex_from_object
from branchwork.compat.srt.parser.reasoning_parser import ReasoningParser
from branchwork.compat.srt.utils import load_image
from branchwork.compat.test.test_utils import dump_bench_raw_result
from branchwork.lang.choices import (
    greedy_token_selection,
    token_length_normalized,
    unconditional_likelihood_normalized,
)
from branchwork.lang.testing.scripted import Scripted
from branchwork.runtime.wire.errors import ProgramError

NAMES = (
    *("function", "gen", "gen_int", "gen_string", "select", "image", "video", "separate_reasoning"),
    *("system", "user", "assistant", "system_begin", "system_end", "user_begin", "user_end"),
    *("assistant_begin", "assistant_end", "set_default_backend", "flush_cache", "get_server_info"),
    *("Runtime", "RuntimeEndpoint", "Engine", "OpenAI", "Anthropic", "LiteLLM", "global_config"),
    *("greedy_token_selection", "token_length_normalized", "unconditional_likelihood_normalized"),
)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_of_the_reference_frontend_is_there(name: str) -> None:
    assert getattr(bw, name) is not None
    assert name in bw.__all__


def test_sglang_itself_can_be_answered_for() -> None:
    code = """
import branchwork.compat; branchwork.compat.install()
import sglang as sgl
from sglang import function, gen, RuntimeEndpoint
from sglang.lang.ir import REGEX_INT, SglSelect
from sglang.lang.choices import token_length_normalized
from sglang.lang.interpreter import ProgramState
from sglang.lang.backend.base_backend import BaseBackend
from sglang.lang.chat_template import get_chat_template
from sglang.lang.api import set_default_backend
from sglang.global_config import global_config
from sglang.utils import read_jsonl, dump_state_text, http_request, wait_for_server
from sglang.test.test_utils import add_common_sglang_args_and_parse, select_sglang_backend, CustomTestCase
from sglang.srt.constrained.outlines_backend import build_regex_from_object
from sglang.srt.hf_transformers_utils import get_tokenizer
from sglang.srt.utils import is_hip, load_image
from sglang.srt.utils.hf_transformers_utils import get_tokenizer
from sglang.srt.parser.reasoning_parser import ReasoningParser
from sglang.lang.interpreter import StreamExecutor
from sglang.test.test_utils import dump_bench_raw_result
import sys
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


SCORES = {
    "choices": ["an", "ant", "elephant"],
    "normalized_prompt_logprobs": [-0.2, -0.3, -0.1],
    "input_token_logprobs": [
        [[-0.2, 1, None]],
        [[-0.2, 1, None], [-0.4, 2, None]],
        [[-0.5, 3, None], [-0.1, 4, None], [-0.1, 5, None], [-0.1, 6, None]],
    ],
    "output_token_logprobs": [[], [], []],
    "unconditional_token_logprobs": [
        [[None, 1, None]],
        [[None, 1, None], [-2.0, 2, None]],
        [[None, 3, None], [-0.1, 4, None], [-0.1, 5, None], [-0.1, 6, None]],
    ],
}


def test_the_three_methods_decide_as_the_reference_says() -> None:
    assert token_length_normalized(**SCORES).decision == "elephant"  # type: ignore[arg-type]
    greedy = greedy_token_selection(**SCORES)  # type: ignore[arg-type]
    assert greedy.decision == "an"
    assert greedy.meta_info is not None
    assert greedy.meta_info["greedy_logprob_matrix"][0] == pytest.approx([-0.2] * 4)
    assert greedy.meta_info["greedy_logprob_matrix"][1] == pytest.approx([-0.2, -0.4, -0.3, -0.3])
    alone = unconditional_likelihood_normalized(**SCORES)  # type: ignore[arg-type]
    assert alone.decision == "ant"
    assert alone.meta_info is not None
    gains = alone.meta_info["normalized_unconditional_prompt_logprobs"]
    assert gains == pytest.approx([-0.2, 0.7, -0.125])


def test_separate_reasoning_is_an_expression_list_with_a_mark() -> None:
    inner = bw.gen("test")
    expr = bw.separate_reasoning(inner, model_type="anything")
    assert isinstance(expr, ir.SglExprList)
    assert expr.expr_list[0] is inner
    mark = expr.expr_list[1]
    assert isinstance(mark, ir.SglSeparateReasoning)
    assert repr(mark) == "SeparateReasoning(model_type=anything, name=test_reasoning_content)"


def test_an_unknown_model_type_is_refused_when_it_is_used() -> None:
    expr = bw.user("?") + bw.assistant(bw.separate_reasoning(bw.gen("a"), model_type="nobody"))
    with pytest.raises(ProgramError, match="model_type 'nobody' is none of deepseek-r1"):
        bw.function(lambda s: s.append(expr)).run(backend=Scripted())


def test_a_reasoning_parser_takes_texts_apart() -> None:
    assert ReasoningParser("deepseek-r1").parse_non_stream("hm</think>yes") == ("hm", "yes")
    assert ReasoningParser("deepseek-r1").parse_non_stream("still thinking") == (
        "still thinking",
        "",
    )
    assert ReasoningParser("qwen3").parse_non_stream("yes") == ("", "yes")
    assert ReasoningParser("qwen3").parse_non_stream("<think>\nhm\n</think>\n\nyes") == (
        "hm",
        "yes",
    )


def test_a_program_can_be_compiled_for_a_base_backend() -> None:
    backend = BaseBackend()
    backend.chat_template = get_chat_template("llama-2-chat")

    @bw.function
    def chat(s: bw.State) -> None:
        s += bw.user("Who?") + bw.assistant(bw.gen("a"))

    assert chat.compile(backend=backend).run(backend=Scripted({"a": "I"}))["a"] == "I"


def test_a_pattern_is_built_from_a_pydantic_model() -> None:
    class Wizard(pydantic.BaseModel):
        name: str
        age: int

    assert "age" in build_regex_from_object(Wizard)


def test_json_lines_are_read_and_states_are_dumped(tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text('# a comment\n{"a": 1}\n{"a": 2}\n')
    assert [row["a"] for row in utils.read_jsonl(str(data))[:5]] == [1, 2]
    state = bw.function(lambda s: s.append("said")).run(backend=Scripted())
    utils.dump_state_text(str(tmp_path / "out.txt"), [state, "plain"])
    assert "said" in (tmp_path / "out.txt").read_text()
    assert str(state) == "ProgramState(said)"


def test_results_of_a_benchmark_are_dumped_line_by_line(tmp_path: Path) -> None:
    program = bw.function(lambda s: s.append("Q" + bw.gen("answer")))
    states = program.run_batch([{}, {}], backend=Scripted({"answer": "A"}))
    dump_bench_raw_result(str(tmp_path / "raw.jsonl"), states, ["A", "B"], ["A", "A"])
    rows = utils.read_jsonl(str(tmp_path / "raw.jsonl"))
    assert rows[0] == {"prompt_id": 0, "prompt": "Q", "output": "A", "correct": True}
    assert [row["correct"] for row in rows] == [True, False]
    dump_bench_raw_result(None, states, [], [])


def test_an_image_is_loaded_as_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"png")
    assert load_image(str(tmp_path / "a.png")) == load_image(b"png") == (b"png", None)


def test_a_video_is_refused_by_a_model_that_reads_text() -> None:
    with pytest.raises(ProgramError, match="a video cannot be shown to scripted"):
        bw.function(lambda s: s.append(bw.video("cat.mp4", 4))).run(backend=Scripted())


def test_the_decorated_function_is_func() -> None:
    def named(s: bw.State) -> None: ...

    assert bw.function(num_api_spec_tokens=64)(named).func.__name__ == "named"
