"""One greedy text for one prompt: whoever else is served, whatever is cached, however a step is cut."""

import random
from pathlib import Path

import msgspec
import pytest
from tests.make_model import make_model
from tests.make_tokenizer import byte_level

from branchwork.bench.load import Job, run_jobs, stats
from branchwork.runtime.wire.backend import Backend
from branchwork.runtime.wire.launcher import launch
from branchwork.runtime.wire.messages import Regex

NUM_PROMPTS = 128


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("model")
    tokenizer = byte_level()
    make_model(
        path, "qwen2",
        vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=1024,
    )  # fmt: skip
    tokenizer.save(str(path / "tokenizer.json"))
    settings = {"eos_token": "<|im_end|>"}
    (path / "tokenizer_config.json").write_bytes(msgspec.json.encode(settings))
    return path


def prompts(seed: int = 0) -> list[tuple[int, ...]]:
    """Of many lengths; half of them begin the same."""
    rng = random.Random(seed)
    shared = tuple(rng.randrange(200) for _ in range(70))
    own = [
        tuple(rng.randrange(200) for _ in range(rng.randint(1, 100))) for _ in range(NUM_PROMPTS)
    ]
    return [shared + ids if place % 2 else ids for place, ids in enumerate(own)]


def answers(client: Backend, concurrency: int) -> list[list[int]]:
    """The tokens of every prompt, so many at a time; every fourth is held to a constraint."""
    jobs = [
        Job(
            prompt,
            max_tokens=12,
            constraint=Regex("[ -~]*") if place % 4 == 3 else None,
            ignore_eos=place % 4 != 3,
        )
        for place, prompt in enumerate(prompts())
    ]
    for first in range(0, len(jobs), concurrency):
        run_jobs(client, jobs[first : first + concurrency], timeout_s=100)
    return [job.token_ids for job in jobs]


def test_a_greedy_text_is_the_same_at_any_concurrency_cold_or_warm_chunked_or_not(
    folder: Path,
) -> None:
    with launch(
        model=str(folder), dtype="bfloat16", threads=1, prefix_cache=False, kv_slots=20_000
    ) as runtime:
        expected = answers(runtime.connect(), 1)
    assert sum(map(len, expected)) > 11 * NUM_PROMPTS
    with launch(model=str(folder), dtype="bfloat16", threads=2, kv_slots=20_000) as runtime:
        client = runtime.connect()
        for concurrency in (8, 32, 128):
            client.request("flush_cache")
            for _ in ("cold", "warm"):
                assert answers(client, concurrency) == expected
    pressed = {"max_chunk": 16, "max_tokens_per_step": 96, "kv_slots": 2400, "speculate": 4}
    with launch(model=str(folder), dtype="bfloat16", threads=1, **pressed) as runtime:
        client = runtime.connect()
        for _ in ("cold", "warm"):
            assert answers(client, 128) == expected
        counts = stats(client)
    assert counts["tokens_speculated"] > 0
    assert counts["tokens_evicted"] > 0


def test_a_quantised_model_gives_one_text_at_any_concurrency_and_after_any_start(
    folder: Path,
) -> None:
    # Its layers are int4 and its head is int8.
    options = {"model": str(folder), "dtype": "bfloat16", "quantize": "int4", "kv_slots": 20_000}
    with launch(**options, threads=1, prefix_cache=False) as runtime:
        expected = answers(runtime.connect(), 16)
    with launch(**options, threads=2) as runtime:
        assert answers(runtime.connect(), 128) == expected
