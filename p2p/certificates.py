"""Who belongs to the network, and who each of them is: mutual TLS 1.3 without a PKI to run.

Every member derives the same certificate authority from the network key, and signs with it a
short-lived certificate for its own identity key. So a certificate that verifies proves that its
maker knows the network key, and the handshake proves that whoever presents it owns the identity
key in it: the peer id. Whoever lacks the network key fails the handshake, in either direction.

What members can do to each other follows from that: any of them can let a stranger in, as it could
by passing the key on; none can take the place of another.

The standard library has no callback that looks at a peer's certificate, but it lets a context make
its own kind of `SSLObject`. Ours ends the handshake with one more step, which reads the peer id and
compares it with the one that was dialled; so nothing is ever sent to somebody else. The same step
asks whoever decides who of the members may come in. If that needs a word of somebody else's, an
invitation, it is an extension of the certificate; `p2p.invitation` says why it may be seen by all.
"""

from __future__ import annotations

import os
import ssl
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from p2p.identity import Identity
from p2p.network_key import NetworkKey
from p2p.peer import PeerId

LIFETIME = 24 * 3600.0  # seconds; renewed at half of it
BACKDATE = 300.0  # seconds for which a certificate is valid already, for clocks that differ
MOST_KEYS = 2  # the one in use, and while it is being replaced the other
PROTOCOL = "gossip/1"  # ALPN: nobody takes us for a web server, nor a web server for us
INVITATION = x509.ObjectIdentifier("2.25.336906674140860522322582925290342921023")
ANY_MEMBER = "any.member"  # in the place of a peer id: whoever is in the network

# Why this peer, who shows this invitation or none, may not come in; None if it may.
Admit = Callable[[PeerId, bytes | None], str | None]

_CA_FROM = datetime(2020, 1, 1, tzinfo=UTC)
_CA_UNTIL = datetime(9999, 12, 31, tzinfo=UTC)  # it is our own; RFC 5280, 4.1.2.5


class SomebodyElse(ssl.SSLCertVerificationError):
    """A member of the network answered, but not the one that was dialled."""


class NotAdmitted(ssl.SSLCertVerificationError):
    """A member of the network whom we do not let in."""


class Credentials:
    """What a node shows to others, and by what it knows them.

    Args:
        keys: one network key, or two while one replaces the other. The first one signs, both are
            trusted.
        clock: Unix seconds, for the validity of what we sign. What others show is checked against
            the system's clock.
        invitation: to show to others.
        admit: decides about others; asked at the end of each handshake, and by `peer_of`. None: the
            network key is enough.
    """

    def __init__(
        self,
        identity: Identity,
        keys: Sequence[NetworkKey],
        clock: Callable[[], float] = time.time,
        *,
        invitation: bytes | None = None,
        admit: Admit | None = None,
    ) -> None:
        if not 1 <= len(keys) <= MOST_KEYS:
            raise ValueError(f"a node has 1 or {MOST_KEYS} network keys, not {len(keys)}")
        self.identity = identity
        self.admit = admit
        self._invitation = invitation
        self._clock = clock
        self._signer = _Authority(keys[0])
        self._renew_at = 0.0
        trusted = b"".join(_Authority(key).certificate for key in keys)
        self.server = self._context(ssl.PROTOCOL_TLS_SERVER, trusted)
        self.client = self._context(ssl.PROTOCOL_TLS_CLIENT, trusted)
        self.renew()

    def renew(self) -> None:
        """Make a new certificate if half of the old one's life is over; every handshake asks."""
        now = self._clock()
        if now < self._renew_at:
            return
        pem = self._signer.sign(self.identity.id, now, self._invitation)
        pem += self.identity._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        with _as_file(pem) as name:
            self.server.load_cert_chain(name)
            self.client.load_cert_chain(name)
        self._renew_at = now + LIFETIME / 2

    def _context(self, protocol: int, trusted: bytes) -> ssl.SSLContext:
        context = _Context(protocol)
        context.credentials = self
        context.sslobject_class = _Handshake
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False  # `_Handshake` checks the peer id instead
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.load_verify_locations(cadata=trusted)
        context.set_alpn_protocols([PROTOCOL])
        if protocol == ssl.PROTOCOL_TLS_SERVER:
            context.num_tickets = 0  # connections are kept, sessions are not resumed
        return context

    def __repr__(self) -> str:
        return f"Credentials({self.identity.id.short})"


class _Authority:
    """The certificate authority of a network; the same for all members."""

    def __init__(self, key: NetworkKey) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(key.derive("certificate authority"))
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"gossip {key.id.hex()}")])
        public = self._key.public_key()
        self.certificate = (
            self._builder(self._name, public, _CA_FROM, _CA_UNTIL)
            .serial_number(1)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .sign(self._key, None)
            .public_bytes(Encoding.DER)
        )

    def sign(self, peer: PeerId, now: float, invitation: bytes | None = None) -> bytes:
        """A certificate for that peer, as PEM."""
        moment = datetime.fromtimestamp(now, UTC)
        begin, end = moment - timedelta(seconds=BACKDATE), moment + timedelta(seconds=LIFETIME)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, str(peer))])
        both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = (
            self._builder(name, Ed25519PublicKey.from_public_bytes(peer), begin, end)
            .serial_number(x509.random_serial_number())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(both), critical=False)
        )
        if invitation is not None:
            extension = x509.UnrecognizedExtension(INVITATION, invitation)
            builder = builder.add_extension(extension, critical=False)
        return builder.sign(self._key, None).public_bytes(Encoding.PEM)

    def _builder(
        self, subject: x509.Name, public: Ed25519PublicKey, begin: datetime, end: datetime
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public)
            .not_valid_before(begin)
            .not_valid_after(end)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
        )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


class _Context(ssl.SSLContext):
    """A context whose handshakes check the peer id that stands in the place of a host's name."""

    credentials: Credentials

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """Begin a handshake. Raises ValueError for a server's name that is no peer id."""
        self.credentials.renew()
        wanted = None
        if not server_side and server_hostname != ANY_MEMBER:
            wanted = PeerId.parse(str(server_hostname))
        # The name stays here: sent along, it would tell everybody on the way whom we talk to.
        handshake = super().wrap_bio(incoming, outgoing, server_side)
        assert isinstance(handshake, _Handshake)
        handshake.wanted = wanted
        handshake.admit = self.credentials.admit
        return handshake


class _Handshake(ssl.SSLObject):
    """A connection that is not made before we know with whom."""

    wanted: PeerId | None  # None: any member
    admit: Admit | None
    peer: PeerId
    invitation: bytes | None

    def do_handshake(self) -> None:
        """As OpenSSL does it, and then what only we know. Raises ssl.SSLError."""
        super().do_handshake()
        if self.selected_alpn_protocol() != PROTOCOL:
            raise ssl.SSLError(f"the other end does not speak {PROTOCOL}")
        self.peer, self.invitation = _read(self.getpeercert(binary_form=True))
        if self.wanted not in (None, self.peer):
            raise SomebodyElse(f"{self.peer!r} answered, not {self.wanted!r}")
        refusal = self.refusal()
        if refusal is not None:
            raise NotAdmitted(f"{self.peer!r} is not let in: {refusal}")

    def refusal(self) -> str | None:
        """Why the other end may not come in, or not any more; None if it may."""
        return None if self.admit is None else self.admit(self.peer, self.invitation)


def _read(der: bytes | None) -> tuple[PeerId, bytes | None]:
    """The only way from a verified certificate to a peer id and its invitation.

    Raises ssl.SSLError.
    """
    if der is None:
        raise ssl.SSLCertVerificationError("there is no certificate")
    try:
        certificate = x509.load_der_x509_certificate(der)
        key = certificate.public_key()
        found = [entry.value for entry in certificate.extensions if entry.oid == INVITATION]
    except (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension) as error:
        raise ssl.SSLCertVerificationError(f"a certificate that is not ours: {error}") from None
    if not isinstance(key, Ed25519PublicKey):
        raise ssl.SSLCertVerificationError("a certificate that is nobody's identity")
    invitation = found[0].value if found else None
    return PeerId(key.public_bytes_raw()), invitation


def peer_of(transport: Any) -> PeerId | None:
    """Who is at the other end of this asyncio transport; None if it is not one of ours, or is not
    to be let in any more: invitations expire and peers are banned while connections last."""
    handshake = transport.get_extra_info("ssl_object")
    if not isinstance(handshake, _Handshake) or handshake.refusal() is not None:
        return None
    return handshake.peer


@contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """A file of that content for as long as OpenSSL reads it, which cannot read from memory."""
    if sys.platform == "linux":
        descriptor = os.memfd_create("certificate")  # never on a disk
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            yield f"/proc/self/fd/{descriptor}"
    else:
        with tempfile.NamedTemporaryFile() as named:  # mode 0600
            named.write(content)
            named.flush()
            yield named.name
