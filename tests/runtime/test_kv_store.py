"""A real model over a store on disk: the next runtime goes on where the last one ended, bit for bit."""

import os
import subprocess
from pathlib import Path

import pytest
from tests.make_model import make_model
from tests.make_tokenizer import byte_level

from branchwork.bench.load import Job, run_jobs, stats
from branchwork.runtime.wire.backend import Backend
from branchwork.runtime.wire.errors import ConfigError
from branchwork.runtime.wire.launcher import launch

PROMPTS = [tuple((7 * start + 3 * place) % 200 for place in range(300)) for start in range(6)]


def answers(client: Backend) -> list[list[int]]:
    jobs = [Job(prompt, max_tokens=12, ignore_eos=True) for prompt in PROMPTS]
    run_jobs(client, jobs, timeout_s=100)
    return [job.token_ids for job in jobs]


def options(folder: Path, store: Path, **changes: object) -> dict[str, object]:
    return {
        "model": str(folder), "dtype": "bfloat16", "kv_slots": 4096, "kv_store": str(store), **changes
    }  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("model")
    tokenizer = byte_level()
    make_model(
        path, "qwen2", vocab_size=tokenizer.get_vocab_size(), max_position_embeddings=1024
    )  # fmt: skip
    tokenizer.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text('{"eos_token": "<|im_end|>"}')
    return path


@pytest.fixture(scope="module")
def filled(
    folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, list[list[int]]]:
    """A store that a runtime has left, and what it had answered."""
    store = tmp_path_factory.mktemp("kv")
    store.chmod(0o700)
    with launch(**options(folder, store)) as runtime:  # type: ignore[arg-type]
        expected = answers(runtime.connect())
    return store, expected


@pytest.fixture
def store(filled: tuple[Path, list[list[int]]], tmp_path: Path) -> Path:
    """A copy of it."""
    copy = tmp_path / "kv"
    subprocess.run(["cp", "-a", filled[0], copy], check=True)
    return copy


def test_the_next_runtime_loads_what_the_last_one_computed_and_writes_the_same_text(
    folder: Path,
    store: Path,
    filled: tuple[Path, list[list[int]]],
) -> None:
    with launch(**options(folder, store)) as runtime:  # type: ignore[arg-type]
        client = runtime.connect()
        before = stats(client)
        assert before["store_blocks"] == 12
        assert answers(client) == filled[1]
        after = stats(client)
    assert after["store_tokens_loaded"] == 6 * 256
    assert after["tokens_computed"] - before["tokens_computed"] == 6 * (300 - 256 + 11)


def test_what_is_evicted_comes_back_with_the_same_text(
    folder: Path,
    tmp_path: Path,
    filled: tuple[Path, list[list[int]]],
) -> None:
    with launch(**options(folder, tmp_path / "new", kv_slots=700, threads=1)) as runtime:  # type: ignore[arg-type]
        client = runtime.connect()
        for _ in range(3):
            assert answers(client) == filled[1]
        assert stats(client)["store_tokens_loaded"] > 0


def test_a_store_of_another_type_or_model_is_not_used(
    folder: Path,
    store: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with launch(**options(folder, store, dtype="float32")) as runtime:  # type: ignore[arg-type]
        client = runtime.connect()
        answers(client)
        assert stats(client)["store_tokens_loaded"] == 0
    assert capfd.readouterr().err.count("blocks of other models or versions") == 1


def test_a_store_that_was_tampered_with_is_not_used(
    folder: Path, store: Path, filled: tuple[Path, list[list[int]]],
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for path in store.glob("*.safetensors"):
        data = bytearray(path.read_bytes())
        data[-100] ^= 64
        path.write_bytes(data)
    with launch(**options(folder, store)) as runtime:  # type: ignore[arg-type]
        client = runtime.connect()
        assert answers(client) == filled[1]
        assert stats(client)["store_tokens_loaded"] == 0
    assert capfd.readouterr().err.count("is ignored and removed") == 1


def test_a_full_disk_is_said_once_and_served_on(
    folder: Path, tmp_path: Path, filled: tuple[Path, list[list[int]]],
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    mount = tmp_path / "small"
    mount.mkdir(mode=0o700)
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "tmpfs", mount], capture_output=True
    )
    if made.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        with launch(**options(folder, mount, kv_slots=700)) as runtime:  # type: ignore[arg-type]
            client = runtime.connect()
            for _ in range(2):
                assert answers(client) == filled[1]
        assert capfd.readouterr().err.count("cannot be written to") == 1
    finally:
        subprocess.run(["umount", mount], check=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prefix_cache": False}, "--kv-store: nothing is kept with --prefix-cache off"),
        ({"kv_store": "", "host_kv_bytes": 1 << 30}, "--host-kv-bytes: the pool of a CPU is in"),
        ({"host_kv_bytes": 1 << 30}, "choose one"),
        ({"kv_store": "/proc/none"}, "--kv-store /proc/none: "),
    ],
)
def test_a_store_that_cannot_be_is_refused_with_the_option_to_change(
    folder: Path,
    tmp_path: Path,
    changes: dict[str, object],
    message: str,
) -> None:
    with pytest.raises(ConfigError, match=message):
        launch(**options(folder, tmp_path / "kv", **changes)).close()  # type: ignore[arg-type]


def test_the_folder_is_private_and_its_lock_ends_with_the_runtime(
    folder: Path,
    tmp_path: Path,
) -> None:
    path = tmp_path / "kv"
    with launch(**options(folder, path)) as runtime:  # type: ignore[arg-type]
        assert path.stat().st_mode & 0o777 == 0o700
        runtime.kill()
        runtime.wait_exit(10)
    with launch(**options(folder, path)) as runtime:  # type: ignore[arg-type]
        answers(runtime.connect())
    assert len(os.listdir(path)) == 12
