"""The secret of a network and its file."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.errors import IdentityError
from p2p.network_key import KEY_SIZE, PREFIX, NetworkKey, create, load

KEY = NetworkKey(bytes(range(KEY_SIZE)))


@given(st.binary(min_size=KEY_SIZE, max_size=KEY_SIZE))
def test_parse_inverts_reveal(secret: bytes) -> None:
    key = NetworkKey(secret)
    assert NetworkKey.parse(key.reveal()).reveal() == key.reveal()
    assert NetworkKey.parse(key.reveal()).id == key.id


def test_a_key_from_the_first_version_is_still_read() -> None:
    text = "gossip-network-key-1:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8yAnZ7"
    assert KEY.reveal() == text
    assert KEY.id.hex() == "bbe15f68dd183404"


def test_what_is_derived_differs_for_each_purpose_and_each_key() -> None:
    other = NetworkKey(bytes(KEY_SIZE))
    derived = [
        key.derive(purpose, 8) for key in (KEY, other) for purpose in ("a", "b", "network id")
    ]
    assert len(set(derived)) == 6
    assert KEY.derive("a", 8) == NetworkKey(bytes(range(KEY_SIZE))).derive("a", 8)
    assert len(KEY.derive("a")) == 32
    assert KEY.id == KEY.derive("network id", 8)


@given(st.integers(0, len(KEY.reveal()) - 1), st.characters(codec="ascii"))
def test_a_character_that_is_wrong_or_missing_is_noticed(place: int, wrong: str) -> None:
    text = KEY.reveal()
    for bad in (
        text[:place],
        text[:place] + text[place + 1 :],
        text[:place] + wrong + text[place:],
    ):
        with pytest.raises(ValueError, match=r"begin|48 characters|checksum"):
            NetworkKey.parse(bad)
    if text[place] != wrong:
        with pytest.raises(ValueError, match=r"begin|48 characters|checksum"):
            NetworkKey.parse(text[:place] + wrong + text[place + 1 :])


@given(st.text())
def test_any_other_text_is_refused(text: str) -> None:
    for each in (text, PREFIX + text):
        with pytest.raises(ValueError, match=r"begin|48 characters"):
            NetworkKey.parse(each)


def test_a_key_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes, not 31"):
        NetworkKey(bytes(31))


# the file -----------------------------------------------------------------------------------------


def test_a_key_that_is_created_is_loaded_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "network.key"
    old = os.umask(0)
    try:
        key = create(path)
    finally:
        os.umask(old)
    assert load(path).reveal() == key.reveal()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["network.key"]
    assert create(tmp_path / "other").id != key.id


def test_a_key_is_never_written_over_anything(tmp_path: Path) -> None:
    path = tmp_path / "network.key"
    key = create(path)
    with pytest.raises(IdentityError, match=f"{path} exists already.*gossip key new FILE"):
        create(path)
    assert load(path).reveal() == key.reveal()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere")
    with pytest.raises(IdentityError, match="exists already"):
        create(link)
    assert sorted(os.listdir(tmp_path)) == ["link", "network.key"]


def test_a_key_that_cannot_be_written_is_named_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "network.key"
    with pytest.raises(IdentityError, match=f"cannot write {path}: No such file.*gossip key new"):
        create(path)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o620])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "network.key"
    create(path)
    path.chmod(mode)
    with pytest.raises(IdentityError, match=f"mode {mode:o}.*: chmod 600 {path}"):
        load(path)


def test_a_missing_key_is_named_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "network.key"
    with pytest.raises(IdentityError, match=f"no network key in {path}.*gossip key new {path}"):
        load(path)


def test_a_directory_and_a_pipe_are_no_key(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(IdentityError, match="is not a file"):
        load(pipe)
    with pytest.raises(IdentityError, match="cannot read the network key"):
        load(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"\xff\xfe\x00",
        b"x" * 100_000,
        KEY.reveal()[:-1].encode(),
        b"-----BEGIN PRIVATE",
    ],
    ids=["empty", "a line", "no text", "long", "truncated", "PEM"],
)
def test_a_file_that_holds_no_key_is_named_and_never_quoted(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "network.key"
    path.touch(0o600)
    path.write_bytes(content)
    with pytest.raises(IdentityError, match=f"{path} holds no network key") as caught:
        load(path)
    assert KEY.reveal()[len(PREFIX) : -1] not in str(caught.value)


def test_white_space_around_a_key_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "network.key"
    path.touch(0o600)
    path.write_text(f"\n  {KEY.reveal()}\r\n\n")
    assert load(path).id == KEY.id


def test_a_key_does_not_show_itself() -> None:
    for shown in (repr(KEY), str(KEY), f"{KEY}", repr([KEY])):
        assert KEY.id.hex() in shown
        assert bytes(range(KEY_SIZE)).hex() not in shown
        assert KEY.reveal()[len(PREFIX) :] not in shown
