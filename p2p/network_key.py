"""I/O: the secret that makes a network private: 32 random bytes that all its members share.

Nothing is ever encrypted with the key itself. What is needed is derived from it (HKDF, RFC 5869),
under a name for each purpose, so that no two purposes share a secret, and so that the network's
`id` can be shown to everybody.

In a file the key is one line of text: a version, the key, and a checksum, which notices a truncated
or mistyped copy before it is taken for another network's key.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
from pathlib import Path

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from p2p import files
from p2p.errors import IdentityError

KEY_SIZE = 32  # bytes
CHECK_SIZE = 4  # bytes of SHA-256; 36 bytes are 48 characters of base64 without padding
ID_SIZE = 8  # bytes; enough to tell networks apart, of no use to guess the key
PREFIX = "gossip-network-key-1:"
MAX_FILE = 4096  # bytes; a key takes 70


class NetworkKey:
    """The shared secret of one network; `id` names the network and may be shown to anybody."""

    __slots__ = ("_secret", "id")

    def __init__(self, secret: bytes) -> None:
        if len(secret) != KEY_SIZE:
            raise ValueError(f"a network key is {KEY_SIZE} bytes, not {len(secret)}")
        self._secret = secret
        self.id = self.derive("network id", ID_SIZE)

    @classmethod
    def generate(cls) -> NetworkKey:
        """A new one, from the system's randomness."""
        return cls(secrets.token_bytes(KEY_SIZE))

    @classmethod
    def parse(cls, text: str) -> NetworkKey:
        """Read what `reveal` wrote. Raises ValueError; the text never quotes the key."""
        version, key = text[: len(PREFIX)], text[len(PREFIX) :]
        if version != PREFIX:
            raise ValueError(f"it does not begin with {PREFIX}")
        try:
            raw = base64.b64decode(key.encode("ascii"), altchars=b"-_", validate=True)
        except (binascii.Error, UnicodeEncodeError):
            raw = b""
        if len(raw) != KEY_SIZE + CHECK_SIZE:
            raise ValueError(f"after {PREFIX} there must be 48 characters of base64")
        if _check(raw[:KEY_SIZE]) != raw[KEY_SIZE:]:
            raise ValueError("its checksum is wrong, so it is not what was written")
        return cls(raw[:KEY_SIZE])

    def reveal(self) -> str:
        """The key as text, for its file and nowhere else."""
        raw = self._secret + _check(self._secret)
        return PREFIX + base64.urlsafe_b64encode(raw).decode()

    def derive(self, purpose: str, size: int = KEY_SIZE) -> bytes:
        """That many bytes which only members can compute, different for each purpose."""
        info = f"gossip-learning 1 {purpose}".encode()
        return HKDF(SHA256(), size, salt=None, info=info).derive(self._secret)

    def __repr__(self) -> str:
        return f"NetworkKey({self.id.hex()})"


def _check(secret: bytes) -> bytes:
    return hashlib.sha256(PREFIX.encode() + secret).digest()[:CHECK_SIZE]


def create(path: Path) -> NetworkKey:
    """Write a new key to a new file that only its owner can read.

    Raises:
        IdentityError: there is something at that path already, or it cannot be written.
    """
    key = NetworkKey.generate()
    try:
        files.create(path, f"{key.reveal()}\n".encode())
    except FileExistsError:
        raise IdentityError(
            f"{path} exists already, and a network key that is lost cannot be had back; give "
            "another path: gossip key new FILE"
        ) from None
    except OSError as error:
        raise IdentityError(
            f"cannot write {path}: {error.strerror}; give a path in a directory of yours: gossip "
            "key new FILE"
        ) from error
    return key


def load(path: Path) -> NetworkKey:
    """The key in that file.

    Raises:
        IdentityError: there is none, or others can read it; the text says what to do.
    """
    try:
        data = files.read_secret(
            path, MAX_FILE, "the network key", "give the file with the network key"
        )
    except FileNotFoundError:
        raise IdentityError(
            f"there is no network key in {path}; copy it from another member, or begin a new "
            f"network: gossip key new {path}"
        ) from None
    except OSError as error:
        raise IdentityError(f"cannot read the network key in {path}: {error.strerror}") from error
    try:
        return NetworkKey.parse(data.decode("ascii", "replace").strip())
    except ValueError as error:
        raise IdentityError(
            f"{path} holds no network key: {error}; copy it again from another member, or begin a "
            "new network: gossip key new FILE"
        ) from None
