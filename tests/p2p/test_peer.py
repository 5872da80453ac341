import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p import Address, PeerId


@given(st.binary(min_size=32, max_size=32))
def test_a_peer_id_reads_its_own_text(key: bytes) -> None:
    assert PeerId.parse(str(PeerId(key))) == key


@pytest.mark.parametrize("text", ["", "abc", "!" * 52, "a" * 53])
def test_what_is_not_a_peer_id_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match="peer id"):
        PeerId.parse(text)


@given(st.ip_addresses().map(str), st.integers(0, 65535))
def test_an_address_reads_its_own_text(host: str, port: int) -> None:
    assert Address.parse(str(Address(host, port))) == (host, port)


@pytest.mark.parametrize("text", ["", "host", ":1", "host:", "host:x", "host:65536", "host:-1"])
def test_what_is_not_an_address_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="for example 10"):
        Address.parse(text)
