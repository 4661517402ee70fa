import os
import stat
from pathlib import Path

import pytest
import zmq

from branchwork.runtime.wire.curve import answer_zap, key_for, read_key_file, write_key_file
from branchwork.runtime.wire.errors import ConfigError


def test_a_key_file_is_read_as_it_was_written_and_is_its_owners_alone(tmp_path: Path) -> None:
    path = str(tmp_path / "key")
    write_key_file(path)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    pair = read_key_file(path)
    assert len(pair.public) == len(pair.secret) == 40
    assert zmq.curve_public(pair.secret.encode()) == pair.public.encode()


def test_a_key_file_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("precious")
    with pytest.raises(ConfigError, match="File exists"):
        write_key_file(str(path))
    assert path.read_text() == "precious"


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    write_key_file(str(path))
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_key_file(str(path))


@pytest.mark.parametrize("content", ["", "{}", '{"public": "x", "secret": "y"}', "\x80"])
def test_a_file_that_is_no_key_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "key"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="key"):
        read_key_file(str(path))


def test_an_absent_key_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        key_for("tcp://127.0.0.1:1", str(tmp_path / "absent"))


def test_only_the_holder_of_the_pair_is_admitted(tmp_path: Path) -> None:
    path = str(tmp_path / "key")
    write_key_file(path)
    pair = read_key_file(path)
    other, _ = zmq.curve_keypair()

    def status(*credentials: bytes, mechanism: bytes = b"CURVE") -> bytes:
        head = [b"1.0", b"7", b"branchwork", b"127.0.0.1", b"", mechanism]
        return answer_zap([*head, *credentials], pair)[2]

    assert status(zmq.utils.z85.decode(pair.public)) == b"200"
    assert status(zmq.utils.z85.decode(other)) == b"400"
    assert status(mechanism=b"NULL") == b"400"
    assert status(b"name", b"password", mechanism=b"PLAIN") == b"400"
    assert answer_zap([b"1.0"], pair)[2] == b"500"
