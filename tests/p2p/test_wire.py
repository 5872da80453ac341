from contextlib import suppress
from dataclasses import dataclass

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p import Address, Peer, PeerId, WireError
from p2p.messages import (
    TABLE,
    Accept,
    Check,
    Checked,
    Digest,
    Disconnect,
    Message,
    Payload,
    Ping,
    PingRequest,
    Pong,
    Records,
    Refuse,
    Request,
    Shuffle,
    Shuffled,
    Unknown,
    Vouch,
    Walk,
    Wanted,
)
from p2p.wire import MAX_HEADER, Table, binary, integer, row, sequence

tokens = st.integers(0, 2**32 - 1)
counts = st.integers(0, 2**63 - 1)
small = st.integers(0, 15)
prefixes = st.binary(min_size=8, max_size=8)
peer_ids = st.binary(min_size=32, max_size=32).map(PeerId)
hosts = st.ip_addresses().map(str)
peers = st.builds(Peer, peer_ids, st.builds(Address, hosts, st.integers(1, 65535)))
some_peers = st.lists(peers, max_size=8).map(tuple)
messages = st.one_of(
    st.builds(
        Request,
        st.integers(0, 65535),
        peers,
        st.none() | peer_ids,
        counts,
        counts,
        tokens,
        small,
        st.booleans(),
    ),
    st.builds(Accept, peers, counts, counts, tokens, tokens),
    st.builds(Refuse, tokens, some_peers),
    st.builds(Ping, tokens, tokens, st.booleans()),
    st.builds(PingRequest, tokens, tokens, peers),
    st.builds(Vouch, tokens, tokens, st.booleans()),
    st.builds(Check, tokens, peer_ids, st.none() | peers),
    st.builds(Checked, tokens),
    st.builds(
        Digest, tokens, counts, st.lists(st.tuples(prefixes, counts), max_size=48).map(tuple)
    ),
    st.builds(Wanted, tokens, counts, st.lists(prefixes, max_size=48).map(tuple)),
    st.builds(
        Records,
        tokens,
        st.lists(st.tuples(st.integers(0, 65535), st.binary(max_size=100)), max_size=8).map(tuple),
    ),
    st.builds(Pong, tokens, tokens),
    st.builds(Payload, tokens),
    st.builds(Disconnect, tokens, st.booleans(), st.none() | peers),
    st.builds(Unknown, tokens),
    st.builds(Walk, tokens, peers, small),
    st.builds(Shuffle, tokens, peers, counts, small, some_peers),
    st.builds(Shuffled, counts, some_peers),
)


@given(messages)
def test_decode_inverts_encode(message: Message) -> None:
    assert TABLE.decode(TABLE.encode(message)) == (message, b"")


@given(tokens, st.binary())
def test_a_body_follows_the_header_as_it_is(token: int, body: bytes) -> None:
    message, found = TABLE.decode(TABLE.encode(Payload(token), body))
    assert message == Payload(token)
    assert found == body


@given(st.binary(max_size=3000))
def test_no_bytes_raise_anything_but_a_wire_error(data: bytes) -> None:
    with suppress(WireError):
        TABLE.decode(data)


json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.binary() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=30,
)


@given(st.integers(0, 12), st.lists(json, max_size=10))
def test_no_array_raises_anything_but_a_wire_error(tag: int, fields: list[object]) -> None:
    with suppress(WireError):
        TABLE.decode(msgpack.packb([tag, *fields]))


@given(messages, st.data())
def test_a_truncated_message_is_refused(message: Message, data: st.DataObject) -> None:
    encoded = TABLE.encode(message)
    cut = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(WireError):
        TABLE.decode(encoded[:cut])


@pytest.mark.parametrize(
    "data",
    [
        b"\xdd\xff\xff\xff\xff",  # an array of four billion
        b"\xc6\xff\xff\xff\xff",  # as many bytes
        b"\xdf\xff\xff\xff\xff",  # a map
        b"\xc9\xff\xff\xff\xff\x01",  # an extension
        b"\x91" * MAX_HEADER,  # nesting
    ],
)
def test_a_length_that_lies_allocates_nothing(data: bytes) -> None:
    with pytest.raises(WireError):
        TABLE.decode(data)


@pytest.mark.parametrize("depth", [10, 500, 1000, 5000])
@pytest.mark.parametrize("head", [b"", b"\x92\x06", b"\x92"])
def test_arrays_of_arrays_are_refused_however_deep(depth: int, head: bytes) -> None:
    with pytest.raises(WireError):
        TABLE.decode(head + b"\x91" * depth + b"\x90")


def test_a_boolean_is_not_an_integer() -> None:
    with pytest.raises(WireError, match="not an integer"):
        TABLE.decode(msgpack.packb([4, True, 1]))


def test_bytes_after_a_message_without_a_body_are_refused() -> None:
    with pytest.raises(WireError, match="follow"):
        TABLE.decode(TABLE.encode(Ping(1, 2, False)) + b"x")


def test_a_host_name_is_not_an_address() -> None:
    with pytest.raises(WireError):
        TABLE.decode(msgpack.packb([2, [bytes(32), b"evil.example", 80], 1, 2]))


def test_an_unknown_message_is_named() -> None:
    with pytest.raises(WireError, match="there is no message 99"):
        TABLE.decode(msgpack.packb([99]))


@dataclass(frozen=True)
class Old:
    number: int


@dataclass(frozen=True)
class New:
    number: int
    note: bytes = b"none"


NUMBER = integer(0, 9)
OLD = Table(row(1, Old, NUMBER))
NEW = Table(row(1, New, NUMBER, binary(10)))


def test_a_field_from_a_newer_version_is_ignored() -> None:
    assert OLD.decode(NEW.encode(New(7, b"hello")))[0] == Old(7)


def test_a_field_that_an_older_version_lacks_gets_its_default() -> None:
    assert NEW.decode(OLD.encode(Old(7)))[0] == New(7)


def test_a_header_above_the_limit_is_our_own_mistake() -> None:
    wide = Table(row(1, New, NUMBER, binary(2 * MAX_HEADER)))
    with pytest.raises(ValueError, match="above"):
        wide.encode(New(1, bytes(2 * MAX_HEADER)))


def test_a_table_notices_a_row_that_does_not_fit_its_class() -> None:
    with pytest.raises(ValueError, match="another number of fields"):
        Table(row(1, New, NUMBER))
    with pytest.raises(ValueError, match="same tag"):
        Table(row(1, Old, NUMBER), row(1, New, NUMBER, sequence(NUMBER, 2)))
