"""Keys for tcp:// addresses: one file for both sides, and whoever has it may connect.

The file is JSON `{"public": …, "secret": …}` in Z85, mode 0600. The runtime proves itself with the pair, the client
too, and the runtime admits no other pair (ZeroMQ CURVE, RFC 26; admission by ZAP, RFC 27).
"""

import os
from pathlib import Path

import msgspec
import zmq
from zmq.utils import z85

from branchwork.runtime.wire.errors import ConfigError


class KeyPair(msgspec.Struct, frozen=True):
    """A CURVE key pair; each key is 40 characters of Z85."""

    public: str
    secret: str


def write_key_file(path: str) -> None:
    """Make a new key pair in a new file that only its owner can read. Raises ConfigError if the file exists."""
    public, secret = zmq.curve_keypair()
    pair = KeyPair(public.decode(), secret.decode())
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise ConfigError(f"--key-file {path}: {error.strerror}") from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.encode(pair))


def read_key_file(path: str) -> KeyPair:
    """The pair in a key file. Raises ConfigError when there is none or others than its owner may read it."""
    try:
        if os.stat(path).st_mode & 0o077:
            raise ConfigError(f"--key-file {path}: others may read it; chmod 600 {path}")
        pair = msgspec.json.decode(Path(path).read_bytes(), type=KeyPair)
    except OSError as error:
        raise ConfigError(f"--key-file {path}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"--key-file {path}: not a key file ({error})") from error
    if len(pair.public) != 40 or len(pair.secret) != 40:
        raise ConfigError(f"--key-file {path}: a key has 40 characters")
    return pair


def key_for(address: str, key_file: str) -> KeyPair | None:
    """The key that an address needs: none for ipc:// and inproc://, the file's for tcp://.

    Raises ConfigError for tcp:// without a key file, and for any other kind of address.
    """
    scheme = address.partition("://")[0]
    if scheme in ("ipc", "inproc"):
        return None
    if scheme != "tcp":
        raise ConfigError(f"--address {address}: must begin with ipc:// or tcp://")
    if not key_file:
        raise ConfigError(f"--address {address}: tcp:// needs a key; add --key-file")
    return read_key_file(key_file)


def use_as_server(socket: "zmq.Socket[bytes]", pair: KeyPair) -> None:
    """Encrypt a socket that is about to bind, and have each peer admitted by the ZAP handler."""
    socket.curve_server = True
    socket.curve_secretkey = pair.secret.encode()
    socket.zap_domain = b"branchwork"


def use_as_client(socket: "zmq.Socket[bytes]", pair: KeyPair) -> None:
    """Encrypt a socket that is about to connect to a runtime with the same pair."""
    socket.curve_serverkey = pair.public.encode()
    socket.curve_publickey = pair.public.encode()
    socket.curve_secretkey = pair.secret.encode()


def answer_zap(request: list[bytes], pair: KeyPair) -> list[bytes]:
    """The reply to one ZAP request: 200 for the holder of `pair`, 400 for everyone else."""
    if len(request) < 6:
        return [b"1.0", b"", b"500", b"malformed", b"", b""]
    version, number, mechanism = request[0], request[1], request[5]
    known = (
        mechanism == b"CURVE"
        and len(request) == 7
        and z85.encode(request[6]) == pair.public.encode()
    )
    status = (b"200", b"OK") if known else (b"400", b"unknown key")
    return [version, number, *status, b"", b""]
