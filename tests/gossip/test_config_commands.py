"""Where settings are said, and the commands that write, show and check them."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from pydantic import TypeAdapter

from gossip.cli import main
from gossip.config import Config, check, read
from gossip.config_text import docstrings, settings, shown, template
from gossip.errors import ConfigError
from gossip.origins import lines, variables


def gossip(*arguments: object, **environment: str) -> Result:
    """Run `gossip config` in this process."""
    result = CliRunner().invoke(main, ["config", *map(str, arguments)], env=environment)
    assert isinstance(result.exception, SystemExit | None), result.exception
    return result


def wrote(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


# lines --------------------------------------------------------------------------------------------


def test_every_key_has_the_line_on_which_its_statement_begins() -> None:
    text = '''# a comment
name = """
join = 3
[access]
"""
join = [
    "a:1",  # [swarm]
    "b:2",
]

[ swarm . "links" ]
most = 7
swap.every = 1
inline = {a = 1, b = {c = 2}}

[[cells]]
x = 1
[[cells]]
x = 2
'''
    assert "name" in tomllib.loads(text), "or the test is wrong"
    assert lines(text) == {
        ("name",): 2,
        ("join",): 6,
        ("swarm", "links"): 11,
        ("swarm", "links", "most"): 12,
        ("swarm", "links", "swap", "every"): 13,
        ("swarm", "links", "inline", "a"): 14,
        ("swarm", "links", "inline", "b", "c"): 14,
        ("cells", 0): 16,
        ("cells", 0, "x"): 17,
        ("cells", 1): 18,
        ("cells", 1, "x"): 19,
    }


def test_what_is_wrong_in_a_file_is_said_all_at_once_and_with_its_lines(tmp_path: Path) -> None:
    path = wrote(
        tmp_path / "node.toml",
        'threads = "x"\n\n[agent.exchange]\ndigest_evry = 1\n[swarm.links]\nmost = [\n1]\n',
    )
    with pytest.raises(ConfigError) as raised:
        read(path, {})
    for part in (
        "line 1: threads: Input should be a valid integer",
        "line 4: there is no setting agent.exchange.digest_evry, did you mean",
        "line 6: swarm.links.most: Input should be a valid integer, not [1]",
    ):
        assert part in str(raised.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lan = false\nthreads = 0\n", "line 2: threads is at least 1"),
        ("lan = false\n\napi = 'x'\n", "line 3: api: 'x' is not HOST:PORT"),
        ("\n[agent.exchange.codec]\n\ndensity = 7\n", "line 4: agent.exchange.codec: density"),
        ('\n[access]\nmode = "allow"\n', 'line 3: access: mode "allow" needs the file'),
    ],
)
def test_a_value_that_is_refused_has_its_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read(wrote(tmp_path / "node.toml", text), {})
    assert f"node.toml: {said}" in str(raised.value)


# the environment ----------------------------------------------------------------------------------


def test_the_command_line_comes_before_the_environment_before_the_file(tmp_path: Path) -> None:
    path = wrote(
        tmp_path / "node.toml",
        "threads = 2\nseed = 2\nevaluate_every = 2.0\n[swarm.links]\nmost = 2\nours = 1\n",
    )
    environment = {"GOSSIP_THREADS": "3", "GOSSIP_SEED": "3", "GOSSIP_SWARM__LINKS__MOST": "3"}
    config = read(path, environment, threads=4, seed=None)
    assert (config.threads, config.seed, config.evaluate_every) == (4, 3, 2.0)
    assert (config.swarm.links.most, config.swarm.links.ours) == (3, 1)


def test_the_environment_sets_values_of_every_kind() -> None:
    environment = {
        "GOSSIP_JOIN": "10.0.0.5:7946,node.example:7946",
        "GOSSIP_NETWORK_KEY": "old.key:new.key",
        "GOSSIP_STATE_DIR": "node0",
        "GOSSIP_LAN": "false",
        "GOSSIP_TRANSPORT": "tcp",
        "GOSSIP_AGENT__EXCHANGE__CODEC__DENSITY": "0.05",
        "GOSSIP_NAME": "",  # says nothing
    }
    config = read(None, environment)
    assert config.join == ("10.0.0.5:7946", "node.example:7946")
    assert config.network_key == (Path("old.key"), Path("new.key"))
    assert config.state_dir == Path("node0")
    assert (config.lan, config.transport, config.name) == (False, "tcp", "")
    assert config.agent.exchange.codec.density == 0.05


def test_variables_of_others_are_left_alone() -> None:
    environment = {
        "GOSSIP_PORT": "tcp://10.0.0.1:7946",
        "GOSSIP_API_TOKEN": "x",
        "GOSSIP_OFF": "1",
        "GOSSIP_SERVICE_HOST": "10.0.0.1",
        "PATH__X": "/bin",
    }
    assert variables(environment, Config) == ({}, {})
    assert read(None, environment) == Config()


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("GOSSIP_THREADS", "many", "threads: Input should be a valid integer"),
        ("GOSSIP_AGENT__EXCHANG__X", "1", "there is no setting agent.exchang, did you mean"),
        ("GOSSIP_JOIN", "a:1,b", "join: 'b' is not HOST:PORT"),
        ("GOSSIP_SWARM__LINKS", "3", "swarm.links: "),
        ("GOSSIP_LISTEN__PORT", "3", "listen: Input should be a valid string"),
    ],
)
def test_what_is_wrong_in_the_environment_is_said_with_its_variable(
    tmp_path: Path, name: str, text: str, said: str
) -> None:
    path = wrote(tmp_path / "node.toml", "seed = 3\n")
    with pytest.raises(ConfigError) as raised:
        read(path, {name: text})
    assert str(raised.value).startswith(f"the environment: ${name}: {said}")


def test_file_and_environment_are_each_blamed_for_their_own(tmp_path: Path) -> None:
    path = wrote(tmp_path / "node.toml", "threads = 0\n")
    with pytest.raises(ConfigError) as raised:
        read(path, {"GOSSIP_EVALUATE_EVERY": "0"})
    said = str(raised.value)
    assert said.startswith(f"{path}: line 1: threads is at least 1, not 0; the environment: ")
    assert "$GOSSIP_EVALUATE_EVERY: evaluate_every is a number of seconds above 0" in said


def test_a_node_listens_to_the_environment() -> None:
    result = CliRunner().invoke(
        main, ["run", "models.digits:learner"], env={"GOSSIP_EVALUATE_EVERY": "0"}
    )
    assert result.exit_code == 3
    assert result.stderr.startswith("gossip: the environment: $GOSSIP_EVALUATE_EVERY: ")


# the commands -------------------------------------------------------------------------------------


def test_a_file_to_begin_with_sets_nothing_and_shows_every_default(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    assert gossip("init", path).exit_code == 0
    assert read(path, {}) == Config()
    kept = [
        line.removeprefix("# ")
        for line in path.read_text().splitlines()
        if (" = " in line or line.startswith("[")) and '"PATH"' not in line
    ]
    table = tomllib.loads("\n".join(kept))
    assert check(table, "what was commented out") == Config()
    assert len(table) > 10


def test_a_file_to_begin_with_is_never_written_over_another(tmp_path: Path) -> None:
    path = wrote(tmp_path / "node.toml", "seed = 3\n")
    result = gossip("init", path)
    assert (result.exit_code, path.read_text()) == (3, "seed = 3\n")
    assert f"{path} exists already" in result.stderr
    result = gossip("init", tmp_path / "none" / "node.toml")
    assert result.exit_code == 3
    assert "No such file or directory" in result.stderr


def test_every_setting_of_the_template_says_what_it_means() -> None:
    assert docstrings(Config)["api"] == "HOST:PORT of the local API; loopback only."
    assert "# HOST:PORT of the local API; loopback only.\n# api = " in template(Path("x.toml"))


def test_the_settings_that_are_shown_read_back_as_they_are(tmp_path: Path) -> None:
    config = check(
        {
            "name": 'a "quote" \\ é',
            "join": ["10.0.0.5:7946"],
            "state_dir": "dir\x7f",
            "agent": {"exchange": {"codec": {"density": 0.00001}}},
        },
        "here",
    )
    assert check(tomllib.loads(shown(config)), "shown") == config
    origins = {keys: "here" for keys, _ in settings(config)}
    assert check(tomllib.loads(shown(config, origins)), "shown") == config


def test_show_says_who_set_what(tmp_path: Path) -> None:
    path = wrote(tmp_path / "node.toml", "\nthreads = 2\nseed = 2\n")
    arguments = ("show", "--config", path)
    result = gossip(*arguments, "--origin", GOSSIP_SEED="3")
    assert f"\nthreads = 2  # {path}:2\n" in result.stdout
    assert "\nseed = 3  # $GOSSIP_SEED\n" in result.stdout
    assert '\ntransport = "auto"  # default\n' in result.stdout
    found = json.loads(gossip(*arguments, "--json", GOSSIP_SEED="3").stdout)
    assert found["threads"] == {"value": 2, "origin": f"{path}:2"}
    assert found["seed"] == {"value": 3, "origin": "$GOSSIP_SEED"}
    assert found["swarm.links.most"] == {"value": 5, "origin": "default"}


def test_check_says_everything_one_a_line_and_exits_with_3(tmp_path: Path) -> None:
    path = wrote(tmp_path / "node.toml", "lissten = 'x'\nthreads = 'x'\n")
    result = gossip("check", path, GOSSIP_SEED="x")
    assert (result.exit_code, result.stdout) == (3, "")
    first, second, third = result.stderr.splitlines()
    assert first.startswith(f"gossip: {path}: line 1: there is no setting lissten")
    assert second.startswith(f"gossip: {path}: line 2: threads: ")
    assert third.startswith("gossip: the environment: $GOSSIP_SEED: seed: ")
    result = gossip("check", path, "--json")
    assert (result.exit_code, len(json.loads(result.stdout)["problems"])) == (3, 2)


def test_check_has_nothing_to_say_about_a_good_file(tmp_path: Path) -> None:
    path = wrote(tmp_path / "node.toml", "threads = 2\n")
    assert gossip("check", path).exit_code == 0
    result = gossip("check", path, "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (0, {"problems": []})


@pytest.mark.parametrize("command", [("check",), ("show", "--config")])
def test_a_file_that_is_not_there_is_named(tmp_path: Path, command: tuple[str, ...]) -> None:
    result = gossip(*command, tmp_path / "none.toml")
    assert result.exit_code == 3
    assert result.stderr.startswith(f"gossip: cannot read {tmp_path / 'none.toml'}: No such file")


def test_the_schema_is_that_of_the_settings() -> None:
    found = json.loads(gossip("schema").stdout)
    assert found == TypeAdapter(Config).json_schema()
    assert found["properties"]["transport"]["enum"] == ["auto", "udp", "tcp"]
