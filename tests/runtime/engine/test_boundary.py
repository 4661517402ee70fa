"""When the k-th call of something fails: one request is hurt and told so, the others are not, and the pool is whole."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest
from tests.make_engine import (
    CLIENT,
    choose,
    closed,
    finals,
    generate,
    key,
    make_runtime,
    opened,
    text,
)

from branchwork.runtime.engine import scheduler as scheduler_module
from branchwork.runtime.engine.branches import Branches
from branchwork.runtime.engine.cache import PrefixCache
from branchwork.runtime.engine.pool import SlotPool
from branchwork.runtime.engine.radix import RadixTree
from branchwork.runtime.grammar.interface import Grammar
from branchwork.runtime.inbox import ClientGone, Control, Generate, GrammarReady
from branchwork.runtime.mock import MockRuntime
from branchwork.runtime.wire.messages import Closed, Done, Event, Failed

OTHER = b"other"

# What is hurt with a branch: those that fork off it.
CHILDREN = {1: {2}, 2: set[int](), 3: set[int](), 4: set[int]()}


class Fault:
    """Lets the k-th call of some methods fail; None: only counts them."""

    def __init__(self, k: int | None) -> None:
        self._k = k
        self.num_calls = 0

    def put_into(self, patch: pytest.MonkeyPatch, owner: Any, names: tuple[str, ...]) -> None:
        for name in names:
            patch.setattr(owner, name, self._around(getattr(owner, name)))

    def _around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.num_calls += 1
            if self.num_calls == self._k:
                raise OSError("injected")
            return function(*args, **kwargs)

        return call


def serve(steps_ahead: int) -> tuple[MockRuntime, list[tuple[bytes, Event]], "Future[str]"]:
    """Every kind of operation, in a pool that is too small for all at once."""
    runtime = make_runtime(80, 80, steps_ahead, growth_reserve=0, max_tokens_per_step=24)
    compiling: Future[Grammar] = Future()
    question: Future[str] = Future()
    common = "once upon a time in the town of "
    runtime.put(
        opened(1),
        text(1, common),
        generate(1, "a", options={"stream": True}, max_tokens=12),
        opened(2, parent=1),
        text(2, "Paris"),
        generate(2, "b", "[0-9]{1,4}x", max_tokens=6),
        text(1, "London"),
        choose(1, "Paris", "//x", slot="c"),
        closed(2),
        closed(1),
        opened(3),
        text(3, common + "http:"),
        Generate(key(3), generate(3, "d", max_tokens=6).gen, compiling),
        closed(3),
        opened(4, pin_s=5.0),
        text(4, common[:20] + "Rome and more"),
        generate(4, "e", max_tokens=20),
        closed(4),
        *(operation_of(OTHER, operation) for operation in (opened(9), text(9, common))),
        operation_of(OTHER, generate(9, "f", max_tokens=40)),
    )
    for _ in range(4):
        runtime.step()
    compiling.set_result(ready_grammar())
    runtime.put(GrammarReady(key(3)), Control("stats", question))
    runtime.step()
    runtime.put(ClientGone(OTHER), closed(5, abort=True))
    return runtime, runtime.run(max_steps=2000), question


def operation_of(client: bytes, operation: Any) -> Any:
    return type(operation)(
        **{
            name: key(value.branch, client) if name == "key" else value
            for name in type(operation).__dataclass_fields__
            for value in (getattr(operation, name),)
        }
    )


def ready_grammar() -> Grammar:
    grammar = generate(0, grammar="(true|false|null)").grammar
    assert grammar is not None
    return grammar.result()


def ks(num_calls: int, at_most: int) -> Iterator[int]:
    """Every call if they are few, else so many of them, the first ones included."""
    few = range(1, min(num_calls, at_most // 2) + 1)
    return iter(sorted({*few, *range(1, num_calls + 1, max(1, 2 * num_calls // at_most))}))


TARGETS = {
    "allocate": (PrefixCache, ("allocate",)),
    "pool": (SlotPool, ("allocate", "free")),
    "find": (RadixTree, ("find",)),
    "hold": (RadixTree, ("hold", "unlock", "touch")),
    "extend": (RadixTree, ("extend", "slots_of")),
    "evict": (RadixTree, ("evict",)),
    "keep": (RadixTree, ("keep", "unkeep")),
    "split": (RadixTree, ("_split", "_offer", "_shorten")),
    "operations": (Branches, ("_take",)),
    "queues": (Branches, ("_run", "_must_wait")),
    "forks and ends": (Branches, ("_fork", "_close")),
    "sharing": (scheduler_module, ("shared_prefixes", "find")),
}


def check_every_kth_call(
    monkeypatch: pytest.MonkeyPatch, target: str, steps_ahead: int, at_most: int
) -> None:
    owner, names = TARGETS[target]
    counted = Fault(None)
    with monkeypatch.context() as patch:
        counted.put_into(patch, owner, names)
        _, events, _ = serve(steps_ahead)
    expected = finals([event for event in events if event[0] == CLIENT])
    assert all(isinstance(final, Done) for final in expected.values())
    assert counted.num_calls > 0, "nothing to fail"
    for k in ks(counted.num_calls, at_most):
        with monkeypatch.context() as patch:
            Fault(k).put_into(patch, owner, names)
            runtime, events, question = serve(steps_ahead)
        told = [event for client, event in events if client == CLIENT]
        answers = finals([event for event in events if event[0] == CLIENT])
        assert answers.keys() == expected.keys(), f"call {k}: a slot has no end"
        assert sorted(event.branch for event in told if isinstance(event, Closed)) == [
            1, 2, 3, 4, 5,
        ], f"call {k}: a branch has no end"  # fmt: skip
        hurt = {branch for (branch, _), final in answers.items() if isinstance(final, Failed)}
        first = min(hurt, default=4)
        assert hurt <= {first} | CHILDREN[first], f"call {k}: others are hurt"
        for (branch, slot), final in answers.items():
            if isinstance(final, Failed):
                assert final.code in ("internal", "branch_failed")
                assert "injected" not in final.message
            elif branch not in hurt:
                whole = expected[branch, slot]
                assert isinstance(whole, Done)
                assert final.text == whole.text, f"call {k}: another text"
        assert question.done()
        assert_whole(runtime, f"call {k}")


def assert_whole(runtime: MockRuntime, where: str) -> None:
    cache = runtime.engine.cache
    cache.check([])
    assert cache.num_free + cache.num_cached + cache.num_locked == cache.num_total, where
    assert cache.num_locked == 0, where
    assert len(runtime.engine.branches) == 0, where
    runtime.now_s += 10  # pins end
    runtime.step()
    cache.flush()
    assert cache.num_free == cache.num_total, where
    assert cache.tree._roots == {}, where


@pytest.mark.parametrize("target", TARGETS)
def test_when_the_kth_call_fails_only_its_request_does_and_the_pool_is_whole(
    monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    check_every_kth_call(monkeypatch, target, steps_ahead=0, at_most=40)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("steps_ahead", [0, 1])
@pytest.mark.parametrize("target", TARGETS)
def test_whichever_call_fails_only_its_request_does_and_the_pool_is_whole(
    monkeypatch: pytest.MonkeyPatch, target: str, steps_ahead: int
) -> None:
    check_every_kth_call(monkeypatch, target, steps_ahead, at_most=100_000)
