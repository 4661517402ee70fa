"""The oracle and the programs that the cache is measured by."""

import random

import pytest

from branchwork.bench.cache import _oracle, _prompts
from branchwork.bench.programs import PROGRAMS, Writer
from branchwork.runtime.inbox import CloseBranch, Generate, OpenBranch


def test_the_oracle_finds_what_was_computed_before_and_never_the_last_token() -> None:
    assert _oracle([((1, 2, 3), (7,), 0)]) == 0
    assert _oracle([((1, 2, 3), (7,), 0), ((1, 2, 3), (7,), 0)]) == 2
    assert _oracle([((1, 2, 3), (7,), 0), ((1, 2, 9, 9), (7,), 0)]) == 2


def test_the_oracle_finds_all_of_an_answer_but_its_last_token() -> None:
    assert _oracle([((1, 2), (7, 8), 0), ((1, 2, 7, 8, 5), (6,), 0)]) == 3


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_close_what_they_open_and_fork_what_is_open(name: str) -> None:
    programs = list(PROGRAMS[name](Writer(random.Random(0))))
    assert len(programs) >= 8
    for program in programs:
        opened = [one for one in program if isinstance(one, OpenBranch)]
        closed = [one.key for one in program if isinstance(one, CloseBranch)]
        assert sorted(one.key for one in opened) == sorted(closed)
        for fork in opened:
            if fork.parent is not None:
                assert program.index(fork) < program.index(CloseBranch(fork.parent))


def test_a_prompt_is_all_that_stood_on_the_branch() -> None:
    (program, *_) = PROGRAMS["choices"](Writer(random.Random(0)))
    slots = [one for one in program if isinstance(one, Generate)]
    answers = {(one.key.branch, one.gen.slot): (5,) for one in slots}
    lengths = [len(prompt) for prompt in _prompts([program], answers).values()]
    assert lengths == [660, 673, 673, 673, 673]
