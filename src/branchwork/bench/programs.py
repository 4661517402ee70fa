"""Ten kinds of programs as operations on branches, in tokens: what their prefixes share is what matters here.

Shapes after the programs of Zheng et al. 2024 ("SGLang", section 6); the tokens are random.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from branchwork.runtime.inbox import Append, BranchKey, CloseBranch, Generate, OpenBranch, Operation
from branchwork.runtime.wire.messages import Gen, Sampling

CLIENT = b"bench"
FIRST_TOKEN, LAST_TOKEN = 300, 900


@dataclass(slots=True)
class Writer:
    """Writes the operations of programs; branches are numbered through."""

    rng: random.Random
    branches: int = 0

    def text(self, length: int) -> tuple[int, ...]:
        """Tokens that stand nowhere else."""
        return tuple(self.rng.choices(range(FIRST_TOKEN, LAST_TOKEN), k=length))

    def opened(self, parent: int | None = None) -> tuple[int, Operation]:
        """A new branch, and how it is opened."""
        self.branches += 1
        key = BranchKey(CLIENT, self.branches)
        return self.branches, OpenBranch(key, None if parent is None else BranchKey(CLIENT, parent))

    def turn(self, branch: int, said: tuple[int, ...], new: int) -> list[Operation]:
        """Some tokens, and then an answer."""
        key = BranchKey(CLIENT, branch)
        sampling = Sampling(max_tokens=new, temperature=0.0, ignore_eos=True)
        return [Append(key, said), Generate(key, Gen(branch, f"s{self.rng.random()}", sampling))]

    def closed(self, branch: int) -> Operation:
        """The branch's end."""
        return CloseBranch(BranchKey(CLIENT, branch))

    def chain(self, *turns: tuple[tuple[int, ...], int]) -> list[Operation]:
        """One branch of several turns."""
        branch, opening = self.opened()
        operations = [opening]
        for said, new in turns:
            operations += self.turn(branch, said, new)
        return [*operations, self.closed(branch)]


Program = list[Operation]


def few_shot(write: Writer) -> Iterator[Program]:
    """Questions of six subjects (MMLU): five examples each, which all questions of a subject share."""
    subjects = [write.text(400) for _ in range(6)]
    for number in range(60):
        yield write.chain((subjects[number % 6] + write.text(60), 1))


def choices(write: Writer) -> Iterator[Program]:
    """Four endings of a story (HellaSwag), each on a fork of it, over twenty shared examples."""
    examples = write.text(600)
    for _ in range(30):
        story, opening = write.opened()
        operations = [opening, *write.turn(story, examples + write.text(60), 1)]
        for _ in range(4):
            fork, opening = write.opened(story)
            operations += [opening, *write.turn(fork, write.text(12), 1), write.closed(fork)]
        yield [*operations, write.closed(story)]


def react(write: Writer) -> Iterator[Program]:
    """Agents that think, act and read what came of it, five times."""
    instructions = write.text(700)
    for _ in range(20):
        first = (instructions + write.text(30), 24)
        yield write.chain(first, *((write.text(60), 24) for _ in range(4)))


def generative_agents(write: Writer) -> Iterator[Program]:
    """Short questions about what an agent does, of three templates."""
    templates = [write.text(250) for _ in range(3)]
    for number in range(60):
        yield write.chain((templates[number % 3] + write.text(80), 16))


def tree_of_thought(write: Writer) -> Iterator[Program]:
    """Two steps of three proposals each, and a vote over every leaf."""
    instructions = write.text(300)
    for _ in range(8):
        root, opening = write.opened()
        operations = [opening, *write.turn(root, instructions + write.text(60), 16)]
        for _ in range(3):
            child, opening = write.opened(root)
            operations += [opening, *write.turn(child, write.text(10), 24)]
            for _ in range(3):
                leaf, opening = write.opened(child)
                operations += [opening, *write.turn(leaf, write.text(10), 24), write.closed(leaf)]
            operations.append(write.closed(child))
        yield [*operations, write.closed(root)]


def skeleton(write: Writer) -> Iterator[Program]:
    """An outline, then its five points at once."""
    instructions = write.text(200)
    for _ in range(12):
        root, opening = write.opened()
        operations = [opening, *write.turn(root, instructions + write.text(40), 40)]
        for _ in range(5):
            point, opening = write.opened(root)
            operations += [opening, *write.turn(point, write.text(20), 40), write.closed(point)]
        yield [*operations, write.closed(root)]


def judge(write: Writer) -> Iterator[Program]:
    """An essay, judged in four respects at once, and then as a whole."""
    instructions = write.text(150)
    for _ in range(15):
        root, opening = write.opened()
        operations = [opening, *write.turn(root, instructions + write.text(400), 1)]
        for _ in range(4):
            respect, opening = write.opened(root)
            operations += [opening, *write.turn(respect, write.text(30), 24), write.closed(respect)]
        operations += write.turn(root, write.text(120), 24)
        yield [*operations, write.closed(root)]


def records(write: Writer) -> Iterator[Program]:
    """Documents turned into JSON, field by field."""
    instructions = write.text(120)
    for _ in range(30):
        first = (instructions + write.text(250), 12)
        yield write.chain(first, *((write.text(6), 12) for _ in range(5)))


def chats(write: Writer) -> Iterator[Program]:
    """Conversations of four turns under one system message, long and short answers mixed."""
    system = write.text(80)
    for number in range(30):
        new = 16 if number % 2 else 96
        yield write.chain(
            (system + write.text(60), new), *((write.text(60), new) for _ in range(3))
        )


def retrieval(write: Writer) -> Iterator[Program]:
    """Questions over documents that are asked for often, or seldom."""
    instructions = write.text(60)
    documents = [write.text(300) for _ in range(12)]
    for _ in range(40):
        document = documents[min(int(write.rng.expovariate(0.4)), 11)]
        yield write.chain((instructions + document + write.text(25), 24))


PROGRAMS: dict[str, Callable[[Writer], Iterator[Program]]] = {
    "few-shot": few_shot,
    "choices": choices,
    "ReAct": react,
    "agents": generative_agents,
    "tree of thought": tree_of_thought,
    "skeleton": skeleton,
    "judge": judge,
    "records": records,
    "chats": chats,
    "retrieval": retrieval,
}
