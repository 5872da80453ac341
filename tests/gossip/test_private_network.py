"""Nodes that share a network key, and nodes that do not."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from p2p import network_key
from tests.daemons import Start, here


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "net.key"
    network_key.create(path)
    return path


def test_a_new_key_is_for_its_owner_alone_and_never_written_over_another(tmp_path: Path) -> None:
    path = tmp_path / "net.key"
    made = here("key", "new", path, "--json")
    assert made.exit_code == 0
    written = path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(made.stdout) == {
        "network": network_key.load(path).id.hex(),
        "file": str(path),
    }
    again = here("key", "new", path)
    assert (again.exit_code, again.stdout) == (3, "")
    assert str(path) in again.stderr
    assert path.read_text() == written


def test_members_find_each_other_and_exchange_without_a_word_in_the_clear(
    start: Start, key: Path
) -> None:
    a = start("a", "--network-key", key, "--listen", "127.0.0.1:0")
    b = start("b", "--network-key", key, "--listen", "127.0.0.1:0", "--join", a.address)
    assert a.reaches("exchanges", 5)["network"] == network_key.load(key).id.hex()
    b.reaches("exchanges", 5)
    secret = key.read_text().strip()
    for node in (a, b):
        assert secret not in node.said
        assert "no network key" not in node.said


def test_a_stranger_is_told_so_and_the_member_says_nothing(
    start: Start, key: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.key"
    network_key.create(other)
    member = start("member", "--network-key", key, "--listen", "127.0.0.1:0")
    address = member.address
    said = member.said
    stranger = start(
        "stranger", "--network-key", other, "--listen", "127.0.0.1:0", "--join", address
    )
    stranger.says(f"{address} is not in our network")
    keyless = start("keyless", "--join", address)
    keyless.says(f"no answer from {address}")
    assert member.said == said
    assert member.status()["peers"] == []


def test_a_key_is_replaced_without_a_moment_in_which_members_do_not_know_each_other(
    start: Start, key: Path, tmp_path: Path
) -> None:
    fresh = tmp_path / "fresh.key"
    network_key.create(fresh)

    def keys(*files: Path) -> list[object]:
        return [argument for file in files for argument in ("--network-key", file)]

    a = start("a", *keys(key, fresh), "--listen", "127.0.0.1:0")
    ahead = start("b", *keys(fresh, key), "--listen", "127.0.0.1:0", "--join", a.address)
    ahead.reaches("exchanges", 5)


def test_environment_and_file_name_the_key_too(
    tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "node.toml").write_text(f'network_key = "{key}"\n')
    life = ["run", "models.digits:learner", "--seconds", 0, "--json"]
    expected = network_key.load(key).id.hex()
    by_file = here(*life, "--config", tmp_path / "node.toml", "--listen", "127.0.0.1:0")
    assert json.loads(by_file.stdout)["network"] == expected
    monkeypatch.setenv("GOSSIP_NETWORK_KEY", str(key))
    by_environment = here(*life, "--listen", "127.0.0.1:0")
    assert json.loads(by_environment.stdout)["network"] == expected


@pytest.mark.parametrize(
    ("mode", "text", "parts"),
    [
        (0o644, None, ["chmod 600"]),
        (0o600, "gossip-network-key-1:abc", ["holds no network key", "48 characters"]),
    ],
)
def test_a_key_that_cannot_be_used_is_code_3(
    key: Path, mode: int, text: str | None, parts: list[str]
) -> None:
    if text is not None:
        key.write_text(text)
    key.chmod(mode)
    result = here("run", "models.digits:learner", "--seconds", 0, "--network-key", key)
    assert (result.exit_code, result.stdout) == (3, "")
    for part in (str(key), *parts):
        assert part in result.stderr
