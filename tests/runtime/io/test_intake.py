"""Instructions of one client become operations: pure, with an encoder whose tokens are characters."""

from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from branchwork.runtime.grammar.interface import Grammar
from branchwork.runtime.grammar.stops import StopTable
from branchwork.runtime.inbox import (
    Append,
    BranchKey,
    Choose,
    ClientGone,
    CloseBranch,
    Control,
    EmbedBranch,
    FailBranch,
    Generate,
    GrammarReady,
    OpenBranch,
    Operation,
)
from branchwork.runtime.io import intake
from branchwork.runtime.io.intake import Encoding, Intake, Taken
from branchwork.runtime.io.passages import Passage
from branchwork.runtime.wire.config import RuntimeConfig
from branchwork.runtime.wire.errors import ConstraintError, InvalidParameter, QueueFull
from branchwork.runtime.wire.messages import (
    Abort,
    Chat,
    ChatMessage,
    Close,
    Closed,
    Constraint,
    Done,
    Embed,
    Failed,
    Gen,
    Instruction,
    Open,
    Regex,
    RuntimeMessage,
    Select,
    Text,
    Usage,
)
from branchwork.runtime.wire.validate import Limits

LIMITS = Limits(
    vocab_size=256,
    context_len=1000,
    max_text_bytes=100_000,
    max_choices=4,
    max_stops=2,
    max_stop_bytes=8,
    max_logprobs=5,
    max_logit_bias=2,
    max_schema_bytes=200,
    adapters=("poet", "sql"),
)
BOS = 1


class Characters:
    """Each character is a token; a plain text at the start gets a BOS."""

    def encode(self, texts: Any, at_start: bool) -> tuple[int, ...]:
        passages: list[Passage] = []
        for text in texts:
            passages += self.render(text) if isinstance(text, Chat) else [text]
        token_ids = tuple("".join(passage.text for passage in passages).encode())
        return (BOS, *token_ids) if at_start and not passages[0].special else token_ids

    def render(self, chat: Chat) -> list[Passage]:
        if chat.messages[0].role == "nobody":
            raise InvalidParameter("no such role", "messages")
        if chat.messages[0].role == "bug":
            raise ZeroDivisionError
        return [Passage(message.content, special=True) for message in chat.messages]


class Compiler:
    def __init__(self) -> None:
        self.futures: list[Future[Grammar]] = []
        self.stops: list[Future[StopTable]] = []

    def submit(self, constraint: Constraint) -> "Future[Grammar]":
        if constraint == Regex("("):
            raise ConstraintError("unclosed group at position 0", "0")
        self.futures.append(Future())
        return self.futures[-1]

    def submit_stop(self, pattern: str) -> "Future[StopTable]":
        self.stops.append(Future())
        return self.stops[-1]


class Client:
    """An intake with what comes out of it."""

    def __init__(self, max_branches: int = 100, max_client_bytes: int = 1 << 30) -> None:
        self.compiler = Compiler()
        self.late: list[Operation] = []
        self.encodings: list[tuple[Encoding, int, Future[tuple[int, ...]]]] = []
        self.intake = Intake(
            b"c",
            RuntimeConfig(max_branches=max_branches, max_client_bytes=max_client_bytes),
            LIMITS,
            Characters(),
            self.compiler,
            self.late.append,
            self._begin,
        )

    def _begin(self, encoding: Encoding, branch: int) -> "Future[tuple[int, ...]]":
        future: Future[tuple[int, ...]] = Future()
        self.encodings.append((encoding, branch, future))
        return future

    def finish(self) -> tuple[list[Operation], list[RuntimeMessage]]:
        """End the oldest encoding that runs on another thread."""
        encoding, branch, future = self.encodings.pop(0)
        try:
            future.set_result(encoding())
        except Exception as error:
            future.set_exception(error)
        taken = Taken()
        self.intake.resume(branch, taken)
        return taken.operations, taken.answers

    def send(self, *instructions: Instruction) -> tuple[list[Operation], list[RuntimeMessage]]:
        taken = Taken()
        for instruction in instructions:
            self.intake.take(instruction, taken)
        return taken.operations, taken.answers


def key(branch: int) -> BranchKey:
    return BranchKey(b"c", branch)


def ids(text: str) -> tuple[int, ...]:
    return tuple(text.encode())


def test_texts_are_joined_and_tokenised_when_another_instruction_comes() -> None:
    client = Client()
    assert client.send(Open(1), Text(1, "ab"), Text(1, "cd")) == ([OpenBranch(key(1))], [])
    gen = Gen(1, "x")
    assert client.send(gen) == ([Append(key(1), (BOS, *ids("abcd"))), Generate(key(1), gen)], [])
    assert client.send(Text(1, "e"), gen)[0] == [Append(key(1), ids("e")), Generate(key(1), gen)]


def test_a_close_that_meets_a_bug_of_ours_still_gives_the_memory_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = Client()
    client.send(Open(1))
    monkeypatch.setattr(Intake, "_close", lambda *_: 1 / 0)
    assert client.send(Close(1)) == ([CloseBranch(key(1), abort=True)], [])
    assert client.send(Close(2)) == ([], [Closed(2)])


def test_token_ids_are_taken_as_they_are_after_the_text_before_them() -> None:
    client = Client()
    operations, _ = client.send(Open(1), Text(1, "a"), Text(1, token_ids=(7, 8)), Text(1, "b"))
    assert operations[1:] == [Append(key(1), (BOS, *ids("a"))), Append(key(1), (7, 8))]
    assert client.send(Gen(1, "x"))[0][0] == Append(key(1), ids("b"))


def test_a_fork_has_all_that_was_written_before_and_no_start_of_its_own() -> None:
    client = Client()
    operations, _ = client.send(
        Open(1), Text(1, "a"), Open(2, parent=1), Text(2, "b"), Text(1, "c"), Gen(2, "x")
    )
    assert operations[1:4] == [
        Append(key(1), (BOS, *ids("a"))),
        OpenBranch(key(2), parent=key(1)),
        Append(key(2), ids("b")),
    ]


def test_a_fork_of_an_empty_branch_begins_like_one() -> None:
    client = Client()
    operations, _ = client.send(Open(1), Open(2, parent=1), Text(2, "b"), Gen(2, "x"))
    assert operations[2] == Append(key(2), (BOS, *ids("b")))


def test_a_chat_is_rendered_and_joined_with_the_texts_around_it() -> None:
    client = Client()
    chat = Chat(1, (ChatMessage("user", "hi"), ChatMessage("assistant", "ho")))
    operations, _ = client.send(Open(1), chat, Text(1, "!"), Gen(1, "x"))
    assert operations[1] == Append(key(1), ids("hiho!"))


def test_a_text_that_nothing_follows_is_never_tokenised() -> None:
    client = Client()
    assert client.send(Open(1), Text(1, "a"), Close(1)) == (
        [OpenBranch(key(1)), CloseBranch(key(1))],
        [],
    )


def test_slots_of_each_kind_reach_the_engine() -> None:
    client = Client()
    select, embed = Select(1, "s", ("a", "b")), Embed(1, "e")
    operations, _ = client.send(Open(1), select, embed)
    assert operations[1:] == [Choose(key(1), select), EmbedBranch(key(1), embed)]


def test_a_grammar_is_compiled_elsewhere_and_announced_when_it_is_ready() -> None:
    client = Client()
    operations, _ = client.send(Open(1), Gen(1, "x", constraint=Regex("a+")))
    assert isinstance(operations[1], Generate)
    assert operations[1].grammar is client.compiler.futures[0]
    assert client.late == []
    client.compiler.futures[0].set_exception(ConstraintError("no", "0"))
    assert client.late == [GrammarReady(key(1))]


def test_what_is_wrong_with_a_slot_fails_it_in_its_turn() -> None:
    client = Client()
    client.send(Open(1))
    assert client.send(Gen(1, "x", constraint=Regex("(")))[0] == [
        FailBranch(key(1), "x", "invalid_constraint", "unclosed group at position 0", "0")
    ]
    assert client.send(Gen(1, "y", logprobs=99))[0] == [
        FailBranch(
            key(1), "y", "invalid_parameter", "logprobs 99 is not between 0 and 5", "logprobs"
        )
    ]


@pytest.mark.parametrize(
    "instruction",
    [Text(1, token_ids=(999,)), Chat(1, (ChatMessage("nobody", ""),))],
    ids=["text", "chat"],
)
def test_what_is_wrong_without_a_slot_fails_the_branch(instruction: Instruction) -> None:
    client = Client()
    client.send(Open(1))
    (failed, *_), answers = client.send(instruction, Gen(1, "x"))
    assert isinstance(failed, FailBranch)
    assert (failed.slot, failed.code, answers) == (None, "invalid_parameter", [])


def test_a_bug_of_ours_fails_its_branch_and_no_other(caplog: pytest.LogCaptureFixture) -> None:
    client = Client()
    client.send(Open(1), Open(2))
    (failed, *_), _ = client.send(Chat(1, (ChatMessage("bug", ""),)), Gen(1, "x"))
    assert isinstance(failed, FailBranch)
    assert failed.code == "internal"
    assert client.send(Gen(2, "x"))[0] == [Generate(key(2), Gen(2, "x"))]
    assert "ZeroDivisionError" in caplog.text


def test_a_branch_that_could_not_be_opened_answers_for_itself() -> None:
    client = Client()
    operations, answers = client.send(Open(1, priority=9999), Text(1, "a"), Gen(1, "x"), Close(1))
    assert operations == []
    assert [type(answer) for answer in answers] == [Failed, Closed]
    assert isinstance(answers[0], Failed)
    assert (answers[0].slot, answers[0].param) == ("x", "priority")
    assert client.intake.num_branches == 0


def test_a_branch_of_an_adapter_reaches_the_engine_with_the_adapters_number() -> None:
    client = Client()
    operations, _ = client.send(Open(1), Open(2, adapter="sql"), Open(3, parent=2))
    assert operations == [
        OpenBranch(key(1)), OpenBranch(key(2), adapter=2), OpenBranch(key(3), key(2))
    ]  # fmt: skip


def test_a_branch_of_an_adapter_that_is_not_there_fails_in_its_slots() -> None:
    client = Client()
    operations, answers = client.send(Open(1, adapter="poets"), Text(1, "a"), Gen(1, "x"), Close(1))
    assert operations == []
    assert answers == [
        Failed(
            1,
            "x",
            "invalid_parameter",
            "there is no adapter 'poets'; there are poet, sql",
            "adapter",
        ),
        Closed(1),
    ]


@pytest.mark.parametrize("branch", [1, 99])
def test_a_slot_on_a_branch_that_is_not_open_fails(branch: int) -> None:
    client = Client()
    operations, answers = client.send(Gen(branch, "x"))
    assert operations == []
    assert answers == [
        Failed(branch, "x", "invalid_parameter", f"branch {branch} is not open", "branch")
    ]


def test_a_fork_of_a_branch_that_is_not_open_fails_in_its_slots() -> None:
    client = Client()
    operations, answers = client.send(Open(2, parent=1), Open(3, parent=2), Gen(3, "x"))
    assert operations == []
    assert [(a.branch, a.param) for a in answers if isinstance(a, Failed)] == [(3, "parent")]


def test_a_client_may_open_so_many_branches_and_no_more() -> None:
    client = Client(max_branches=2)
    operations, answers = client.send(Open(1), Open(2), Open(3), Gen(3, "x"))
    assert len(operations) == 2
    assert isinstance(answers[0], Failed)
    assert (answers[0].code, "--max-branches" in answers[0].message) == ("queue_full", True)
    client.send(*[Open(number) for number in range(10, 1000)])
    assert client.intake.num_branches <= 4


FULL = 1 << 16


def refusals(operations: list[Operation]) -> list[str | None]:
    return [one.slot for one in operations if isinstance(one, FailBranch)]


def test_a_client_may_have_so_many_bytes_waiting_and_no_more() -> None:
    client = Client(max_client_bytes=FULL)
    operations, _ = client.send(Open(1), Text(1, "a" * 40_000), Open(2), Text(2, "b" * 40_000))
    (failure,) = [one for one in operations if isinstance(one, FailBranch)]
    assert (failure.key.branch, failure.code) == (2, "queue_full")
    assert all(part in failure.message for part in ("40256", "65536", "--max-client-bytes"))
    assert refusals(client.send(Gen(1, "x"))[0]) == []


def test_what_is_closed_or_filled_makes_room() -> None:
    client = Client(max_client_bytes=FULL)
    long = Select(1, "x", ("a" * 40_000, "b"))
    client.send(Open(1))
    assert refusals(client.send(long)[0]) == []
    assert refusals(client.send(long)[0]) == ["x"]
    client.intake.sent(Done(1, "x", "stop", "", Usage()))
    client.intake.sent(Failed(1, "x", "queue_full", ""))
    client.send(Abort(1))
    client.intake.sent(Closed(1))
    client.send(Open(2))
    assert refusals(client.send(Text(2, "b" * 60_000))[0]) == []
    client.send(Close(2))
    client.intake.sent(Closed(2))
    assert client.intake._num_bytes == 0


def test_a_flood_of_empty_messages_is_bounded_too() -> None:
    client = Client(max_client_bytes=FULL)
    client.send(Open(1))
    operations, _ = client.send(*[Text(1, "")] * 1000)
    assert len(refusals(operations)) == 1000 - FULL // 256


def test_what_is_held_is_counted_once_and_let_go() -> None:
    client = Client(max_client_bytes=FULL)
    client.send(Open(1), Text(1, "a" * 5000), Gen(1, "x"))  # long: tokenised elsewhere
    client.send(Open(2, parent=1), Text(2, "b" * 5000), Close(2), Close(1))
    before = client.intake._num_bytes
    assert 10_000 < before < 12_000
    client.finish()
    while client.encodings:
        client.finish()
    assert client.intake._num_bytes == before
    client.intake.sent(Done(1, "x", "stop", "", Usage()))
    for branch in (1, 2):
        client.intake.sent(Closed(branch))
    assert client.intake._num_bytes == 0


def test_a_question_takes_room_until_it_is_answered() -> None:
    client = Client(max_client_bytes=FULL)
    client.intake.ask(60_000)
    with pytest.raises(QueueFull, match="--max-client-bytes"):
        client.intake.ask(60_000)
    client.intake.answered(60_000)
    client.intake.ask(60_000)


def test_each_close_has_one_closed() -> None:
    client = Client()
    assert client.send(Close(5))[1] == [Closed(5)]
    operations, answers = client.send(Open(1), Close(1), Close(1), Abort(1))
    assert operations[1:] == [CloseBranch(key(1)), CloseBranch(key(1), abort=True)]
    assert answers == []
    client.intake.sent(Closed(1))
    assert client.intake.num_branches == 0


def test_nothing_follows_a_close() -> None:
    client = Client()
    operations, answers = client.send(Open(1), Close(1), Gen(1, "x"), Open(2, parent=1))
    assert len(operations) == 2
    assert [answer.message for answer in answers if isinstance(answer, Failed)] == [
        "branch 1 is closed"
    ]


def test_a_branch_id_that_is_open_cannot_be_opened_again() -> None:
    client = Client()
    operations, _ = client.send(Open(1), Open(1))
    assert isinstance(operations[1], FailBranch)
    assert operations[1].param == "branch"


def test_open_slots_are_counted_until_their_end() -> None:
    client = Client()
    client.send(Open(1), Gen(1, "x"), Gen(1, "y", logprobs=99))
    assert not client.intake.is_idle
    client.intake.sent(Done(1, "x", "stop", "", Usage()))
    assert not client.intake.is_idle
    client.intake.sent(Failed(1, "y", "invalid_parameter", ""))
    assert client.intake.is_idle


def test_a_client_that_leaves_leaves_nothing() -> None:
    client = Client()
    client.send(Open(1), Gen(1, "x"))
    assert client.intake.leave() == ClientGone(b"c")
    assert client.intake.num_branches == 0
    assert client.intake.is_idle


LONG = "a long text"


@pytest.fixture(autouse=True, scope="module")
def ten_characters_are_long() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intake, "LONG_CHARACTERS", 10)
        yield


def test_a_long_text_is_tokenised_elsewhere_and_what_follows_on_its_branch_waits() -> None:
    client = Client()
    first, second = Gen(1, "x"), Gen(1, "y")
    assert client.send(Open(1), Text(1, LONG), first, Text(1, "b"), second, Close(1)) == (
        [OpenBranch(key(1))],
        [],
    )
    assert not client.intake.is_idle
    other = Gen(2, "x")
    assert client.send(Open(2), other)[0] == [OpenBranch(key(2)), Generate(key(2), other)]
    assert client.finish()[0] == [
        Append(key(1), (BOS, *ids(LONG))),
        Generate(key(1), first),
        Append(key(1), ids("b")),
        Generate(key(1), second),
        CloseBranch(key(1)),
    ]


def test_a_fork_of_a_branch_that_waits_waits_too() -> None:
    client = Client()
    gen = Gen(2, "x")
    client.send(Open(1), Text(1, LONG), Open(2, parent=1), Text(2, "b"), gen, Close(2))
    assert client.finish()[0] == [
        Append(key(1), (BOS, *ids(LONG))),
        OpenBranch(key(2), parent=key(1)),
        Append(key(2), ids("b")),
        Generate(key(2), gen),
        CloseBranch(key(2)),
    ]


def test_an_abort_does_not_wait() -> None:
    client = Client()
    client.send(Open(1), Text(1, LONG), Gen(1, "x"), Open(2, parent=1), Gen(2, "y"), Close(2))
    operations, answers = client.send(Abort(1))
    assert operations == [CloseBranch(key(1), abort=True)]
    assert [(a.branch, a.code) for a in answers if isinstance(a, Failed)] == [
        (1, "aborted"),
        (2, "aborted"),
    ]
    assert answers[-1] == Closed(2)
    assert client.finish() == ([], [])
    assert client.intake.is_idle


def test_a_fork_that_waits_can_be_aborted_alone() -> None:
    client = Client()
    gen = Gen(1, "x")
    client.send(Open(1), Text(1, LONG), Open(2, parent=1), Gen(2, "y"), gen)
    operations, answers = client.send(Abort(2))
    assert operations == []
    assert [type(answer) for answer in answers] == [Failed, Closed]
    assert client.finish()[0] == [Append(key(1), (BOS, *ids(LONG))), Generate(key(1), gen)]


def test_a_chat_that_cannot_be_rendered_elsewhere_fails_its_branch() -> None:
    client = Client()
    gen = Gen(1, "x")
    client.send(Open(1), Chat(1, (ChatMessage("nobody", LONG),)), gen)
    assert client.finish()[0] == [
        FailBranch(key(1), None, "invalid_parameter", "no such role", "messages"),
        Generate(key(1), gen),
    ]


def test_a_client_that_leaves_is_not_disturbed_by_what_still_runs() -> None:
    client = Client()
    client.send(Open(1), Text(1, LONG), Gen(1, "x"))
    client.intake.leave()
    assert client.finish() == ([], [])


programs = st.lists(
    st.one_of(
        st.builds(Open, st.integers(1, 5), st.none() | st.integers(1, 5)),
        st.builds(Text, st.integers(1, 5), st.sampled_from(["ab", LONG])),
        st.builds(Text, st.integers(1, 5), token_ids=st.just((7,))),
        st.builds(Gen, st.integers(1, 5), st.sampled_from("xyz")),
        st.builds(Close, st.integers(1, 5)),
        st.none(),
    ),
    max_size=30,
)


@given(programs)
def test_each_branch_gets_the_same_operations_whenever_its_texts_are_tokenised(
    program: "list[Instruction | None]",
) -> None:
    """The reference ends each encoding as soon as it begins; None in a program ends the oldest one."""
    client, reference = Client(), Client()
    outcomes: list[list[tuple[list[Operation], list[RuntimeMessage]]]] = [[], []]
    for instruction in program:
        if instruction is not None:
            outcomes[0].append(client.send(instruction))
            outcomes[1].append(reference.send(instruction))
        elif client.encodings:
            outcomes[0].append(client.finish())
        while reference.encodings:
            outcomes[1].append(reference.finish())
    while client.encodings:
        outcomes[0].append(client.finish())
    assert by_branch(outcomes[0]) == by_branch(outcomes[1])
    assert client.intake.num_branches == reference.intake.num_branches
    assert client.intake.is_idle == reference.intake.is_idle


def by_branch(
    outcomes: "list[tuple[list[Operation], list[RuntimeMessage]]]",
) -> dict[int, list[object]]:
    sorted_out: dict[int, list[object]] = {}
    for operations, answers in outcomes:
        for operation in operations:
            assert not isinstance(operation, Control | ClientGone)
            sorted_out.setdefault(operation.key.branch, []).append(operation)
        for answer in answers:
            assert isinstance(answer, Failed | Closed)
            sorted_out.setdefault(answer.branch, []).append(answer)
    return sorted_out
