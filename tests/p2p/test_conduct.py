"""What misbehaviour costs, what costs nothing, and what a flood comes to."""

from __future__ import annotations

from hashlib import sha256
from random import Random

import pytest

from p2p import (
    Address,
    Channel,
    Conduct,
    ConductConfig,
    Packet,
    PacketRejected,
    Peer,
    PeerBanned,
    PeerDown,
    PeerGraylisted,
    PeerId,
    PeerUp,
    Swarm,
    SwarmConfig,
)
from p2p.conduct import MOST_BANS, REMEMBERED, Ban, Standing
from p2p.messages import TABLE, VERSION, Check, Checked, Payload, Ping, Refuse, Request, Unknown

HOUR, DAY = 3600.0, 86400.0
GOOD, GRAYLISTED, BANNED = Standing


def peer(index: int) -> Peer:
    return Peer(PeerId(sha256(b"%d" % index).digest()), Address(f"10.0.0.{index}", 7946))


ME, YOU = peer(1), peer(2)


# scores -------------------------------------------------------------------------------------------


def test_twice_in_an_hour_is_graylisted_and_four_times_banned_for_an_hour() -> None:
    conduct = Conduct()
    happened = [conduct.blame(YOU.id, "nonsense", float(at)) for at in range(4)]
    assert happened == [
        None,
        PeerGraylisted(YOU.id, "nonsense"),
        None,
        PeerBanned(YOU.id, HOUR, "nonsense"),
    ]
    assert conduct.standing(YOU.id, 3 + HOUR - 1) is BANNED
    assert conduct.standing(YOU.id, 3 + HOUR) is GOOD


def test_one_fault_an_hour_costs_nothing() -> None:
    conduct = Conduct()
    for at in range(100):
        assert conduct.blame(YOU.id, "nonsense", at * HOUR) is None
        assert conduct.standing(YOU.id, at * HOUR) is GOOD


def test_a_peer_that_stops_comes_off_the_graylist() -> None:
    conduct = Conduct()
    conduct.blame(YOU.id, "", 0.0)
    conduct.blame(YOU.id, "", 10.0)
    assert conduct.standing(YOU.id, HOUR - 1) is GRAYLISTED
    assert conduct.standing(YOU.id, HOUR) is GOOD


def banned_for(conduct: Conduct, now: float) -> float:
    for _ in range(3):
        conduct.blame(YOU.id, "", now)
    event = conduct.blame(YOU.id, "", now)
    assert isinstance(event, PeerBanned)
    return event.seconds


def test_bans_double_up_to_a_day_and_each_good_day_takes_a_doubling_back() -> None:
    conduct, now, seconds = Conduct(), 0.0, []
    for _ in range(7):
        seconds.append(banned_for(conduct, now))
        now += seconds[-1]
    assert seconds == [HOUR * hours for hours in (1, 2, 4, 8, 16, 24, 24)]
    assert banned_for(conduct, now + 6 * DAY) == 2 * HOUR


def test_a_peer_may_be_banned_every_day_for_ever() -> None:
    conduct = Conduct()
    for day in range(2000):
        assert banned_for(conduct, day * 1.5 * DAY) <= DAY


@pytest.mark.parametrize(
    "wrong",
    [{"graylist_at": 0}, {"ban_at": 1}, {"rate": 0.0}, {"rate": float("nan")}, {"burst": 0}],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="at least"):
        ConductConfig(**wrong)  # type: ignore[arg-type]


def test_what_one_does_is_not_held_against_another() -> None:
    conduct = Conduct()
    banned_for(conduct, 0.0)
    assert conduct.standing(ME.id, 0.0) is GOOD


def test_bans_go_on_in_another_conduct_that_doubles_them() -> None:
    first = Conduct()
    banned_for(first, 0.0)
    second = Conduct(bans=first.bans)
    assert second.standing(YOU.id, 1.0) is BANNED
    assert banned_for(second, HOUR) == 2 * HOUR


def test_a_ban_is_lifted_with_all_faults() -> None:
    conduct = Conduct()
    banned_for(conduct, 0.0)
    assert conduct.lift(YOU.id)
    assert conduct.standing(YOU.id, 0.0) is GOOD
    assert not conduct.lift(YOU.id)


def test_nothing_that_a_banned_peer_does_changes_its_ban() -> None:
    conduct = Conduct()
    conduct.ban(YOU.id, 2 * DAY, "by name")
    for _ in range(9):
        assert conduct.blame(YOU.id, "", 0.0) is None
    assert conduct.bans == {YOU.id: Ban(2 * DAY, "by name")}


def test_what_is_remembered_of_others_is_bounded_and_an_operators_bans_stay() -> None:
    conduct = Conduct()
    conduct.ban(YOU.id, 1e9, "by name")
    for index in range(MOST_BANS + 10):
        other = PeerId(sha256(b"other %d" % index).digest())
        for _ in range(4):
            conduct.blame(other, "", 0.0)
        conduct.blame(PeerId(other[::-1]), "", 0.0)
    assert len(conduct.bans) == MOST_BANS + 1
    assert conduct.bans[YOU.id] == Ban(1e9, "by name")
    assert len(conduct._faults) == REMEMBERED


# in a swarm ---------------------------------------------------------------------------------------


def swarm(config: ConductConfig | None = None) -> tuple[Swarm, Conduct]:
    conduct = Conduct(config)
    return Swarm(ME, SwarmConfig(), Random(1), 1, conduct=conduct), conduct


def from_you(data: bytes, proven: bool = True, channel: Channel = Channel.DATAGRAM) -> Packet:
    return Packet(YOU.address, data, channel, YOU.id if proven else None)


def request(token: int, sender: Peer = YOU, version: int = VERSION) -> bytes:
    return TABLE.encode(Request(version, sender, ME.id, 1, token, token, 1, False))


def said(one: Swarm) -> list[object]:
    spoken = []
    while (packet := one.poll_transmit()) is not None:
        spoken.append(TABLE.decode(packet.data)[0])
    return spoken


def linked(one: Swarm) -> int:
    """Make YOU a neighbour; our token."""
    one.receive(from_you(request(7)), 0.0)
    (accept,) = said(one)
    token: int = accept.token  # type: ignore[attr-defined]
    assert PeerUp(YOU) in one.receive(from_you(TABLE.encode(Ping(token, 1, False))), 0.0)
    said(one)
    return token


@pytest.mark.parametrize(
    "data",
    [b"", b"\xc1", TABLE.encode(Ping(1, 1, False))[:-1], b"\x92\xa1x\x01", request(3, peer(9))],
    ids=["nothing", "no msgpack", "cut off", "no number", "a forged claim"],
)
def test_what_no_honest_peer_sends_costs_the_link_and_then_everything(data: bytes) -> None:
    one, conduct = swarm()
    token = linked(one)
    assert [type(event) for event in one.receive(from_you(data), 1.0)] == [PacketRejected]
    events = [type(event) for event in one.receive(from_you(data), 2.0)]
    assert events == [PacketRejected, PeerGraylisted, PeerDown]
    assert not one.neighbours
    assert not one.passive
    said(one)
    one.receive(from_you(request(8)), 3.0)
    assert said(one) == [Refuse(8, ())]
    assert one.receive(from_you(TABLE.encode(Ping(token, 2, False))), 3.0) == []
    assert said(one) == []
    one.receive(from_you(TABLE.encode(Check(5, ME.id))), 3.0)
    assert said(one) == [Checked(5)]
    conduct.ban(YOU.id, 1e9, "")
    for message in (request(9), TABLE.encode(Check(6, ME.id)), data):
        one.receive(from_you(message), 4.0)
        assert said(one) == []


def test_nobody_is_blamed_for_what_somebody_without_proof_sends() -> None:
    one, conduct = swarm()
    for at in range(20):
        one.receive(from_you(b"\xc1", proven=False), float(at))
    assert conduct.standing(YOU.id, 20.0) is GOOD


@pytest.mark.parametrize(
    "data",
    [
        TABLE.encode(Ping(12345, 1, False)),
        TABLE.encode(Payload(12345), b"late"),
        TABLE.encode(Unknown(12345)),
        TABLE.encode(Checked(12345)),
        request(7),
        request(8, version=VERSION + 1),
        b"\x92\x7e\x01",
    ],
    ids=["unknown token", "late payload", "no link", "no check", "a copy", "newer", "new message"],
)
def test_what_honest_peers_send_late_twice_or_in_newer_versions_costs_nothing(data: bytes) -> None:
    one, conduct = swarm()
    linked(one)
    for at in range(20):
        one.receive(from_you(data), float(at))
    assert conduct.standing(YOU.id, 20.0) is GOOD
    assert YOU.id in one.neighbours


def test_who_asks_on_behalf_of_another_in_its_name_is_rejected() -> None:
    one, _ = swarm()
    check = TABLE.encode(Check(1, ME.id, peer(3)))
    (event,) = one.receive(Packet(Address("10.0.0.2", 50000), check, Channel.STREAM, YOU.id), 0.0)
    assert isinstance(event, PacketRejected)
    assert said(one) == []


# floods -------------------------------------------------------------------------------------------


def test_messages_of_one_peer_are_taken_up_to_a_rate_and_those_of_others_regardless() -> None:
    one, conduct = swarm(ConductConfig(rate=10.0, burst=20))
    check = TABLE.encode(Check(1, ME.id))
    for _ in range(100):
        one.receive(from_you(check), 0.0)
    assert len(said(one)) == 20
    assert conduct.dropped == 80
    one.receive(Packet(peer(3).address, check, Channel.DATAGRAM, peer(3).id), 0.0)
    assert len(said(one)) == 1
    for _ in range(100):
        one.receive(from_you(check), 1.0)
    assert len(said(one)) == 10


def test_sources_without_proof_are_told_apart_by_address() -> None:
    one, _ = swarm(ConductConfig(rate=10.0, burst=20))
    check = TABLE.encode(Check(1, ME.id))
    for _ in range(100):
        one.receive(from_you(check, proven=False), 0.0)
    one.receive(Packet(peer(3).address, check, Channel.DATAGRAM), 0.0)
    assert len(said(one)) == 21


def test_payloads_are_no_flood() -> None:
    one, conduct = swarm(ConductConfig(rate=1.0, burst=4))
    token = linked(one)
    for number in range(1000):
        assert one.receive(from_you(TABLE.encode(Payload(token), b"%d" % number)), 0.1)
    assert conduct.dropped == 0


def test_nonsense_beyond_the_rate_is_not_even_reported() -> None:
    one, _ = swarm(ConductConfig(rate=1.0, burst=4))
    events = [one.receive(from_you(b"\xc1", proven=False), 0.0) for _ in range(100)]
    assert sum(map(len, events)) == 4
