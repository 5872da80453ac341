"""A state directory after a power cut, on a disk that tears, blanks and flips: what a node does."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gossip import checkpoint
from gossip.access import BANS, USES
from gossip.audit import DIRECTORY, Audit
from gossip.config import Config
from gossip.errors import GossipError
from gossip.host import PEERS, Host
from gossip.vector import flatten, layout
from p2p import P2PError, PeerId
from p2p.identity import Identity, load

MODEL = nn.Linear(3, 2)
OTHER = Identity.generate().id
CHECKPOINT = checkpoint.NAME
LOG = f"{DIRECTORY}/000001.jsonl"
FILES = ("identity.key", CHECKPOINT, f"{CHECKPOINT}.previous", PEERS, BANS, USES, LOG, "lock")
FILES += ("api.json", f"{CHECKPOINT}.new", f"{BANS}.new", ".identity.key.0123456789abcdef")


async def lives(state_dir: Path) -> tuple[PeerId, int, list[str]]:
    """Who it is after a start, how far, and whom it keeps out; it is then gone without a word."""
    host = Host(layout(MODEL), flatten(MODEL), Config(state_dir=state_dir))
    async with host:
        found = host.me.id, host.agent.samples, [str(ban["who"]) for ban in host.access.bans()]
        host._left = True
        return found


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state directory with everything in it, of a node that was killed."""
    home = tmp_path_factory.mktemp("model") / "node"

    async def live() -> None:
        host = Host(layout(MODEL), flatten(MODEL), Config(state_dir=home))
        async with host:
            for _ in range(2):
                host.sync(flatten(MODEL), 100)
                await host.save()
            host.access.ban(str(OTHER))
            (home / PEERS).write_text('{"peers": []}')
            (home / USES).write_text("{}")
            for name in FILES[-3:]:
                (home / name).write_text("half")
            shutil.copytree(home, home.with_name("killed"), dirs_exist_ok=True)

    asyncio.run(live())
    killed = home.with_name("killed")
    assert all((killed / name).exists() for name in FILES)
    return killed


def torn(content: bytes, at: int) -> bytes:
    return content[: at % max(len(content), 1)]


def blanked(content: bytes, at: int) -> bytes:
    """The file has its length, its last blocks were never written."""
    kept = torn(content, at)
    return kept + bytes(len(content) - len(kept))


def grown(content: bytes, at: int) -> bytes:
    """Room was made for more, which was never written."""
    return content + bytes(at % 200_000)


def flipped(content: bytes, at: int) -> bytes:
    if not content:
        return content
    damaged = bytearray(content)
    damaged[at % len(content)] ^= 1 << at % 8
    return bytes(damaged)


Damage = Callable[[bytes, int], bytes]


@given(
    st.sampled_from(FILES),
    st.sampled_from([torn, blanked, grown, flipped]),
    st.integers(0, 1 << 20) | st.just(0),
)
def test_a_node_goes_on_or_names_the_file_and_is_never_somebody_else(
    model: Path, name: str, damage: Damage, at: int
) -> None:
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    with TemporaryDirectory() as home:
        state_dir = Path(home) / "node"
        shutil.copytree(model, state_dir)
        me = load(model / "identity.key").id
        file = state_dir / name
        content = damage(file.read_bytes(), at)
        file.write_bytes(content)
        logging.getLogger("gossip").addHandler(handler)
        found, refusal = None, ""
        try:
            found = asyncio.run(lives(state_dir))
        except (GossipError, P2PError) as error:
            refusal = str(error)
        finally:
            logging.getLogger("gossip").removeHandler(handler)
        if found is None:
            assert name in ("identity.key", BANS, USES, LOG), "there is no going on without these"
            assert str(file) in refusal
            assert "move" in refusal, "what to do"
            assert file.read_bytes() == content or name == LOG, "it stays for whoever restores it"
            return
        who, samples, banned = found
        assert who == me
        whole = content == (model / name).read_bytes()
        if name == CHECKPOINT and not whole:
            assert samples == 100, "as of the one before"
            assert any(str(file) in line for line in said)
        else:
            assert samples == 200
        if not (name == BANS and damage is flipped):  # JSON has no checksum
            assert banned == [str(OTHER)]


@pytest.mark.parametrize("damage", [torn, blanked, flipped])
def test_no_bit_of_an_identity_is_lost_unnoticed(
    model: Path, tmp_path: Path, damage: Damage
) -> None:
    good, me = (model / "identity.key").read_bytes(), load(model / "identity.key").id
    path = tmp_path / "identity.key"
    path.touch(mode=0o600)
    for at in range(len(good)):
        path.write_bytes(damage(good, at))
        try:
            assert load(path).id == me
        except P2PError as error:
            refusal = str(error)
            if str(path) not in refusal or "restore it from a backup" not in refusal:
                raise


def test_a_checkpoint_without_its_identity_is_said_to_be_another_nodes(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state_dir = tmp_path / "node"
    shutil.copytree(model, state_dir)
    before = load(state_dir / "identity.key").id
    (state_dir / "identity.key").unlink()
    who, samples, _ = asyncio.run(lives(state_dir))
    assert who != before
    assert samples == 200
    assert f"is of node {before}, and identity.key is another's" in caplog.text
    assert f"a new node, {who}" in caplog.text


def test_what_a_killed_node_left_half_made_is_cleared_away(model: Path, tmp_path: Path) -> None:
    state_dir = tmp_path / "node"
    shutil.copytree(model, state_dir)
    asyncio.run(lives(state_dir))
    assert not list(state_dir.glob(".identity.key.*"))


def test_a_log_that_ends_in_more_zeros_than_a_line_has_bytes_is_mended(tmp_path: Path) -> None:
    me = Identity.generate()
    Audit(tmp_path, me).close()
    file = tmp_path / LOG
    good = file.read_bytes()
    file.write_bytes(good + bytes(200_000))
    Audit(tmp_path, me).close()
    assert file.read_bytes().startswith(good + b'{"n":')
    assert b'"type":"mended","cut":200000' in file.read_bytes()
