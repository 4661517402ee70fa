"""A host's memory as the tier below a device's pool; the CPU stands for the device."""

from pathlib import Path
from typing import Any

from tests.make_engine import closed, done, generate, key, opened
from tests.make_model import make_model

from branchwork.runtime.inbox import Append
from branchwork.runtime.mock import MockRuntime
from branchwork.runtime.models.loader import load_model
from branchwork.runtime.models.model_runner import ModelRunner
from branchwork.runtime.store.host import HostStore
from branchwork.runtime.wire.config import RuntimeConfig

PROMPTS = [tuple((number * 31 + place * 7) % 120 for place in range(90)) for number in range(4)]


def texts(folder: Path, num_slots: int, store: HostStore | None) -> tuple[list[str], Any]:
    """Three rounds of the same prompts over a real model."""
    options = RuntimeConfig(model=str(folder), dtype="bfloat16", max_rows=4, growth_reserve=0)
    runner: Any = ModelRunner(load_model(options), num_slots, 4, 256, compiled=False)
    runtime = MockRuntime(options, runner=runner, store=store)
    found = []
    for branch in range(3 * len(PROMPTS)):
        prompt = PROMPTS[branch % len(PROMPTS)]
        asked = generate(branch, max_tokens=6, ignore_eos=True)
        runtime.put(opened(branch), Append(key(branch), prompt), asked, closed(branch))
        found.append(done(runtime.run(), branch).text)
    return found, runtime.engine


def test_what_went_to_the_host_and_came_back_gives_the_same_text(tmp_path: Path) -> None:
    make_model(tmp_path)
    expected, _ = texts(tmp_path, 2048, None)
    found, engine = texts(tmp_path, 128, HostStore(1 << 24, 16))
    assert found == expected
    stats = engine.stats()
    assert stats["tokens_evicted"] > 500
    assert stats["store_tokens_loaded"] > 500


def test_the_hosts_memory_is_bounded_by_what_was_used_least(tmp_path: Path) -> None:
    make_model(tmp_path)
    store = HostStore(40_000, 16)
    expected, _ = texts(tmp_path, 2048, None)
    found, engine = texts(tmp_path, 128, store)
    assert found == expected
    assert 0 < sum(array.nbytes for kv in store._kept.values() for array in kv.values()) <= 40_000
    assert engine.stats()["store_bytes"] <= 40_000
