"""Settings from TOML and from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from gossip.config import Config, check, read
from gossip.errors import ConfigError


def toml(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "node.toml"
    path.write_text(text)
    return path


def test_without_a_file_everything_has_its_default() -> None:
    assert read(None) == Config()


def test_a_file_sets_what_it_names_and_leaves_the_rest(tmp_path: Path) -> None:
    path = toml(
        tmp_path,
        """
        listen = "127.0.0.1:7946"
        join = ["10.0.0.5:7946", "node.example:7946"]
        state_dir = "node0"
        [swarm.links]
        most = 7
        [agent.exchange.codec]
        density = 0.05
        """,
    )
    config = read(path)
    assert config.listen == "127.0.0.1:7946"
    assert config.join == ("10.0.0.5:7946", "node.example:7946")
    assert config.state_dir == Path("node0")
    assert config.swarm.links.most == 7
    assert config.agent.exchange.codec.density == 0.05
    assert config.swarm.overlay == Config().swarm.overlay
    assert config.threads == Config().threads


def test_the_command_line_has_the_last_word_where_it_says_something(tmp_path: Path) -> None:
    path = toml(tmp_path, 'listen = "127.0.0.1:1"\nseed = 3\n')
    config = read(path, listen="127.0.0.1:2", seed=None, join=("10.0.0.5:7946",))
    assert config == Config(listen="127.0.0.1:2", seed=3, join=("10.0.0.5:7946",))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("lissten = 'x'", ["there is no setting lissten, did you mean listen?"]),
        (
            "[agent.exchange]\ndigest_evry = 1",
            ["there is no setting agent.exchange.digest_evry", "agent.exchange.digest_every?"],
        ),
        ("listen = \n", ["is not TOML", "line 1"]),
        ("threads = 'x'", ["threads", "integer", "'x'"]),
        ("threads = 0", ["threads is at least 1, not 0"]),
        ("swarm = 3", ["swarm", "3"]),
        ("transport = 'pigeon'", ["transport", "'auto', 'udp' or 'tcp'", "'pigeon'"]),
        ("join = '10.0.0.5:7946'", ["join", "'10.0.0.5:7946'"]),
        ("listen = '127.0.0.1'", ["listen: '127.0.0.1' is not HOST:PORT"]),
        ("api = '127.0.0.1:65536'", ["api: '127.0.0.1:65536' is not HOST:PORT"]),
        ("join = ['x']", ["join: 'x' is not HOST:PORT"]),
        ("checkpoint_every = 0", ["checkpoint_every", "above 0, not 0"]),
        ("checkpoint_every = nan", ["checkpoint_every", "not nan"]),
        ("evaluate_every = -1.5", ["evaluate_every", "not -1.5"]),
        ("[agent.exchange.codec]\ndensity = 7", ["agent.exchange.codec: density", "7.0"]),
        ("lissten = 'x'\nthreads = 'x'", ["lissten", "threads"]),
    ],
)
def test_what_is_wrong_in_a_file_is_said_in_one_line(
    tmp_path: Path, text: str, parts: list[str]
) -> None:
    path = toml(tmp_path, text)
    with pytest.raises(ConfigError) as raised:
        read(path)
    said = str(raised.value)
    assert "\n" not in said
    assert len(said) < 400, "not the whole table"
    for part in [str(path), *parts]:
        assert part in said


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path, cause in (
        (tmp_path / "none.toml", "No such file"),
        (tmp_path, "Is a directory"),
    ):
        with pytest.raises(ConfigError, match=cause) as raised:
            read(path)
        assert str(path) in str(raised.value)
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is not TOML"):
        read(binary)


def test_a_file_is_not_blamed_for_the_command_line(tmp_path: Path) -> None:
    path = toml(tmp_path, "threads = 2")
    with pytest.raises(ConfigError, match=r"^the command line: listen: 'foo' is not HOST:PORT"):
        read(path, listen="foo")


def test_values_from_python_are_converted_and_checked() -> None:
    config = check({"state_dir": "node0", "join": ["10.0.0.5:7946"]}, "gossip.join")
    assert config.state_dir == Path("node0")
    assert config.join == ("10.0.0.5:7946",)
    with pytest.raises(ConfigError, match=r"gossip\.join: .*did you mean state_dir\?"):
        check({"statedir": "node0"}, "gossip.join")


def test_a_config_made_by_hand_is_checked_too() -> None:
    with pytest.raises(ValueError, match="api: 'x' is not HOST:PORT"):
        Config(api="x")


@pytest.mark.parametrize("name", ["x" * 33, "\x1b[2J"])
def test_a_name_that_no_record_can_hold_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="name is a printable text of at most 32 bytes"):
        check({"name": name}, "here")
