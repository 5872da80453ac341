"""Who may come in: lists, invitations, bans, and what survives a restart."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

import pytest

from gossip.access import BANS, USES, Access, AccessConfig, own
from gossip.audit import Audit
from gossip.config import check
from gossip.errors import ConfigError
from p2p import PeerBanned, PeerId, invitation
from p2p.identity import Identity
from p2p.invitation import SKEW, Invitation, issue, key_of, redeem, reveal
from p2p.network_key import NetworkKey

KEY = NetworkKey(b"k" * 32)
ME, ADMIN, INVITER, ANNE, BOB, CARL = (Identity.generate() for _ in range(6))
SECRET = bytes(range(32))


@dataclass
class Clocks:
    """The world's and the swarm's, which begin anew with every start."""

    world: float = 1_000_000.0
    swarm: float = 50.0

    def go(self, seconds: float) -> None:
        self.world += seconds
        self.swarm += seconds


@dataclass
class Home:
    """A node's access, again and again from the same directory."""

    path: Path
    config: AccessConfig
    clocks: Clocks = field(default_factory=Clocks)
    expelled: list[PeerId] = field(default_factory=list)

    def access(self, state_dir: bool = True) -> Access:
        return Access(
            self.config,
            ME.id,
            [KEY.id],
            self.path if state_dir else None,
            lambda: self.clocks.swarm,
            lambda peer, reason: self.expelled.append(peer),
            clock=lambda: self.clocks.world,
        )


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path, AccessConfig(mode="invite", admins=(str(ADMIN.id),)))


def invited(home: Home, *, uses: int = 1, **changes: object) -> Callable[[PeerId], bytes]:
    """What a peer shows that was given an admin's line."""
    now = int(home.clocks.world)
    fields: dict[str, object] = {
        "network": KEY.id,
        "issuer": ADMIN.id,
        "subject": key_of(SECRET).id,
        "bearer": True,
        "inviter": False,
        "begins": now,
        "expires": now + 3600,
        "nonce": b"\xab" * 16,
        "uses": uses,
    }
    text = reveal(issue(ADMIN, Invitation(**(fields | changes))), SECRET)  # type: ignore[arg-type]
    return lambda peer: redeem(text, peer)


NAME = (b"\xab" * 16).hex()


# modes --------------------------------------------------------------------------------------------


def test_a_node_lets_itself_in(home: Home) -> None:
    assert home.access().admit(ME.id, None) is None


def test_in_an_open_network_the_key_is_enough(tmp_path: Path) -> None:
    access = Home(tmp_path, AccessConfig()).access()
    assert access.admit(ANNE.id, None) is None
    assert access.admit(ANNE.id, b"whatever it shows") is None


def test_a_list_lets_in_who_stands_in_it_and_is_read_when_it_changes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "peers"
    file.write_text(f"# friends\n\n{ANNE.id}  # since 2026\n")
    access = Home(tmp_path, AccessConfig(mode="allow", allow=file)).access()
    assert access.admit(ANNE.id, None) is None
    assert access.admit(BOB.id, None) == "it is not in the list of allowed peers"
    file.write_text(f"{BOB.id}\n")
    assert access.admit(ANNE.id, None) is not None
    assert access.admit(BOB.id, None) is None
    file.write_text(f"{ANNE.id}\nnobody\n")
    for _ in range(3):
        assert access.admit(ANNE.id, None) is not None
        assert access.admit(BOB.id, None) is None
    assert [record.message.partition(": ")[0] for record in caplog.records] == [f"{file}, line 2"]
    file.unlink()
    assert access.admit(BOB.id, None) is None
    assert f"cannot read {file}" in caplog.records[-1].message


def test_a_list_that_cannot_be_read_at_the_start_is_refused(tmp_path: Path) -> None:
    home = Home(tmp_path, AccessConfig(mode="allow", allow=tmp_path / "peers"))
    with pytest.raises(ConfigError, match=r"peers: No such file"):
        home.access()
    (tmp_path / "peers").write_text(f"{ANNE.id}\n{str(BOB.id)[:-1]}\n")
    with pytest.raises(ConfigError, match=r"peers, line 2: .* is not a peer id"):
        home.access()


def test_where_one_must_be_invited_only_admins_come_without(home: Home) -> None:
    access = home.access()
    assert access.admit(ADMIN.id, None) is None
    assert access.admit(ANNE.id, None) == "it has no invitation"
    assert access.admit(ANNE.id, invited(home)(ANNE.id)) is None


@pytest.mark.parametrize(
    ("changes", "later", "why"),
    [
        ({}, 3600 + SKEW, "expired"),
        ({}, -SKEW - 1, "not come yet"),
        ({"network": bytes(8)}, 0, "for network 0000000000000000"),
        ({"issuer": BOB.id}, 0, "no admin of ours"),
    ],
)
def test_an_invitation_that_is_not_good_lets_nobody_in(
    home: Home, changes: dict[str, object], later: float, why: str
) -> None:
    access, shown = home.access(), invited(home, **changes)(ANNE.id)
    home.clocks.go(later)
    refusal = access.admit(ANNE.id, shown)
    assert refusal is not None
    assert why in refusal


def test_who_is_in_is_out_when_the_invitation_expires(home: Home) -> None:
    access, shown = home.access(), invited(home)(ANNE.id)
    assert access.admit(ANNE.id, shown) is None
    home.clocks.go(3600 + SKEW)
    assert access.admit(ANNE.id, shown) == "it has expired"


def test_uses_are_counted_by_peer_and_across_restarts(home: Home) -> None:
    shown = invited(home, uses=2)
    for _ in range(3):
        access = home.access()
        for _ in range(3):
            assert access.admit(ANNE.id, shown(ANNE.id)) is None
            assert access.admit(BOB.id, shown(BOB.id)) is None
            refusal = access.admit(CARL.id, shown(CARL.id))
            assert refusal == "its invitation is used up, by 2 others"
    assert stat.S_IMODE((home.path / USES).stat().st_mode) == 0o600


def test_nobody_uses_up_the_invitations_of_another_by_giving_their_name_to_his_own(
    home: Home,
) -> None:
    now = int(home.clocks.world)
    times = (now, now + 3600)
    proof = issue(
        ADMIN, Invitation(KEY.id, ADMIN.id, INVITER.id, False, True, *times, b"i" * 16, 1)
    )
    nonce = bytes.fromhex(NAME)
    copied = Invitation(KEY.id, INVITER.id, BOB.id, False, False, *times, nonce, 1, proof)
    access = home.access()
    assert access.admit(BOB.id, issue(INVITER, copied)) is None
    assert access.admit(ANNE.id, invited(home)(ANNE.id)) is None
    assert access.admit(CARL.id, invited(home)(CARL.id)) is not None, "that one is used up"


def test_settings_that_let_nobody_or_everybody_in_by_mistake_are_refused(tmp_path: Path) -> None:
    for table, part in [
        ({"mode": "invite"}, "admins"),
        ({"mode": "allow"}, "allow"),
        ({"mode": "closed"}, "'closed'"),
        ({"mode": "invite", "admins": ["root"]}, "'root' is not a peer id"),
    ]:
        with pytest.raises(ConfigError, match=part):
            check({"access": table}, "test")
    config = AccessConfig(mode="invite", admins=(str(ADMIN.id),))
    with pytest.raises(ConfigError, match="needs a network key"):
        Access(config, ME.id, [], None, lambda: 0.0, lambda peer, reason: None)


# one's own ----------------------------------------------------------------------------------------


def test_ones_own_invitation_is_checked_before_others_refuse_it(home: Home, tmp_path: Path) -> None:
    file, now = tmp_path / "invitation", int(home.clocks.world)
    made = Invitation(KEY.id, ADMIN.id, ANNE.id, False, False, now, now + 60, bytes(16), 1)
    file.write_text(reveal(issue(ADMIN, made)) + "\n")
    assert home.access().admit(ANNE.id, own(file, ANNE.id, [KEY.id], now)) is None
    for me, networks, when, why in [
        (BOB.id, [KEY.id], now, "it is for"),
        (ANNE.id, [bytes(8)], now, "for network"),
        (ANNE.id, [KEY.id], now + 60 + SKEW, "expired"),
    ]:
        with pytest.raises(ConfigError, match=rf"{file} is of no use: .*{why}.*ask for another"):
            own(file, me, networks, when)
    with pytest.raises(ConfigError, match="cannot read the invitation"):
        own(tmp_path / "none", ANNE.id, [KEY.id], now)


# bans ---------------------------------------------------------------------------------------------


def test_a_ban_is_in_effect_at_once_and_after_a_restart_until_its_time_is_over(home: Home) -> None:
    home.config = AccessConfig()
    access = home.access()
    access.ban(str(ANNE.id), 3600)
    access.ban(str(BOB.id))
    assert home.expelled == [ANNE.id, BOB.id]
    home.clocks = Clocks(home.clocks.world + 3599, swarm=7.0)
    access = home.access()
    assert access.admit(ANNE.id, None) == access.admit(BOB.id, None) == "it is banned"
    assert [(ban["who"], ban["seconds"]) for ban in access.bans()] == [
        (str(ANNE.id), 1.0),
        (str(BOB.id), None),
    ]
    home.clocks.go(1)
    assert access.admit(ANNE.id, None) is None
    assert access.lift(str(BOB.id))
    assert access.admit(BOB.id, None) is None
    assert home.access().admit(BOB.id, None) is None
    assert not access.lift(str(CARL.id))


def test_a_ban_of_our_own_making_survives_with_its_doubling(home: Home) -> None:
    home.config = AccessConfig()
    access = home.access()
    for _ in range(4):
        event = access.conduct.blame(ANNE.id, "nonsense", home.clocks.swarm)
    assert isinstance(event, PeerBanned)
    access.note(event)
    assert home.expelled == [ANNE.id]
    home.clocks = Clocks(home.clocks.world + 3600, swarm=0.0)
    again = home.access().conduct
    for _ in range(4):
        event = again.blame(ANNE.id, "nonsense", 0.0)
    assert event == PeerBanned(ANNE.id, 7200.0, "nonsense")


def test_a_revoked_invitation_expels_all_who_came_with_it(home: Home) -> None:
    access, shown = home.access(), invited(home, uses=5)
    for peer in (ANNE.id, BOB.id):
        assert access.admit(peer, shown(peer)) is None
    access.ban(NAME)
    assert home.expelled == [ANNE.id, BOB.id]
    for again in (access, home.access()):
        for peer in (ANNE.id, CARL.id):
            assert again.admit(peer, shown(peer)) == "its invitation is revoked"
    assert access.lift(NAME)
    assert access.admit(ANNE.id, shown(ANNE.id)) is None


def test_revoking_an_inviter_revokes_whom_it_invited(home: Home) -> None:
    now = int(home.clocks.world)
    times = (now, now + 3600)
    proof = issue(
        ADMIN, Invitation(KEY.id, ADMIN.id, INVITER.id, False, True, *times, b"i" * 16, 1)
    )
    shown = issue(
        INVITER,
        Invitation(KEY.id, INVITER.id, ANNE.id, False, False, *times, b"a" * 16, 1, proof),
    )
    access = home.access()
    assert access.admit(ANNE.id, shown) is None
    access.ban((b"i" * 16).hex())
    assert home.expelled == [ANNE.id]
    assert access.admit(ANNE.id, shown) == "its invitation is revoked"


@pytest.mark.parametrize("who", ["", "anne", "abcdefgh", NAME[:-1], NAME.upper()])
def test_whoever_cannot_be_meant_is_named(home: Home, who: str) -> None:
    for act in (home.access().ban, home.access().lift):
        with pytest.raises(ValueError, match=f"'{who}' is neither a peer id"):
            act(who)


def test_a_ban_that_cannot_be_written_is_in_effect_and_said_so(home: Home) -> None:
    access = home.access()
    (home.path / f"{BANS}.new").mkdir()
    with pytest.raises(OSError, match="directory"):
        access.ban(str(ADMIN.id))
    assert access.admit(ADMIN.id, None) == "it is banned"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"peers": {"x": [1, "", 0]}}', '{"peers": 3}'])
def test_bans_that_cannot_be_read_stop_the_start(home: Home, text: str) -> None:
    (home.path / BANS).write_text(text)
    with pytest.raises(ConfigError, match=r"bans\.json cannot be used: .*move it away"):
        home.access()


def test_half_written_bans_of_a_power_cut_do_not_matter(home: Home) -> None:
    home.access().ban(str(ADMIN.id))
    (home.path / f"{BANS}.new").write_text("{")
    again = home.access()
    assert again.admit(ADMIN.id, None) == "it is banned"
    again.lift(str(ADMIN.id))
    assert json.loads((home.path / BANS).read_text())["peers"] == {}


def test_without_a_state_directory_bans_last_as_long_as_the_node(home: Home) -> None:
    access = home.access(state_dir=False)
    access.ban(str(ADMIN.id))
    assert access.admit(ADMIN.id, None) == "it is banned"
    assert os.listdir(home.path) == []


def test_what_was_decided_is_written_down_and_no_secret_is(home: Home) -> None:
    audit = Audit(home.path, ADMIN)
    access = Access(
        home.config, ME.id, [KEY.id], home.path, lambda: 0.0, lambda peer, reason: None, audit
    )
    shown = invited(home, begins=1, expires=2)(ANNE.id)
    access.admit(ANNE.id, shown)
    access.ban(str(ANNE.id), inf)
    access.lift(str(ANNE.id))
    audit.close()
    text = "".join(file.read_text() for file in (home.path / "audit").iterdir())
    kinds = [json.loads(line)["type"] for line in text.splitlines()]
    assert kinds == ["checkpoint", "deny", "ban", "unban", "checkpoint"]
    for secret in (SECRET, b"k" * 32, shown, ADMIN._key.private_bytes_raw()):
        assert secret.hex() not in text
    assert invitation.PREFIX not in text
