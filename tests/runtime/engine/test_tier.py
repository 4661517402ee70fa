"""What leaves the pool comes back from a store, and nothing that a store does can hurt a request."""

import random
from collections.abc import Sequence
from concurrent.futures import Future

import numpy as np
import pytest
from tests.make_engine import closed, done, finals, generate, key, make_runtime, opened, text
from tests.runtime.engine.test_simulation import (
    PHRASES,
    Scenario,
    check,
    draw,
    draw_generate,
    patiently,
    same,
    under_pressure,
)

from branchwork.runtime.inbox import Append, Arrival, Control, Operation
from branchwork.runtime.kv import Loaded, Unsaved, Wanted
from branchwork.runtime.mock import MockRuntime
from branchwork.runtime.store.host import HostStore
from branchwork.runtime.wire.config import RuntimeConfig
from branchwork.runtime.wire.messages import Done

BLOCK = 4
PROMPT = tuple(range(1, 42))


def make_tiered(
    num_slots: int = 48, store: HostStore | None = None, **config: object
) -> MockRuntime:
    store = store or HostStore(1 << 20, BLOCK)
    options = RuntimeConfig(**{"growth_reserve": 0, **config})  # type: ignore[arg-type]
    return MockRuntime(options, num_slots, num_slots, store=store)


def ask(runtime: MockRuntime, token_ids: Sequence[int], branch: int = 1, **options: object) -> Done:
    """One greedy answer of four tokens, the branch closed again."""
    runtime.put(
        opened(branch, **options), Append(key(branch), tuple(token_ids)), generate(branch, max_tokens=4), closed(branch)
    )  # fmt: skip
    return done(runtime.run(), branch)


def push_out(runtime: MockRuntime) -> None:
    """Fill the pool with something else."""
    ask(runtime, tuple(range(200, 240)), branch=99)


def test_a_prefix_that_left_the_pool_comes_back_instead_of_being_computed() -> None:
    runtime = make_tiered()
    cold = ask(runtime, PROMPT)
    push_out(runtime)
    computed = runtime.runner.num_computed
    warm = ask(runtime, PROMPT)
    assert warm.text == cold.text
    assert warm.usage.cached == 40
    assert runtime.runner.num_computed - computed == 1 + 3
    assert runtime.engine.stats()["store_tokens_loaded"] > 30


def test_a_salted_prefix_is_never_stored() -> None:
    runtime = make_tiered()
    ask(runtime, PROMPT, salt="mine")
    push_out(runtime)
    assert all(block is None or block.prefix()[0] >= 200 for block in runtime.engine.tier.shelf._stored.values())  # type: ignore[union-attr]  # fmt: skip
    assert ask(runtime, PROMPT, salt="mine").usage.cached < 8, "what the pool still held"
    assert ask(runtime, PROMPT).usage.cached == 0


def test_a_prefix_stored_without_a_salt_is_not_found_with_one() -> None:
    runtime = make_tiered()
    ask(runtime, PROMPT)
    push_out(runtime)
    assert ask(runtime, PROMPT, salt="mine").usage.cached == 0


def test_a_prefix_comes_back_to_its_own_adapter_alone() -> None:
    runtime = make_tiered()
    cold = [ask(runtime, PROMPT, adapter=adapter) for adapter in (0, 1, 2)]
    assert len({answer.text for answer in cold}) == 3
    push_out(runtime)
    assert ask(runtime, PROMPT, adapter=3).usage.cached == 0
    for adapter, before in enumerate(cold):
        push_out(runtime)
        warm = ask(runtime, PROMPT, adapter=adapter)
        assert (warm.text, warm.usage.cached) == (before.text, 40)


def test_what_waits_to_be_saved_keeps_its_adapter() -> None:
    runtime = make_tiered(96)
    for adapter in (1, 2):
        ask(runtime, PROMPT, adapter=adapter)
    runtime.put(Control("save_cache", Future()))
    for _ in range(20):
        runtime.step()
    tier = runtime.engine.tier
    assert tier is not None
    prefix = np.array(PROMPT, np.int32)
    assert [len(tier.shelf.find(adapter, prefix, 0)) for adapter in (0, 1, 2)] == [0, 10, 10]


def test_to_flush_forgets_what_is_stored_too_and_only_of_its_salt() -> None:
    runtime = make_tiered()
    ask(runtime, PROMPT)
    push_out(runtime)
    runtime.put(Control("flush_cache", Future(), salt="mine"))
    assert ask(runtime, PROMPT).usage.cached == 40
    push_out(runtime)
    runtime.put(Control("flush_cache", Future()))
    assert ask(runtime, PROMPT).usage.cached == 0


def test_all_is_saved_on_demand_a_little_in_each_pass() -> None:
    runtime = make_tiered()
    tier = runtime.engine.tier
    assert tier is not None
    ask(runtime, PROMPT)
    runtime.put(Control("save_cache", Future()))
    for _ in range(6):
        runtime.step()
    assert not tier.is_saving
    assert len(tier.shelf) == 44 // BLOCK
    assert ask(runtime, PROMPT[:-1]).usage.cached == 39


class FickleStore(HostStore):
    """Answers late or never, loses blocks, and is busy or broken, by a seed."""

    def __init__(self, seed: int, max_bytes: int = 1 << 20, block_tokens: int = BLOCK) -> None:
        super().__init__(max_bytes, block_tokens)
        self.choice = random.Random(seed)
        self.late: list[tuple[int, Sequence[Wanted]]] = []

    @property
    def state(self):  # type: ignore[no-untyped-def]
        return self.choice.choice((*["open"] * 20, "busy", "broken"))

    def load(self, number: int, blocks: Sequence[Wanted]) -> None:
        self.late.append((number, blocks))

    def remove(self, keys: Sequence[str]) -> None:
        for one in keys:
            self._kept.pop(one, None)

    def answer(self) -> None:
        """To be called between passes."""
        if self.choice.random() < 0.02 and self._kept:
            lost = self.choice.choice(list(self._kept))
            del self._kept[lost]
            self._report([Unsaved(lost)])
        while self.late and self.choice.random() < 0.5:
            number, blocks = self.late.pop()
            whole = []
            for block in blocks:
                if block.key not in self._kept or self.choice.random() < 0.1:
                    self._kept.pop(block.key, None)
                    self._report([Loaded(number, tuple(whole), (block.key,))])
                    break
                whole.append(self._kept[block.key])
            else:
                self._report([Loaded(number, tuple(whole))])


def test_a_request_waits_for_a_load_and_others_are_served_meanwhile() -> None:
    store = HostStore(1 << 20, BLOCK)
    runtime = make_tiered(96, store)
    ask(runtime, PROMPT)
    for start in (200, 300):
        ask(runtime, range(start - 80, start - 40), branch=98)
    reports: list[Arrival] = []
    store._report = reports.extend
    runtime.put(opened(1), Append(key(1), PROMPT), generate(1, "late", max_tokens=1))
    runtime.put(opened(2), text(2, "the"), generate(2, "soon", max_tokens=1))
    for _ in range(5):
        runtime.step()
    answered = finals(runtime.outbox.events)
    assert (2, "soon") in answered
    assert (1, "late") not in answered
    runtime.inbox.put(*reports)
    final = finals(runtime.run())[1, "late"]
    assert isinstance(final, Done)
    assert final.usage.cached == 40


def test_a_store_that_never_answers_costs_a_bounded_time() -> None:
    store = FickleStore(0)
    runtime = make_tiered(48, store)
    store.choice.choice = lambda options: options[0]  # type: ignore[method-assign,assignment]
    ask(runtime, PROMPT)
    push_out(runtime)
    began = runtime.now_s
    assert ask(runtime, PROMPT).usage.cached < 40
    assert store.late
    assert 2.0 <= runtime.now_s - began < 2.1


def test_blocks_that_are_lost_are_computed() -> None:
    store = HostStore(1 << 20, BLOCK)
    runtime = make_tiered(48, store)
    cold = ask(runtime, PROMPT)
    push_out(runtime)
    store.load = lambda number, blocks: store._report(  # type: ignore[method-assign]
        [Loaded(number, (store._kept[blocks[0].key],), (blocks[1].key,))]
    )
    warm = ask(runtime, PROMPT)
    assert warm.text == cold.text
    assert 0 < warm.usage.cached < 40
    assert runtime.engine.stats()["store_blocks_lost"] >= 1


@pytest.mark.parametrize("name", ["read_kv", "write_kv"])
@pytest.mark.parametrize("k", range(1, 14, 3))
def test_when_the_kth_copy_fails_only_time_is_lost(
    monkeypatch: pytest.MonkeyPatch, name: str, k: int
) -> None:
    runtime = make_tiered()
    copy, calls = getattr(runtime.runner, name), 0

    def sometimes(*args: object) -> object:
        nonlocal calls
        calls += 1
        if calls == k:
            raise MemoryError
        return copy(*args)

    monkeypatch.setattr(runtime.runner, name, sometimes)
    cold = ask(runtime, PROMPT)
    for _ in range(3):
        push_out(runtime)
        assert ask(runtime, PROMPT).text == cold.text
    assert calls >= k
    check(runtime)
    tier = runtime.engine.tier
    assert tier is not None
    tier.shelf.check()
    runtime.engine.cache.flush()
    assert runtime.engine.cache.num_free == runtime.engine.cache.num_total


DOCUMENTS = ["".join(random.Random(n).choices(PHRASES, k=4)) for n in range(4)]


def reading(seed: int) -> Scenario:
    """Branches that come back to a few documents, in pools that hold two of them."""
    choice = random.Random(seed)
    operations: list[Operation] = []
    for branch in range(1, 13):
        document = choice.choice(DOCUMENTS)
        operations += [
            opened(
                branch,
                salt=choice.choice(("", "", "", "mine")),
                adapter=choice.choice((0, 0, 0, 0, 1)),
                keep=choice.random() < 0.5,
            ),
            text(branch, document[: choice.choice((len(document), len(document) // 2))]),
            generate(branch, "a", max_tokens=choice.randint(1, 8)),
            text(branch, choice.choice(PHRASES)),
            draw_generate(choice, branch, "b"),
        ]
        if choice.random() < 0.8:
            operations.append(closed(branch))
    options = {
        "max_rows": choice.randint(1, 4),
        "max_tokens_per_step": choice.choice((16, 64)),
        "growth_reserve": choice.choice((0, 2)),
    }
    return Scenario(tuple(operations), choice.randint(50, 90), options)


def assert_tiered_equals_the_oracle(seed: int) -> int:
    scenario = reading(seed) if seed % 2 else draw(seed)
    max_bytes = random.Random(seed).choice((8000, 1 << 20))
    store = FickleStore(seed, max_bytes, block_tokens=2)
    runtime = MockRuntime(
        RuntimeConfig(**scenario.options), scenario.num_slots, scenario.num_slots, store=store
    )
    step = runtime.step

    def step_and_answer() -> None:
        step()
        store.answer()
        assert runtime.engine.tier is not None
        runtime.engine.tier.shelf.check()

    runtime.step = step_and_answer  # type: ignore[method-assign]
    answers = finals(under_pressure(runtime, scenario.operations, seed, max_steps=20_000))
    expected = finals(patiently(scenario))
    assert answers.keys() == expected.keys()
    for slot, final in expected.items():
        assert same(answers[slot], final), (slot, answers[slot], final)
    check(runtime)
    runtime.engine.cache.flush()
    assert runtime.engine.cache.num_free == runtime.engine.cache.num_total
    return int(runtime.engine.stats()["store_tokens_loaded"])


def test_over_a_fickle_store_every_answer_equals_the_oracles() -> None:
    loaded = sum(assert_tiered_equals_the_oracle(seed) for seed in range(60))
    assert loaded > 100, "the store was hardly used"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_over_a_fickle_store_every_answer_equals_the_oracles_at_length() -> None:
    for seed in range(1000, 11_000):
        assert_tiered_equals_the_oracle(seed)


def test_without_a_store_nothing_is_saved_and_saving_says_so() -> None:
    runtime = make_runtime(48, 48)
    reply: Future[str] = Future()
    runtime.put(Control("save_cache", reply))
    runtime.step()
    assert reply.result() == '{"prefixes": 0}'
