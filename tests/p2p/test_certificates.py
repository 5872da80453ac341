"""Handshakes between members and strangers, without sockets."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from p2p.certificates import (
    ANY_MEMBER,
    BACKDATE,
    LIFETIME,
    PROTOCOL,
    Credentials,
    NotAdmitted,
    SomebodyElse,
    _as_file,
    _Authority,
    _Handshake,
)
from p2p.identity import Identity
from p2p.network_key import NetworkKey
from p2p.peer import PeerId

KEY, OTHER_KEY = NetworkKey(bytes(32)), NetworkKey(bytes([1]) * 32)
ME, YOU = Identity.generate(), Identity.generate()


def shake(
    client: ssl.SSLContext, server: ssl.SSLContext, wanted: str = ANY_MEMBER
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Both ends of a handshake that both ends have completed. Raises what either end does."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(back, there, server_hostname=wanted),
        server.wrap_bio(there, back, server_side=True),
    )
    done: set[ssl.SSLObject] = set()
    for _ in range(10):
        for end in ends:
            if end not in done:
                try:
                    end.do_handshake()
                    done.add(end)
                except ssl.SSLWantReadError:
                    pass
    assert done == set(ends), "the handshake never ends"
    return ends


def members(shown: Callable[[], float] = time.time) -> tuple[Credentials, Credentials]:
    return Credentials(ME, [KEY]), Credentials(YOU, [KEY], shown)


def both_ways(other: Credentials | ssl.SSLContext, why: str) -> None:
    """A member talks to the other neither as a client nor as a server."""
    member = Credentials(ME, [KEY])
    client, server = (
        (other.client, other.server) if isinstance(other, Credentials) else (other, other)
    )
    if client.protocol == ssl.PROTOCOL_TLS_CLIENT:
        with pytest.raises(ssl.SSLError, match=why):
            shake(client, member.server)
    if server.protocol == ssl.PROTOCOL_TLS_SERVER:
        with pytest.raises(ssl.SSLError, match=why):
            shake(member.client, server)


def plain(protocol: int, pem: bytes | None, trusts: NetworkKey | None = None) -> ssl.SSLContext:
    """What anybody can make with the standard library."""
    context = ssl.SSLContext(protocol)
    context.check_hostname = False
    context.set_alpn_protocols([PROTOCOL])
    if trusts is not None:
        context.load_verify_locations(cadata=_Authority(trusts).certificate)
        context.verify_mode = ssl.CERT_REQUIRED
    else:
        context.verify_mode = ssl.CERT_NONE
    if pem is not None:
        with _as_file(pem) as name:
            context.load_cert_chain(name)
    return context


def private_pem(key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def certificate(
    issuer: str,
    signer: Ed25519PrivateKey,
    key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey,
    *,
    authority: bool = False,
) -> x509.Certificate:
    """One that OpenSSL's strict rules like."""
    now = datetime.now(UTC)
    ours, theirs = key.public_key(), signer.public_key()
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mallory")]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(ours)
        .serial_number(7)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ours), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(theirs), critical=False)
        .add_extension(x509.BasicConstraints(authority, None), critical=True)
        .sign(signer, None)
    )


# members ------------------------------------------------------------------------------------------


def test_members_learn_who_the_other_is() -> None:
    me, you = members()
    client, server = shake(me.client, you.server)
    assert isinstance(client, _Handshake)
    assert isinstance(server, _Handshake)
    assert (client.peer, server.peer) == (YOU.id, ME.id)
    assert type(client.peer) is PeerId
    assert client.version() == server.version() == "TLSv1.3"


def test_whoever_is_dialled_must_answer() -> None:
    me, you = members()
    shake(me.client, you.server, str(YOU.id))
    for other in (ME.id, Identity.generate().id):
        with pytest.raises(SomebodyElse, match=f"PeerId.{YOU.id.short}. answered, not"):
            shake(me.client, you.server, str(other))


@pytest.mark.parametrize("name", ["127.0.0.1", "", "localhost", "any-member", "a" * 51])
def test_a_name_that_is_no_peer_id_fails_rather_than_meaning_anybody(name: str) -> None:
    me, you = members()
    with pytest.raises(ValueError, match="is not a peer id"):
        shake(me.client, you.server, name)
    with pytest.raises(ValueError, match="is not a peer id"):
        me.client.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO())


def test_the_peer_that_is_dialled_is_not_named_on_the_way() -> None:
    me, _ = members()
    out = ssl.MemoryBIO()
    hello = me.client.wrap_bio(ssl.MemoryBIO(), out, server_hostname=str(YOU.id))
    with pytest.raises(ssl.SSLWantReadError):
        hello.do_handshake()
    sent = out.read()
    assert len(sent) > 100
    for name in (str(YOU.id).encode(), bytes(YOU.id), str(ME.id).encode(), KEY.id.hex().encode()):
        assert name not in sent


def test_a_node_with_two_keys_talks_to_both_networks_while_one_replaces_the_other() -> None:
    old, new = Credentials(ME, [KEY]), Credentials(YOU, [OTHER_KEY])
    for keys in ([KEY, OTHER_KEY], [OTHER_KEY, KEY]):
        both = Credentials(Identity.generate(), keys)
        signed, unsigned = (old, new) if keys[0] is KEY else (new, old)
        for pair in ((both.client, signed.server), (signed.client, both.server)):
            shake(*pair)
        with pytest.raises(ssl.SSLError, match="certificate verify failed"):
            shake(unsigned.client, both.server)  # it does not know who signs for us
    shake(
        Credentials(ME, [KEY, OTHER_KEY]).client,
        Credentials(YOU, [OTHER_KEY, KEY]).server,
        str(YOU.id),
    )


@pytest.mark.parametrize("keys", [[], [KEY, OTHER_KEY, NetworkKey(bytes([2]) * 32)]])
def test_a_node_has_one_key_or_two(keys: list[NetworkKey]) -> None:
    with pytest.raises(ValueError, match=f"1 or 2 network keys, not {len(keys)}"):
        Credentials(ME, keys)


def test_all_members_derive_the_same_authority() -> None:
    first, second = _Authority(KEY), _Authority(NetworkKey(bytes(32)))
    assert first.certificate == second.certificate
    assert _Authority(OTHER_KEY).certificate != first.certificate


# time ---------------------------------------------------------------------------------------------


def test_certificates_are_renewed_at_half_of_their_life_and_not_before() -> None:
    now = [time.time()]
    me, you = Credentials(ME, [KEY]), Credentials(YOU, [KEY], lambda: now[0])

    def shown() -> x509.Certificate:
        client, _ = shake(me.client, you.server)
        der = client.getpeercert(binary_form=True)
        assert der is not None
        return x509.load_der_x509_certificate(der)

    first = shown()
    begin, end = first.not_valid_before_utc, first.not_valid_after_utc
    assert (end - begin).total_seconds() == LIFETIME + BACKDATE
    assert abs(begin.timestamp() + BACKDATE - now[0]) <= 1
    now[0] += LIFETIME / 2 - 1
    assert shown() == first
    # OpenSSL knows only the real time, so we go back in ours to stay valid.
    you._renew_at = now[0] - 10
    now[0] -= LIFETIME / 2 - 100
    assert shown() == first
    you._renew_at = now[0]
    assert shown() != first


@pytest.mark.parametrize(
    ("ago", "why"),
    [
        (LIFETIME + 60, "expired"),
        (-BACKDATE - 60, "not yet valid"),
    ],
    ids=["expired", "future"],
)
def test_a_certificate_is_refused_before_and_after_its_time(ago: float, why: str) -> None:
    both_ways(Credentials(YOU, [KEY], lambda: time.time() - ago), why)


@pytest.mark.parametrize("ago", [LIFETIME - 60, -BACKDATE + 60])
def test_clocks_may_differ_by_minutes(ago: float) -> None:
    me, you = members(lambda: time.time() - ago)
    shake(me.client, you.server)
    shake(you.client, me.server)


# strangers ----------------------------------------------------------------------------------------


def test_another_networks_key_fails_in_both_directions() -> None:
    both_ways(Credentials(YOU, [OTHER_KEY]), "certificate verify failed")


def test_a_client_without_a_certificate_fails() -> None:
    for trusts in (None, KEY):
        stranger = plain(ssl.PROTOCOL_TLS_CLIENT, None, trusts)
        both_ways(stranger, "peer did not return a certificate")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2])
def test_older_tls_fails_even_with_the_right_certificate(version: ssl.TLSVersion) -> None:
    pem = _Authority(KEY).sign(YOU.id, time.time()) + private_pem(YOU._key)
    for protocol in (ssl.PROTOCOL_TLS_CLIENT, ssl.PROTOCOL_TLS_SERVER):
        other = plain(protocol, pem, KEY)
        other.maximum_version = version
        both_ways(other, "(?i)protocol")


def test_a_certificate_that_signs_itself_fails() -> None:
    key = Ed25519PrivateKey.generate()
    for issuer in ("mallory", f"gossip {KEY.id.hex()}"):
        pem = certificate(issuer, key, key).public_bytes(Encoding.PEM) + private_pem(key)
        for protocol in (ssl.PROTOCOL_TLS_CLIENT, ssl.PROTOCOL_TLS_SERVER):
            both_ways(plain(protocol, pem), "certificate verify failed")


def test_somebody_elses_certificate_is_of_no_use_without_its_key() -> None:
    theirs = _Authority(KEY).sign(YOU.id, time.time())
    with _as_file(theirs + private_pem(Ed25519PrivateKey.generate())) as name:
        for protocol in (ssl.PROTOCOL_TLS_CLIENT, ssl.PROTOCOL_TLS_SERVER):
            with pytest.raises(ssl.SSLError, match="KEY_VALUES_MISMATCH"):
                ssl.SSLContext(protocol).load_cert_chain(name)


def test_a_member_cannot_make_an_authority_of_its_own() -> None:
    root = Ed25519PrivateKey.from_private_bytes(KEY.derive("certificate authority"))
    between, leaf = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    middle = certificate(f"gossip {KEY.id.hex()}", root, between, authority=True)
    pem = certificate("mallory", between, leaf).public_bytes(Encoding.PEM)
    chain = pem + middle.public_bytes(Encoding.PEM) + private_pem(leaf)
    for protocol in (ssl.PROTOCOL_TLS_CLIENT, ssl.PROTOCOL_TLS_SERVER):
        both_ways(plain(protocol, chain), "certificate verify failed")


def test_a_certificate_without_an_identity_key_fails() -> None:
    root = Ed25519PrivateKey.from_private_bytes(KEY.derive("certificate authority"))
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = certificate(f"gossip {KEY.id.hex()}", root, key)
    pem = leaf.public_bytes(Encoding.PEM) + private_pem(key)
    for protocol in (ssl.PROTOCOL_TLS_CLIENT, ssl.PROTOCOL_TLS_SERVER):
        both_ways(plain(protocol, pem), "nobody's identity")


@pytest.mark.parametrize("protocols", [[], ["http/1.1"]])
def test_the_other_end_must_speak_our_protocol(protocols: list[str]) -> None:
    pem = _Authority(KEY).sign(YOU.id, time.time()) + private_pem(YOU._key)
    for protocol in (ssl.PROTOCOL_TLS_CLIENT, ssl.PROTOCOL_TLS_SERVER):
        other = ssl.SSLContext(protocol)
        other.check_hostname = False
        other.verify_mode = ssl.CERT_NONE
        other.set_alpn_protocols(protocols)
        with _as_file(pem) as name:
            other.load_cert_chain(name)
        both_ways(other, f"does not speak {PROTOCOL}")


def test_credentials_show_no_secret() -> None:
    shown = repr(Credentials(ME, [KEY])) + str(Credentials(ME, [KEY]))
    assert shown == f"Credentials({ME.id.short})" * 2


# who is admitted ----------------------------------------------------------------------------------


def test_both_ends_are_asked_whether_the_other_may_come_in() -> None:
    asked: list[tuple[PeerId, bytes | None]] = []

    def admit(peer: PeerId, invitation: bytes | None) -> None:
        asked.append((peer, invitation))

    me = Credentials(ME, [KEY], admit=admit, invitation=b"mine")
    you = Credentials(YOU, [KEY], admit=admit, invitation=b"yours" * 100)
    shake(me.client, you.server)
    assert asked == [(YOU.id, b"yours" * 100), (ME.id, b"mine")]


def test_whoever_is_not_admitted_fails_the_handshake_in_both_directions() -> None:
    me = Credentials(ME, [KEY], admit=lambda peer, invitation: "not today")
    you = Credentials(YOU, [KEY])
    for ends in ((me.client, you.server), (you.client, me.server)):
        with pytest.raises(NotAdmitted, match=rf"PeerId.{YOU.id.short}. is not let in: not today"):
            shake(*ends)


def test_nobody_is_asked_about_strangers_or_somebody_else() -> None:
    asked: list[PeerId] = []
    me = Credentials(ME, [KEY], admit=lambda peer, invitation: asked.append(peer))
    with pytest.raises(ssl.SSLError):
        shake(me.client, Credentials(YOU, [OTHER_KEY]).server)
    with pytest.raises(SomebodyElse):
        shake(me.client, Credentials(YOU, [KEY]).server, str(ME.id))
    assert asked == []
