"""I/O: an Ed25519 key pair on disk, and a lock so that only one node uses it.

The private key is stored as PEM (PKCS #8), which any tool reads and which cannot be mistaken for
something else, in a file that only its owner may read. PEM has no checksum, and every 32 bytes are
somebody's key: a bit that has flipped on the disk would make us another peer without a word. So a
line before it, which tools pass over, says whose key it is.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from p2p import files
from p2p.errors import IdentityError
from p2p.peer import PeerId

MAX_FILE = 4096  # bytes; a key takes 119
SAYS = b"gossip-learning identity of "  # before the id, in the first line


class Identity:
    """A private key; whoever has it is the peer `id`."""

    __slots__ = ("_key", "id")

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.id = PeerId(key.public_key().public_bytes_raw())

    @classmethod
    def generate(cls) -> Identity:
        """A new one, from the system's randomness."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def of(cls, secret: bytes) -> Identity:
        """The one that these 32 bytes stand for; for simulations, which must not draw anew."""
        return cls(Ed25519PrivateKey.from_private_bytes(secret))

    def sign(self, data: bytes) -> bytes:
        """A signature of 64 bytes; `verify` checks it."""
        return self._key.sign(data)

    def __repr__(self) -> str:
        return f"Identity({self.id.short})"


def verify(peer_id: PeerId, signature: bytes, data: bytes) -> bool:
    """Whether the owner of that id has signed the data. Never raises, whatever the bytes."""
    try:
        Ed25519PublicKey.from_public_bytes(peer_id).verify(signature, data)
    except (InvalidSignature, ValueError):  # ValueError: the id is no point of the curve
        return False
    return True


def load_or_create(path: Path) -> Identity:
    """The identity in that file; a new one if there is no file.

    Raises:
        IdentityError: the file cannot be used, or not be written; the text says what to do.
    """
    try:
        try:
            return _load(path)
        except FileNotFoundError:
            _create(path)
            return _load(path)
    except OSError as error:
        raise IdentityError(
            f"cannot use {path}: {error.strerror}; make its directory writable for you, or give "
            "another --state-dir"
        ) from error


def create(path: Path) -> Identity:
    """A new identity in a new file.

    Raises:
        IdentityError: there is something at that path already, or it cannot be written.
    """
    try:
        if not _create(path):
            raise IdentityError(f"{path} exists already; give another path")
        return _load(path)
    except OSError as error:
        raise IdentityError(
            f"cannot write {path}: {error.strerror}; give a path in a directory of yours"
        ) from error


def load(path: Path) -> Identity:
    """The identity in that file. Raises IdentityError, which says what to do."""
    try:
        return _load(path)
    except OSError as error:
        raise IdentityError(
            f"cannot read the identity in {path}: {error.strerror}; give another file"
        ) from error


def _load(path: Path) -> Identity:
    pem = files.read_secret(path, MAX_FILE, "the private key", "move it away to get a new identity")
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # TypeError: it is encrypted
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        # The cause is left out on purpose: it may quote the file.
        raise IdentityError(
            f"{path} holds no Ed25519 private key in PEM without a password; restore it from a "
            "backup, or move it away to get a new identity"
        ) from None
    identity = Identity(key)
    said = pem.partition(b"\n")[0]
    if said.startswith(SAYS) and said != SAYS + str(identity.id).encode():
        raise IdentityError(
            f"{path} is damaged: the key in it is not the one that its first line names; restore "
            "it from a backup, or move it away to get a new identity"
        )
    return identity


def _create(path: Path) -> bool:
    """Write a new key: complete, or not at all, and never over another; False if there is one."""
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        files.create(path, SAYS + str(Identity(key).id).encode() + b"\n" + pem)
    except FileExistsError:
        return False  # somebody was faster
    return True


@contextmanager
def lock(state_dir: Path) -> Iterator[None]:
    """Keep others out of the directory; the system lets go when the process ends, however.

    Raises:
        IdentityError: another process holds it, or the directory cannot be used.
    """
    path = state_dir / "lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise IdentityError(
            f"cannot use {state_dir}: {error.strerror}; give another --state-dir"
        ) from error
    with open(descriptor, "r+b", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = file.read(20).decode("ascii", "replace").strip()
            who = f" (process {holder})" if holder.isdigit() else ""
            raise IdentityError(
                f"another node runs with {state_dir}{who}; stop it or give another --state-dir"
            ) from None
        except OSError as error:
            raise IdentityError(
                f"cannot lock {path}: {error.strerror}; give a --state-dir on a local disk"
            ) from error
        file.truncate(0)
        with suppress(OSError):  # a full disk: whoever comes second is not told who was first
            file.write(f"{os.getpid()}\n".encode())
        try:
            yield
        finally:
            file.truncate(0)  # the file stays: removing it would let two nodes lock two files
