"""Adapters over real processes and sockets: who asks for one gets its text, whoever else is served."""

import os
import random
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from tests.make_model import make_adapter, make_model
from tests.make_tokenizer import byte_level
from tests.runtime.server.real import HEADERS, RealServer
from tests.runtime.test_adapters_equal_transformers import merged
from tests.runtime.test_model_equals_transformers import oracle
from transformers import PreTrainedModel

import branchwork as bw
from branchwork.bench.load import Job, run_jobs, stats
from branchwork.runtime.wire.backend import Backend
from branchwork.runtime.wire.errors import ConfigError, ModelError
from branchwork.runtime.wire.launcher import launch
from branchwork.runtime.wire.messages import Regex

NAMES = ("", "loud", "small", "large")
NUM_PROMPTS = 48


@dataclass(frozen=True)
class Made:
    """A model's folder with its tokenizer, its adapters' folders by name, and the model as transformers has it."""

    folder: Path
    adapters: dict[str, Path]
    model: PreTrainedModel

    def options(self, **changes: Any) -> dict[str, Any]:
        return {
            "model": str(self.folder), "dtype": "bfloat16", "threads": 1, "kv_slots": 20_000,
            "adapters": self.adapters, **changes,
        }  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    path: Path = tmp_path_factory.mktemp("adapted")
    tokenizer = byte_level()
    model = make_model(
        path / "tiny", "qwen2",
        vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=1024,
    )  # fmt: skip
    tokenizer.save(str(path / "tiny" / "tokenizer.json"))
    settings = {"eos_token": "<|im_end|>"}
    (path / "tiny" / "tokenizer_config.json").write_bytes(msgspec.json.encode(settings))
    adapters = {
        "loud": make_adapter(path / "loud", model, rank=8, seed=1),
        "small": make_adapter(path / "small", model, rank=2, seed=2, targets=("q_proj", "v_proj")),
        "large": make_adapter(path / "large", model, rank=24, seed=3, targets=("down_proj",)),
    }
    return Made(path / "tiny", adapters, model)


def asked() -> list[tuple[str, tuple[int, ...]]]:
    """Adapters and prompts, of many lengths; half of them begin the same, with whatever adapter."""
    rng = random.Random(0)
    shared = tuple(rng.randrange(200) for _ in range(80))
    prompts = [
        tuple(rng.randrange(200) for _ in range(rng.randint(1, 60))) for _ in range(NUM_PROMPTS)
    ]
    return [
        (NAMES[place % 4], shared + ids if place % 3 else ids) for place, ids in enumerate(prompts)
    ]


def answers(client: Backend, concurrency: int) -> list[list[int]]:
    """The tokens of every answer, so many at a time; every fifth is held to a constraint."""
    jobs = [
        Job(
            prompt,
            max_tokens=8,
            constraint=Regex("[ -~]*") if place % 5 == 4 else None,
            ignore_eos=place % 5 != 4,
            adapter=adapter,
        )
        for place, (adapter, prompt) in enumerate(asked())
    ]
    for first in range(0, len(jobs), concurrency):
        run_jobs(client, jobs[first : first + concurrency], timeout_s=100)
    assert [job.error for job in jobs] == [None] * len(jobs)
    return [job.token_ids for job in jobs]


@pytest.mark.timeout(240)
def test_each_text_is_the_uncached_one_with_its_adapter_however_mixed_cached_or_cut(
    made: Made,
) -> None:
    with launch(**made.options(prefix_cache=False)) as runtime:
        expected = answers(runtime.connect(), 1)
    with launch(**made.options()) as runtime:
        client = runtime.connect()
        for concurrency in (8, 48):
            client.request("flush_cache")
            for _ in ("cold", "warm"):
                assert answers(client, concurrency) == expected
        # What is warm is found with its own adapter: all but each prompt's last token.
        before = stats(client)["tokens_computed"]
        answers(client, 48)
        assert stats(client)["tokens_computed"] - before < 10 * NUM_PROMPTS
    pressed = {"max_chunk": 16, "max_tokens_per_step": 96, "kv_slots": 1200, "speculate": 4}
    with launch(**made.options(**pressed)) as runtime:
        client = runtime.connect()
        for _ in ("cold", "warm"):
            assert answers(client, 48) == expected
        assert stats(client)["tokens_evicted"] > 0


def test_each_text_is_that_of_transformers_with_merged_weights(made: Made) -> None:
    models = [made.model, *(merged(made.model, folder) for folder in made.adapters.values())]
    some = asked()[:12]
    expected = [oracle(models[NAMES.index(name)], list(prompt), 8) for name, prompt in some]
    jobs = [Job(prompt, 8, ignore_eos=True, adapter=name) for name, prompt in some]
    with launch(**made.options(dtype="float32")) as runtime:
        run_jobs(runtime.connect(), jobs)
    assert [job.token_ids for job in jobs] == expected


def test_a_program_that_forks_selects_and_judges_says_the_same_alone_and_in_a_crowd(
    made: Made,
) -> None:
    @bw.function
    def program(s: bw.State, topic: str) -> None:
        s += "the quick brown fox and then a longer text on " + topic
        for fork in (forks := s.fork(2)):
            fork += " more" + bw.gen("more", 6)
        forks.join()
        s += bw.select("word", ["Paris", "London", "the fox"]) + bw.gen("kind", regex="[a-c]{4}")
        s += " good?" + bw.gen("verdict", 5, on=bw.with_adapter("small", backend))

    def texts(**how: Any) -> list[Any]:
        return [
            [state["more"], state["word"], state["kind"], state["verdict"]]
            for name in NAMES
            for state in program.run_batch(["a", "b", "c"], adapter=name, temperature=0, **how)
        ]

    with bw.Runtime(**made.options(prefix_cache=False)) as backend:
        expected = texts(num_threads=1)
    assert len({str(each) for each in expected}) > 8
    with bw.Runtime(**made.options()) as backend:
        assert texts() == expected
        assert texts(num_threads=8) == expected


def test_embeddings_and_scores_are_those_of_the_adapter(made: Made) -> None:
    with launch(**made.options()) as runtime:
        client = runtime.connect()
        found = {}
        for name in (*NAMES, *NAMES):
            heard: list[Any] = []
            branch = client.new_branch(heard.append)
            client.send(
                [
                    bw.runtime.wire.messages.Open(branch, adapter=name),
                    bw.runtime.wire.messages.Text(branch, "the quick brown fox jumps"),
                    bw.runtime.wire.messages.Embed(branch, "vector"),
                    bw.runtime.wire.messages.Select(branch, "choice", ("a", "b")),
                    bw.runtime.wire.messages.Close(branch),
                ]
            )
            assert client.wait(lambda: len(heard) == 3, 60)  # noqa: B023
            result = heard[0].embedding, tuple(score.logprob for score in heard[1].scores)
            assert found.setdefault(name, result) == result
    assert len({vector for vector, _ in found.values()}) == 4
    assert len({scores for _, scores in found.values()}) == 4


# ------------------------------------------------------------------ the store


def stored(client: Backend, name: str) -> tuple[list[list[int]], float]:
    """The answers with an adapter, and how many tokens came out of the store for them."""
    prompts = [tuple((7 * start + 3 * place) % 200 for place in range(300)) for start in range(3)]
    jobs = [Job(prompt, max_tokens=12, ignore_eos=True, adapter=name) for prompt in prompts]
    before = stats(client)["store_tokens_loaded"]
    run_jobs(client, jobs, timeout_s=100)
    return [job.token_ids for job in jobs], stats(client)["store_tokens_loaded"] - before


@pytest.mark.timeout(240)
def test_after_a_restart_a_name_that_stands_for_another_adapter_gives_the_others_answers(
    made: Made, tmp_path: Path
) -> None:
    def serving(**adapters: Path) -> Any:
        return launch(**made.options(kv_store=str(tmp_path / "kv"), adapters=adapters))

    loud, large = made.adapters["loud"], made.adapters["large"]
    louder = tmp_path / "louder"
    shutil.copytree(loud, louder)
    config = msgspec.json.decode((loud / "adapter_config.json").read_bytes())
    config["lora_alpha"] *= 2
    (louder / "adapter_config.json").write_bytes(msgspec.json.encode(config))
    with serving(poet=loud, other=large) as runtime:
        client = runtime.connect()
        first = {name: stored(client, name)[0] for name in ("", "poet", "other")}
    assert len({str(each) for each in first.values()}) == 3
    with serving(poet=large, other=louder) as runtime:
        client = runtime.connect()
        assert stored(client, "poet") == (first["other"], 3 * 256)
        assert stored(client, "") == (first[""], 3 * 256)
        answered, num_loaded = stored(client, "other")
    assert num_loaded == 0
    assert answered not in first.values()


@pytest.mark.parametrize(
    ("adapters", "error", "said"),
    [
        ({"poet": "/nowhere"}, ModelError, "/nowhere"),
        ({"tiny": "/nowhere"}, ConfigError, "--adapter tiny: the model itself has this name"),
    ],
)
def test_an_adapter_that_cannot_be_served_is_a_sentence_at_the_start(
    made: Made, adapters: dict[str, str], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        launch(**made.options(adapters=adapters))


# ------------------------------------------------------------------ over HTTP


@pytest.fixture(scope="module")
def server(made: Made) -> Iterator[RealServer]:
    flags = [f"--adapter={name}={folder}" for name, folder in made.adapters.items()]
    server = RealServer("--model", str(made.folder), "--kv-slots", "4096", *flags)
    yield server
    server.close()


def complete(server: RealServer, model: str) -> str:
    body = {"prompt": "the quick brown fox", "model": model, "temperature": 0, "max_tokens": 8}
    answer = httpx.post(f"{server.url}/v1/completions", json=body, headers=HEADERS, timeout=60)
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"] == model
    text: str = answer.json()["choices"][0]["text"]
    return text


@pytest.mark.timeout(240)
def test_over_http_each_model_name_has_its_text_also_after_the_runtime_was_killed(
    server: RealServer,
) -> None:
    models = httpx.get(f"{server.url}/v1/models", headers=HEADERS).json()["data"]
    names = [model["id"] for model in models if model["parent"] in (None, "tiny")]
    assert names[0] == "tiny"
    assert names[-3:] == ["loud", "small", "large"]
    texts = {name: complete(server, name) for name in names if "/" not in name}
    assert len(set(texts.values())) == 4
    os.kill(server.runtime_pid, signal.SIGKILL)
    server.wait_for("/ready", 503)
    server.wait_for("/ready", 200)
    assert {name: complete(server, name) for name in texts} == texts
