"""A folder of K/V: what was written is read bit for bit, and nothing else is ever taken for it."""

import errno
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from branchwork.runtime.kv import BLOCK_TOKENS, Ints, KvArrays, Loaded, StoreReport, Unsaved, Wanted
from branchwork.runtime.store import disk
from branchwork.runtime.store.disk import DiskStore
from branchwork.runtime.wire.errors import ConfigError

SHAPES = {"k": ("i2", (2, BLOCK_TOKENS, 1, 4)), "v": ("i2", (2, BLOCK_TOKENS, 1, 4))}
KEY = "0123456789abcdef" * 2
OTHER = "fedcba9876543210" * 2


def ids(num_blocks: int = 1, seed: int = 0) -> Ints:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 1000, num_blocks * BLOCK_TOKENS).astype(np.int32)


def arrays(seed: int = 0) -> KvArrays:
    rng = np.random.default_rng(seed)
    return {
        name: rng.integers(-(1 << 15), 1 << 15, shape).astype(dtype)
        for name, (dtype, shape) in SHAPES.items()
    }


class Opened:
    """A store and what it has reported."""

    def __init__(self, folder: Path, identity: str = "model A") -> None:
        self.reports: list[StoreReport] = []
        self.store = DiskStore(folder, 1 << 30, identity.split("+"), SHAPES, 4096)
        self.found = self.store.start(self.reports.extend)

    def load(self, *blocks: Wanted) -> Loaded:
        self.reports.clear()
        self.store.load(1, blocks)
        self.wait(lambda: any(isinstance(report, Loaded) for report in self.reports))
        (loaded,) = [report for report in self.reports if isinstance(report, Loaded)]
        return loaded

    def wait(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.005)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "store"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def opened(folder: Path) -> Iterator[Callable[..., Opened]]:
    stores: list[Opened] = []

    def make(identity: str = "model A") -> Opened:
        for before in stores:
            before.store.close(60)
        stores[:] = [Opened(folder, identity)]
        return stores[0]

    yield make
    for one in stores:
        one.store.close(60)


def written(opened: Callable[..., Opened], folder: Path) -> Path:
    """One block on disk; returns its file."""
    opened().store.save(Wanted(KEY, ids()), arrays())
    opened()
    path = folder / f"{KEY}.safetensors"
    assert path.is_file()
    return path


def same(left: KvArrays, right: KvArrays) -> bool:
    return left.keys() == right.keys() and all((left[n] == right[n]).all() for n in left)


def test_a_block_is_read_bit_for_bit_by_the_next_runtime(
    opened: Callable[..., Opened], folder: Path
) -> None:
    path = written(opened, folder)
    again = opened()
    ((key, prefix),) = [(block.key, block.prefix) for block in again.found]
    assert key == KEY
    assert prefix is not None
    assert (prefix == ids()).all()
    report = again.load(Wanted(KEY, ids()))
    assert same(report.blocks[0], arrays())
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(folder) == [path.name]


def test_what_is_not_written_yet_is_loaded_from_memory(opened: Callable[..., Opened]) -> None:
    one = opened()
    for number in range(20):
        one.store.save(Wanted(f"{number:032x}", ids(seed=number)), arrays(number))
    wanted = [Wanted(f"{number:032x}", ids(seed=number)) for number in range(20)]
    report = one.load(*wanted)
    assert all(same(kv, arrays(number)) for number, kv in enumerate(report.blocks))
    assert len(report.blocks) == 20


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def replaced_by_link(path: Path) -> None:
    secret = path.with_name("elsewhere")
    path.rename(secret)
    path.symlink_to(secret)


def replaced_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replaced_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replaced_by_zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def with_a_huge_header(path: Path) -> None:
    path.write_bytes((1 << 62).to_bytes(8, "little") + path.read_bytes()[8:])


def with_offsets(path: Path, first: float, last: float) -> None:
    """The tokens said to be elsewhere."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["tokens"]["data_offsets"] = [first, last]
    changed = json.dumps(header).encode()
    path.write_bytes(len(changed).to_bytes(8, "little") + changed + data[8 + size :])


DAMAGE: dict[str, Callable[[Path], None]] = {
    "a byte of K flipped": lambda path: flip(path, path.stat().st_size - 700),
    "the last byte flipped": lambda path: flip(path, path.stat().st_size - 1),
    "a byte of the header flipped": lambda path: flip(path, 60),
    "cut off": lambda path: os.truncate(path, path.stat().st_size // 2),
    "cut off in the header": lambda path: os.truncate(path, 30),
    "empty": lambda path: os.truncate(path, 0),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "a link": replaced_by_link,
    "a folder": replaced_by_folder,
    "a pipe": replaced_by_pipe,
    "zeros": replaced_by_zeros,
    "a huge header": with_a_huge_header,
    "tokens at 10^30": lambda path: with_offsets(path, 10**30, 10**30 + 4 * BLOCK_TOKENS),
    "tokens at 0.0": lambda path: with_offsets(path, 0.0, 4.0 * BLOCK_TOKENS),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_never_used_with_one_warning(
    opened: Callable[..., Opened], folder: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    path = written(opened, folder)
    for number in (1, 2):
        opened().store.save(Wanted(OTHER[:-1] + str(number), ids(seed=1)), arrays())
    one = opened()
    DAMAGE[damage](path)
    with caplog.at_level(logging.WARNING):
        report = one.load(Wanted(KEY, ids()))
        again = one.load(Wanted(KEY, ids()))
    assert (report.blocks, report.lost) == ((), (KEY,))
    assert again.lost == (KEY,)
    warnings = [entry for entry in caplog.records if "is ignored" in entry.message]
    assert len(warnings) == len(caplog.records) == 1
    one.store.save(Wanted(KEY, ids()), arrays())  # and its place can be taken again
    saved = one.load(Wanted(KEY, ids()))
    assert damage == "a folder" or same(saved.blocks[0], arrays())
    assert one.store.state == "open"


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_does_not_disturb_the_opening(
    opened: Callable[..., Opened], folder: Path, damage: str
) -> None:
    path = written(opened, folder)
    opened().store.save(Wanted(OTHER, ids(seed=1)), arrays())
    opened()
    DAMAGE[damage](path)
    again = opened()
    assert OTHER in [block.key for block in again.found if block.prefix is not None]
    damaged = [block.prefix for block in again.found if block.key == KEY]
    # A flipped byte of K is found when the block is loaded.
    assert all(prefix is None or (prefix == ids()).all() for prefix in damaged)


def test_a_block_of_other_tokens_is_not_used(opened: Callable[..., Opened], folder: Path) -> None:
    written(opened, folder)
    report = opened().load(Wanted(KEY, ids(seed=5)))
    assert (report.blocks, report.lost) == ((), (KEY,))


def test_a_block_of_another_model_is_ignored_with_one_warning_and_left(
    opened: Callable[..., Opened], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = written(opened, folder)
    opened("model B")
    assert [entry.message for entry in caplog.records if "1 blocks of other models" in entry.message]  # fmt: skip
    with caplog.at_level(logging.WARNING):
        caplog.clear()
        one = opened("model B")
    assert len(caplog.records) == 1
    ((key, prefix, size),) = [(block.key, block.prefix, block.size) for block in one.found]
    assert (key, prefix, size) == (KEY, None, path.stat().st_size)
    assert path.is_file()


def test_only_files_named_like_blocks_are_removed(
    opened: Callable[..., Opened], folder: Path
) -> None:
    for name in ("notes.txt", "model.safetensors", f"{KEY}.safetensors.bak", f"{OTHER}.tmp"):
        (folder / name).write_text("mine")
    one = opened()
    one.store.save(Wanted(KEY, ids()), arrays())
    one.store.remove([KEY])
    one.load(Wanted(KEY, ids()))
    assert sorted(os.listdir(folder)) == [f"{KEY}.safetensors.bak", "model.safetensors", "notes.txt"]  # fmt: skip


def test_a_full_disk_costs_one_warning_and_is_left_alone_for_a_while(
    opened: Callable[..., Opened],
    folder: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = opened()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(one.store, "_write", full)
        for number in range(3):
            one.store.save(Wanted(f"{number:032x}", ids()), arrays())
        one.wait(lambda: len(one.reports) == 3)
    assert all(isinstance(report, Unsaved) for report in one.reports)
    assert one.store.state == "broken"
    assert len(caplog.records) == 1
    assert os.listdir(folder) == []
    monkeypatch.setattr(one.store, "_paused_until_s", 0.0)
    one.store.save(Wanted(KEY, ids()), arrays())
    assert same(one.load(Wanted(KEY, ids())).blocks[0], arrays())


def test_too_much_that_waits_to_be_written_makes_it_busy(
    opened: Callable[..., Opened], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = opened()
    monkeypatch.setattr(disk, "MAX_WAITING_BYTES", 5000)
    with one.store._changed:  # the thread cannot take them
        states = []
        for number in range(3):
            one.store._saves[str(number)] = Wanted(str(number), ids()), arrays()
            one.store._waiting_bytes += 4096
            states.append(one.store.state)
        one.store._saves.clear()
        one.store._waiting_bytes = 0
    assert states == ["open", "busy", "busy"]


def test_the_folder_must_be_this_users_alone(folder: Path, tmp_path: Path) -> None:
    folder.chmod(0o750)
    with pytest.raises(ConfigError, match="chmod 700"):
        Opened(folder)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="--kv-store"):
        Opened(tmp_path / "file")
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(ConfigError, match="--kv-store"):
        Opened(tmp_path / "link")
    made = Opened(tmp_path / "new" / "store")
    assert (tmp_path / "new" / "store").stat().st_mode & 0o777 == 0o700
    made.store.close(1)


def test_two_runtimes_do_not_share_a_folder(
    opened: Callable[..., Opened], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened()
    monkeypatch.setattr(disk, "LOCK_S", 0.1)
    with pytest.raises(ConfigError, match="another runtime uses it"):
        Opened(folder)


def test_use_is_remembered_for_the_next_opening(
    opened: Callable[..., Opened], folder: Path
) -> None:
    one = opened()
    for key in (KEY, OTHER):
        one.store.save(Wanted(key, ids()), arrays())
    one = opened()
    for number, key in enumerate((KEY, OTHER)):
        os.utime(folder / f"{key}.safetensors", (number, number))
    one.store.used([KEY])
    assert [block.key for block in opened().found] == [OTHER, KEY]


def test_what_waits_is_written_before_it_is_closed(
    opened: Callable[..., Opened], folder: Path
) -> None:
    one = opened()
    wanted: Sequence[Wanted] = [Wanted(f"{n:032x}", ids(seed=n)) for n in range(30)]
    for block in wanted:
        one.store.save(block, arrays())
    assert len(opened().found) == 30
