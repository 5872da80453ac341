"""Identities on disk."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from p2p.errors import IdentityError
from p2p.identity import Identity, load_or_create, lock, verify
from p2p.peer import PeerId

ALICE, BOB = Identity.generate(), Identity.generate()


@given(st.binary())
def test_what_an_identity_signs_its_id_verifies_and_no_other(data: bytes) -> None:
    signature = ALICE.sign(data)
    assert len(signature) == 64
    assert verify(ALICE.id, signature, data)
    assert not verify(BOB.id, signature, data)
    assert not verify(ALICE.id, signature, data + b"!")


@given(st.binary(min_size=1), st.integers(0, 511))
def test_a_signature_with_one_bit_changed_is_none(data: bytes, bit: int) -> None:
    signature = bytearray(ALICE.sign(data))
    signature[bit // 8] ^= 1 << bit % 8
    assert not verify(ALICE.id, bytes(signature), data)


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=80), st.binary())
def test_no_bytes_make_verify_raise(key: bytes, signature: bytes, data: bytes) -> None:
    assert verify(PeerId(key), signature, data) in (True, False)


def test_an_identity_is_created_once_and_then_loaded(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    first, second = load_or_create(path), load_or_create(path)
    assert first.id == second.id
    assert verify(second.id, first.sign(b"x"), b"x")
    assert [entry.name for entry in tmp_path.iterdir()] == ["identity.key"]


def test_the_file_is_for_its_owner_only_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    before = os.umask(0)
    try:
        load_or_create(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_many_that_create_it_at_once_get_the_same_identity(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        ids = set(pool.map(lambda _: load_or_create(tmp_path / "key").id, range(64)))
    assert len(ids) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o610, 0o602, 0o777])
def test_a_file_that_others_can_use_is_refused_with_the_remedy(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "identity.key"
    load_or_create(path)
    path.chmod(mode)
    with pytest.raises(IdentityError, match=f"chmod 600 {path}"):
        load_or_create(path)


def private(key: Ed25519PrivateKey | X25519PrivateKey, password: bytes = b"") -> bytes:
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"garbage",
        bytes(range(256)) * 64,
        private(Ed25519PrivateKey.generate())[:-40],
        private(Ed25519PrivateKey.generate(), b"password"),
        private(X25519PrivateKey.generate()),
    ],
    ids=["empty", "garbage", "too long", "cut off", "encrypted", "another kind of key"],
)
def test_a_file_that_holds_no_identity_is_named_and_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "identity.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(IdentityError, match=f"{path} holds no Ed25519 private key"):
        load_or_create(path)
    assert path.read_bytes() == content


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("directory", "pipe"):
        with pytest.raises(IdentityError, match=name):
            load_or_create(tmp_path / name)


def test_a_directory_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match=r"missing/identity\.key: No such file"):
        load_or_create(tmp_path / "missing" / "identity.key")
    with pytest.raises(IdentityError, match="missing: No such file"), lock(tmp_path / "missing"):
        pass


def test_the_private_key_shows_nowhere() -> None:
    seed = ALICE._key.private_bytes_raw()
    for text in (repr(ALICE), str(ALICE)):
        assert ALICE.id.short in text
        assert seed.hex() not in text


def test_a_directory_is_locked_while_in_use_and_free_afterwards(tmp_path: Path) -> None:
    with (
        lock(tmp_path),
        pytest.raises(IdentityError, match=rf"{tmp_path} \(process {os.getpid()}\); stop it"),
        lock(tmp_path),
    ):
        pass
    with lock(tmp_path):
        pass


def test_a_lock_ends_with_its_process_even_when_that_is_killed(tmp_path: Path) -> None:
    program = (
        "import pathlib, sys; from p2p.identity import lock\n"
        "with lock(pathlib.Path(sys.argv[1])): print('locked', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(IdentityError, match=f"process {other.pid}"), lock(tmp_path):
            pass
        other.send_signal(signal.SIGKILL)
        other.wait()
    with lock(tmp_path):
        pass
