"""What the doctor finds on set-ups that are broken, each in one way, and on one that is not."""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gossip.config import Config
from gossip.doctor import Finding, Target, examine, reachable_at
from p2p import Address, Packet, Peer, Swarm, SwarmConfig, network_key
from p2p.certificates import Credentials
from p2p.endpoint import Endpoint
from p2p.identity import Identity, load_or_create, lock
from p2p.network_key import NetworkKey
from tests.boxes import LOCAL
from tests.daemons import LINE, here

THREE_DAYS = 3 * 86400.0


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "net.key"
    network_key.create(path)
    return path


@asynccontextmanager
async def seed(secret: NetworkKey | None, **options: Any) -> AsyncIterator[tuple[Address, Swarm]]:
    """A node without a model: an endpoint and the swarm behind it."""
    identity = Identity.generate()
    credentials = None if secret is None else Credentials(identity, [secret], **options)
    now = asyncio.get_running_loop().time

    def on_packet(packet: Packet) -> None:
        swarm.receive(packet, now())
        while (answer := swarm.poll_transmit()) is not None:
            endpoint.send(answer)

    endpoint = Endpoint(on_packet, credentials=credentials)
    address = await endpoint.open(LOCAL)
    me = Peer(identity.id, address)
    swarm = Swarm(me, SwarmConfig(), random.Random(1), 1, sign=identity.sign)
    try:
        yield address, swarm
    finally:
        await endpoint.close()


def beside_a_seed(secret: NetworkKey | None, settings: dict[str, Any], **options: Any) -> Finding:
    """What is found about a node that joins a seed."""

    async def scenario() -> Finding:
        async with seed(secret, **options) as (address, swarm):
            found = await examine(Config(join=(str(address),), **settings))
            assert not swarm.neighbours, "the doctor is no peer"
            assert not swarm.known()
            return about("seeds", found)

    return asyncio.run(scenario())


def about(topic: str, found: list[Finding]) -> Finding:
    (one,) = [finding for finding in found if finding.topic == topic]
    return one


def looked(config: Config, target: Target | None = None) -> list[Finding]:
    return asyncio.run(examine(config, target))


# seeds --------------------------------------------------------------------------------------------


def test_a_seed_of_the_same_network_answers_by_tcp_and_by_udp(key: Path) -> None:
    found = beside_a_seed(network_key.load(key), {"network_key": (key,), "listen": "127.0.0.1:0"})
    assert found.level == "good"
    assert found.text.endswith("answers by TCP and by UDP")


def test_without_a_key_a_seed_of_this_machine_answers_too() -> None:
    found = beside_a_seed(None, {})
    assert found.level == "good"
    assert found.text.endswith("answers by TCP and by UDP")


@pytest.mark.parametrize(
    ("options", "cause", "next_"),
    [
        ({"clock": lambda: time.time() + THREE_DAYS}, "clocks of both machines do not", "set-ntp"),
        ({"clock": lambda: time.time() - THREE_DAYS}, "clocks of both machines do not", "set-ntp"),
        ({"admit": lambda peer, shown: "is not invited"}, "does not let us in", "gossip invite"),
    ],
)
def test_a_seed_of_our_network_that_does_not_take_us_says_why(
    key: Path, options: dict[str, Callable[..., Any]], cause: str, next_: str
) -> None:
    settings = {"network_key": (key,), "listen": "127.0.0.1:0"}
    found = beside_a_seed(network_key.load(key), settings, **options)
    assert found.level == "bad"
    assert cause in found.text
    assert next_ in found.next


def test_a_seed_of_another_network_is_known_as_one(key: Path) -> None:
    settings = {"network_key": (key,), "listen": "127.0.0.1:0"}
    for other in (NetworkKey.generate(), None):
        found = beside_a_seed(other, settings)
        assert found.level == "bad"
        assert "its network key is not ours" in found.text
        assert "--network-key" in found.next


def test_a_seed_with_a_key_is_told_apart_where_we_have_none() -> None:
    found = beside_a_seed(NetworkKey.generate(), {})
    assert found.level == "bad"
    assert "it has a network key and we have none" in found.text


def test_where_nothing_listens_the_seed_is_said_to_be_off(key: Path) -> None:
    with socket.socket() as taken:  # bound, so that nobody else listens there
        taken.bind(("127.0.0.1", 0))
        at = f"127.0.0.1:{taken.getsockname()[1]}"
        config = Config(join=(at,), network_key=(key,), listen="127.0.0.1:0")
        found = about("seeds", looked(config))
    assert (found.level, found.text) == (
        "bad",
        f"{at}: nothing listens there, or a firewall refuses it",
    )


def test_a_name_without_an_address_is_named() -> None:
    found = about("seeds", looked(Config(join=("nobody.invalid:7946",))))
    assert found.level == "bad"
    assert found.text.startswith("nobody.invalid:7946 has no address: ")


@pytest.mark.parametrize(("transport", "level"), [("auto", "bad"), ("tcp", "good")])
def test_a_way_that_drops_udp_is_found_unless_udp_is_not_used(
    key: Path, transport: Any, level: str
) -> None:
    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def scenario() -> Finding:
        async with seed(network_key.load(key)) as (address, _):

            async def both(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                there = await asyncio.open_connection(*address)
                await asyncio.gather(relay(reader, there[1]), relay(there[0], writer))

            # The way to it: TCP passes, nothing takes UDP.
            async with await asyncio.start_server(both, "127.0.0.1", 0) as way:
                at = "{}:{}".format(*way.sockets[0].getsockname())
                config = Config(
                    join=(at,), network_key=(key,), listen="127.0.0.1:0", transport=transport
                )
                return about("seeds", await examine(config))

    found = asyncio.run(scenario())
    assert found.level == level
    if level == "bad":
        assert "answers by TCP, but by UDP there is no answer" in found.text
        assert 'transport = "tcp"' in found.next


def test_a_seed_elsewhere_is_out_of_reach_without_a_key() -> None:
    found = about("seeds", looked(Config(join=("192.0.2.1:7946",))))
    assert found.level == "bad"
    assert "192.0.2.1:7946 is not this machine" in found.text
    assert "--network-key" in found.next


def test_an_address_at_home_is_noticed_where_the_seeds_are_on_the_internet() -> None:
    for advertise, seed_at, level in (
        ("192.168.1.5:7946", "1.1.1.1:7946", "notice"),
        ("192.168.1.5:7946", "192.168.1.6:7946", "good"),
        ("1.0.0.1:7946", "1.1.1.1:7946", "good"),
        ("home.example:7946", "node.example:7946", "good"),
    ):
        found = reachable_at(Config(advertise=advertise, join=(seed_at,)), LOCAL)
        assert (found.level, "--advertise" in found.next) == (level, level == "notice")
        assert advertise in found.text


def test_without_seeds_it_says_how_others_are_found(key: Path) -> None:
    found = about("seeds", looked(Config()))
    assert (found.level, found.next) == ("notice", "--join HOST:PORT of a peer")
    assert "waits to be found" in found.text
    lan = about("seeds", looked(Config(network_key=(key,))))
    assert "on the local network only" in lan.text


# this machine -------------------------------------------------------------------------------------


def test_a_port_that_is_taken_is_found_and_the_seeds_are_asked_all_the_same() -> None:
    async def scenario() -> list[Finding]:
        async with seed(None) as (address, _):
            return await examine(Config(listen=str(address), join=(str(address),)))

    found = asyncio.run(scenario())
    assert about("port", found).level == "bad"
    assert "is taken: another process listens there" in about("port", found).text
    assert about("seeds", found).level == "good"


def test_a_key_that_cannot_be_used_ends_the_search(key: Path) -> None:
    key.chmod(0o644)
    found = looked(Config(network_key=(key,), join=("127.0.0.1:9",)))
    assert found[-1].topic == "network key"
    assert (found[-1].level, f"chmod 600 {key}" in found[-1].text) == ("bad", True)


def test_an_identity_that_cannot_be_read_is_found(tmp_path: Path) -> None:
    (tmp_path / "identity.key").write_text("none")
    (tmp_path / "identity.key").chmod(0o600)
    found = about("identity", looked(Config(state_dir=tmp_path)))
    assert found.level == "bad"
    assert "holds no Ed25519 private key" in found.text


def test_a_node_that_runs_is_left_alone(tmp_path: Path) -> None:
    me = load_or_create(tmp_path / "identity.key").id
    with lock(tmp_path):
        found = looked(Config(state_dir=tmp_path, listen="127.0.0.1:1"))
    assert about("identity", found).text == (
        f"this node is {me}, and it is running; its seeds are asked by another"
    )
    assert [finding for finding in found if finding.topic == "port"] == []


def test_looking_makes_no_file(tmp_path: Path) -> None:
    missing = tmp_path / "a" / "b"
    found = looked(Config(state_dir=missing))
    assert about("state", found).level == "good"
    assert list(tmp_path.iterdir()) == []
    load_or_create(tmp_path / "identity.key")
    looked(Config(state_dir=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["identity.key"]


def test_a_state_directory_that_is_none_is_found(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        found = about("state", looked(Config(state_dir=path)))
        assert (found.level, "--state-dir" in found.next) == ("bad", True)
        assert f"{tmp_path / 'file'} is no directory" in found.text


def test_a_clock_that_runs_behind_shows_by_its_own_files(tmp_path: Path) -> None:
    load_or_create(tmp_path / "identity.key")
    assert about("clock", looked(Config(state_dir=tmp_path))).level == "good"
    os.utime(tmp_path / "identity.key", times=(time.time() + THREE_DAYS,) * 2)
    found = about("clock", looked(Config(state_dir=tmp_path)))
    assert (found.level, "set-ntp" in found.next) == ("bad", True)


def test_a_model_that_does_not_fit_the_disk_is_found(tmp_path: Path) -> None:
    line = tmp_path / "huge.py"
    line.write_text(
        "from gossip.vector import Layout\n"
        "class Huge:\n"
        "    layout = Layout(('w',), ((10**14,),), ('float32',))\n"
        "    def parameters(self): ...\n"
        "    def load(self, merged): ...\n"
        "    def train(self): ...\n"
        "    def evaluate(self): ...\n"
    )
    found = about("disk", looked(Config(state_dir=tmp_path / "new"), Target(f"{line}:Huge")))
    assert (found.level, "df -h" in found.next) == ("bad", True)


def test_more_threads_than_cores_are_noticed() -> None:
    cores = len(os.sched_getaffinity(0))
    assert about("threads", looked(Config(threads=cores))).level == "good"
    assert about("threads", looked(Config(threads=cores + 1))).level == "notice"


def test_a_target_is_built_and_a_model_of_another_layout_is_found(tmp_path: Path) -> None:
    line = tmp_path / "line.py"
    line.write_text(LINE)
    target, state = f"{line}:learner", tmp_path / "state"
    ran = here("run", target, "--seconds", "0", "--state-dir", state, "--json")
    assert ran.exit_code == 0, ran.stderr
    same = looked(Config(state_dir=state), Target(target))
    assert "has 10 parameters" in about("model", same).text
    assert about("state", same).text.startswith("training goes on from ")
    wider = looked(Config(state_dir=state), Target(target, options={"width": "5"}))
    assert "has 12 parameters" in about("model", wider).text
    assert "holds a model of another layout" in about("state", wider).text
    assert about("state", wider).level == "bad"
    none = about("model", looked(Config(), Target(f"{line}:lerner")))
    assert (none.level, "did you mean learner" in none.text) == ("bad", True)


# the command --------------------------------------------------------------------------------------


def test_the_command_tells_what_is_wrong_and_what_to_do_and_ends_with_4(tmp_path: Path) -> None:
    missing = tmp_path / "none.key"
    result = here("doctor", "--network-key", missing)
    assert result.exit_code == 4
    assert f"BAD  network key: there is no network key in {missing}" in result.stdout
    assert "note state: there is no state directory" in result.stdout
    assert "     next: --state-dir DIR" in result.stdout
    result = here("doctor", "--network-key", missing, "--json")
    assert result.exit_code == 4
    assert json.loads(result.stdout)["findings"][-1]["level"] == "bad"


def test_a_node_that_lacks_nothing_ends_with_0_and_bad_settings_with_3() -> None:
    assert here("doctor").exit_code == 0
    result = here("doctor", "--listen", "x")
    assert (result.exit_code, result.stdout) == (3, "")
    assert "listen: 'x' is not HOST:PORT" in result.stderr
