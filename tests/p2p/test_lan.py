"""What a member writes about itself for the local network, and what others make of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.lan import MOST_ADDRESSES, read, service_type, write
from p2p.network_key import NetworkKey
from p2p.peer import Address, PeerId

KEY, OTHER = NetworkKey(bytes(32)), NetworkKey(bytes([1]) * 32)
ME, SOMEBODY = PeerId(bytes(32)), PeerId(bytes([1]) * 32)
AT = [Address("10.0.0.1", 7946), Address("2001:db8::2", 7946)]


def record(written: dict[str, str]) -> dict[bytes, bytes | None]:
    return {name.encode(): value.encode() for name, value in written.items()}


def test_what_a_member_writes_is_read() -> None:
    assert read(KEY, ME, record(write(KEY, ME, AT))) == AT


def test_no_text_is_longer_than_a_record_holds() -> None:
    longest = [Address("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", 65535)] * (MOST_ADDRESSES + 1)
    written = write(KEY, ME, longest)
    assert all(len(f"{name}={value}") <= 255 for name, value in written.items())
    assert read(KEY, ME, record(written)) == longest[:-1]


def test_the_kind_of_service_is_as_long_as_dns_allows() -> None:
    assert len(service_type(KEY).partition(".")[0]) == 16  # and the underscore
    assert service_type(KEY) != service_type(OTHER)


@pytest.mark.parametrize(
    ("key", "peer", "changes"),
    [
        (OTHER, ME, {}),
        (KEY, SOMEBODY, {}),
        (KEY, ME, {b"at": b"10.0.0.9:7946"}),
        (KEY, ME, {b"v": b"2"}),
        (KEY, ME, {b"mac": None}),
        (KEY, ME, {b"at": "10.0.0.1:7946,é".encode()}),
    ],
)
def test_nothing_else_is(key: NetworkKey, peer: PeerId, changes: dict[bytes, bytes | None]) -> None:
    assert read(key, peer, record(write(KEY, ME, AT)) | changes) is None


@pytest.mark.parametrize("address", [Address("example.org", 1), Address("", 1)])
def test_a_members_nonsense_is_not_believed(address: Address) -> None:
    assert read(KEY, ME, record(write(KEY, ME, [*AT, address]))) is None


@given(st.dictionaries(st.sampled_from([b"v", b"at", b"mac"]), st.none() | st.binary()))
def test_no_record_makes_reading_fail(written: dict[bytes, bytes | None]) -> None:
    assert read(KEY, ME, written) is None
