"""Programs in the style that the reference frontend is tested with, on the embedded model and on the mock.

On both they must run and keep their form; on sprout they must also make sense.
"""

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

import branchwork as bw
from branchwork.lang.holes import REGEX_INT, REGEX_STR
from branchwork.runtime.wire.backend import Backend
from branchwork.testing import mock_runtime

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module", params=["sprout", "mock"])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    if request.param == "mock":
        with mock_runtime() as mock:
            yield mock
    else:
        with bw.Runtime() as runtime:
            yield runtime


@pytest.fixture
def sensible(backend: Backend) -> bool:
    """Whether answers are worth reading."""
    return backend.welcome.model == "sprout"


@bw.function
def few_shot(s: bw.State, question: str) -> None:
    s += "Q: What is the capital of France?\nA: Paris\n"
    s += "Q: What is the capital of Italy?\nA: Rome\n"
    s += "Q: " + question + "\nA:" + bw.gen("answer", 16, stop="\n")


def test_few_shot_questions_alone_and_in_a_batch(backend: Backend, sensible: bool) -> None:
    countries = ["Japan", "Egypt", "Norway"]
    questions = [f"What is the capital of {country}?" for country in countries]
    one = few_shot.run(question=questions[0], temperature=0, backend=backend)
    batch = few_shot.run_batch([{"question": q} for q in questions], temperature=0, backend=backend)
    assert batch[0]["answer"] == one["answer"]
    assert "\n" not in one["answer"]
    if sensible:
        assert [state["answer"].strip() for state in batch] == ["Tokyo", "Cairo", "Oslo"]


def test_a_chat_of_two_turns(backend: Backend, sensible: bool) -> None:
    @bw.function
    def chat(s: bw.State, first: str, second: str) -> None:
        s += bw.system("You are a helpful assistant.")
        s += bw.user(first) + bw.assistant(bw.gen("one"))
        with s.user():
            s += second
        with s.assistant():
            s += bw.gen("two")

    state = chat.run(
        first="My name is Nora.",
        second="What is my name?",
        temperature=0,
        max_new_tokens=24,
        backend=backend,
    )
    assert [message["role"] for message in state.messages()] == [
        "system", "user", "assistant", "user", "assistant",
    ]  # fmt: skip
    if sensible:
        assert "Nora" in state["two"]


def test_select_tells_praise_from_blame(backend: Backend, sensible: bool) -> None:
    @bw.function
    def classify(s: bw.State, review: str) -> None:
        s += f"Review: {review}\nSentiment:" + bw.select("answer", [" positive", " negative"])

    praise = classify.run(review="What a delightful concert!", backend=backend)
    blame = classify.run(review="I hated the hotel. One star.", backend=backend)
    info = praise.get_meta_info("answer")
    assert len(info["normalized_prompt_logprobs"]) == len(info["input_token_logprobs"]) == 2
    if sensible:
        assert (praise["answer"], blame["answer"]) == (" positive", " negative")


@pytest.mark.parametrize(
    "method",
    [bw.token_length_normalized, bw.greedy_token_selection, bw.unconditional_likelihood_normalized],
)
def test_every_choices_method_chooses_one_of_the_choices(backend: Backend, method: Any) -> None:
    @bw.function
    def choose(s: bw.State) -> None:
        s += "The sky is" + bw.select(
            "a", [" blue", " blueish grey", " made of tin"], choices_method=method
        )

    state = choose.run(backend=backend)
    assert state["a"] in (" blue", " blueish grey", " made of tin")
    assert state.text().endswith(state["a"])


def test_integers_are_decoded(backend: Backend, sensible: bool) -> None:
    @bw.function
    def numbers(s: bw.State) -> None:
        s += "Q: How many hours are in a day?\nA: " + bw.gen_int("hours", 8) + "\n"
        s += "Q: How many days are in a week?\nA: " + bw.gen("days", 8, type=int) + "\n"

    state = numbers.run(temperature=0, backend=backend)
    assert isinstance(state["days"], int)
    if sensible:
        assert (int(state["hours"]), state["days"]) == (24, 7)


def test_json_is_decoded_slot_by_slot(backend: Backend) -> None:
    @bw.function
    def decode(s: bw.State) -> None:
        s += "A JSON record about Paris.\n"
        with s.var_scope("json"):
            s += '{\n  "name": ' + bw.gen(regex=REGEX_STR, max_tokens=24) + ",\n"
            s += (
                '  "population": ' + bw.gen(regex=REGEX_INT, stop=[" ", "\n"], max_tokens=8) + ",\n"
            )
            s += '  "country": ' + bw.gen_string(max_tokens=24) + ",\n"
            s += '  "area": ' + bw.gen(dtype=int, max_tokens=8) + "\n}"

    found = json.loads(decode.run(temperature=0, backend=backend)["json"])
    assert set(found) == {"name", "population", "country", "area"}


def test_a_tool_is_used_between_two_slots(backend: Backend, sensible: bool) -> None:
    @bw.function
    def calculate(s: bw.State, sum_: str) -> None:
        s += "Actions: Search[topic], Calculate[sum], Finish[answer].\n\n"
        s += f"Question: What is {sum_}?\nThought: I need to calculate {sum_}.\nAction: Calculate["
        s += bw.gen("expression", 16, stop="]") + "]\nObservation: "
        with s.var_scope("result"):
            s += str(len(s["expression"]))

    state = calculate.run(sum_="31 + 24", temperature=0, backend=backend)
    assert state["result"] == str(len(state["expression"]))
    if sensible:
        assert state["expression"] == "31 + 24"


def test_a_loop_chooses_and_goes_on(backend: Backend) -> None:
    @bw.function
    def react(s: bw.State, question: str) -> None:
        s += f"Question: {question}\n"
        for i in range(1, 4):
            s += f"Thought {i}:" + bw.gen(stop=[".", "\n"], max_tokens=16) + ".\n"
            s += f"Action {i}: " + bw.select(f"action_{i}", ["Search", "Finish"])
            if s[f"action_{i}"] == "Finish":
                s += " [" + bw.gen("answer", 16, stop="]") + "].\n"
                break
            s += " [" + bw.gen(stop="]", max_tokens=16) + "].\n"

    state = react.run(question="Where does Linus live?", temperature=0, backend=backend)
    assert state["action_1"] in ("Search", "Finish")


def test_parallel_decoding_gathers_its_forks(backend: Backend) -> None:
    @bw.function
    def tips(s: bw.State, topic: str) -> None:
        s += f"Tips for {topic}:\n"
        for i in range(1, 4):
            s += f"{i}." + bw.gen(max_tokens=8, stop=[".", "\n"]) + ".\n"
        forks = s.fork(3)
        for i in range(3):
            forks[i] += f"Now tip {i + 1} in detail:" + bw.gen("detail", 12, stop="\n\n")
        forks.join()
        s += "Details:\n" + "".join(f"{i}. {text}\n" for i, text in enumerate(s["detail"]))
        s += "In summary," + bw.gen("summary", 12)

    state = tips.run(topic="staying healthy", temperature=0.3, seed=1, backend=backend)
    assert len(state["detail"]) == 3
    assert isinstance(state["summary"], str)


def test_parallel_encoding_appends_its_forks(backend: Backend, sensible: bool) -> None:
    @bw.function
    def read(s: bw.State, question: str, texts: list[str]) -> None:
        s += "Answer the question from the text.\n"
        forks = s.fork(len(texts))
        forks += lambda i: f"Document {i + 1}: {texts[i]}\n"
        forks.join(mode="concate_and_append")
        s += f"Question: {question}\nAnswer:" + bw.gen("answer", 8, stop="\n")

    texts = [
        "Ada Berg is 36 years old.",
        "Tom Ferro lives in Lisbon.",
        "Ines Hald works as a pilot.",
    ]
    state = read.run(
        question="Where does Tom Ferro live?", texts=texts, temperature=0, backend=backend
    )
    assert all(text in state.text() for text in texts)
    if sensible:
        assert state["answer"].strip() == "Lisbon"


def test_streams_are_the_text(backend: Backend) -> None:
    @bw.function
    def ask(s: bw.State, question: str) -> None:
        s += bw.user(question) + bw.assistant(bw.gen("answer", 24))

    whole = ask.run(question="Who are you?", temperature=0, backend=backend)
    stream = ask.run(question="Who are you?", temperature=0, stream=True, backend=backend)
    assert "".join(stream.text_iter("answer")) == whole["answer"]
    stream = ask.run(question="Who are you?", temperature=0, stream=True, backend=backend)
    assert "".join(stream.text_iter()) == whole.text()


def test_a_stream_carries_logprobs(backend: Backend) -> None:
    @bw.function
    def ask(s: bw.State) -> None:
        s += "Q: What colour is the sky?\nA:" + bw.gen(
            "answer", 8, return_logprob=True, top_logprobs_num=2, return_text_in_logprobs=True
        )

    async def main() -> int:
        state = await ask.arun(stream=True, temperature=0, backend=backend)
        counts = [
            len(meta["output_token_logprobs"])
            async for _, meta in state.text_async_iter("answer", return_meta_data=True)
        ]
        meta = state.get_meta_info("answer")
        assert sum(counts) == len(meta["output_token_logprobs"])
        assert all(len(top) == 2 for top in meta["output_top_logprobs"])
        return int(meta["completion_tokens"]) - len(meta["output_token_logprobs"])

    assert asyncio.run(main()) == 0


def test_a_pattern_is_held(backend: Backend) -> None:
    pattern = r"((25[0-5]|2[0-4]\d|[01]?\d\d?)\.){3}(25[0-5]|2[0-4]\d|[01]?\d\d?)"

    @bw.function
    def address(s: bw.State) -> None:
        s += "The address of the server is " + bw.gen("ip", 24, regex=pattern)

    assert re.fullmatch(pattern, address.run(temperature=0, backend=backend)["ip"], re.ASCII)


def test_dtypes_give_what_they_say(backend: Backend) -> None:
    @bw.function
    def dtypes(s: bw.State) -> None:
        s += "text " + bw.gen("str", dtype=str, max_tokens=16, stop="\n") + "\n"
        s += "int " + bw.gen("int", dtype=int, max_tokens=8) + "\n"
        s += "float " + bw.gen("float", dtype=float, max_tokens=8) + "\n"
        s += "bool " + bw.gen("bool", dtype=bool, max_tokens=8) + "\n"

    state = dtypes.run(temperature=0, backend=backend)
    int(state["int"])
    float(state["float"])
    assert state["bool"] in ("True", "False")
    assert state["str"].startswith('"')


def test_an_answer_has_at_least_so_many_tokens(backend: Backend) -> None:
    @bw.function
    def long_answer(s: bw.State) -> None:
        s += bw.user("Hi") + bw.assistant(bw.gen("a", min_tokens=20, max_tokens=24))

    info = long_answer.run(temperature=0, backend=backend).get_meta_info("a")
    assert 20 <= info["completion_tokens"] <= 24


def test_a_sampled_answer_repeats_with_its_seed(backend: Backend) -> None:
    @bw.function
    def draw(s: bw.State) -> None:
        s += "Once" + bw.gen("a", 16, n=3)

    first, second = (draw.run(seed=5, temperature=1.5, backend=backend) for _ in range(2))
    assert first["a"] == second["a"]
    assert len(set(first["a"])) > 1


def test_the_prefix_can_be_warmed_and_the_cache_flushed(backend: Backend) -> None:
    assert bw.flush_cache(backend)
    few_shot.cache(backend)
    info = few_shot.run(question="What?", temperature=0, backend=backend).get_meta_info("answer")
    assert info["cached_tokens"] > 10
    info = bw.get_server_info(backend) or {}
    assert info["slots_cached"] > 0
