"""Invitations: who may come into a network whose key alone does not suffice.

An admin signs one with an Ed25519 key (an identity like a node's). It names the network, a span of
time, how many peers may come with it, and its subject: a peer, or, if it is for whoever has it, a
key made for it. That key's private half travels with the invitation's text and nowhere else. What a
node shows to others, in its certificate, is the invitation and a signature of that key over the
node's own id. So whoever gets to see a certificate, which needs nothing but to dial, cannot come in
with the invitation in it.

    signed = header (msgpack, see `TABLE`) | issuer's signature (64 bytes)
    text   = signed | secret (32), if it is for whoever has it
    shown  = signed | signature of the secret's key over the peer's id (64), likewise

An invitation may make its subject an inviter, who signs invitations for members with the identity
of its node; those carry the inviter's own as proof. There is no third step.

How often one was used is counted by each node for itself, in peers that it has seen come with it.
A network without a leader knows no other number: an invitation for one peer that is used by two at
two nodes which never talk to both is noticed by neither. By name there is nothing to count.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection
from dataclasses import dataclass
from hashlib import sha256
from math import isfinite

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from p2p.errors import InvitationError, WireError
from p2p.identity import Identity, verify
from p2p.peer import PeerId
from p2p.wire import Table, binary, boolean, integer, optional, peer_id, row

PREFIX = "gossip-invitation-1:"
LONGEST = 30 * 24 * 3600  # seconds that an invitation may live
SKEW = 300  # seconds by which clocks may differ
NONCE_SIZE = 16  # bytes; as hex it is the name by which an invitation is revoked
SECRET_SIZE = 32  # bytes; the seed of an Ed25519 key
SIGNATURE_SIZE = 64  # bytes
CHECK_SIZE = 4  # bytes of SHA-256 at the end of the text
MOST_USES = 1000
MOST_SHOWN = 1024  # bytes that are looked at

_SIGNED = b"gossip-learning 1 invitation "
_REDEEMED = b"gossip-learning 1 redeemed "


@dataclass(frozen=True, slots=True)
class Invitation:
    """What an issuer signs."""

    network: bytes  # (8,) the id of the network
    issuer: PeerId
    subject: PeerId  # the peer that is invited, or the key that whoever has it has been given
    bearer: bool  # which of the two
    inviter: bool  # whether the subject may invite members
    begins: int  # seconds since 1970
    expires: int
    nonce: bytes  # (16,)
    uses: int  # peers that may come with it
    proof: bytes | None = None  # the issuer's own invitation, signed; None: it is an admin

    def __post_init__(self) -> None:
        if not 0 < self.expires - self.begins <= LONGEST:
            raise InvitationError("an invitation lives for more than 0 and at most 30 days")
        if self.inviter and self.bearer:
            raise InvitationError("an inviter is invited by name")
        if self.inviter and self.proof is not None:
            raise InvitationError("an inviter invites members, not inviters")

    @property
    def name(self) -> str:
        """By which it is revoked."""
        return self.nonce.hex()


_SECONDS = integer(0, 2**40)
TABLE: Table[Invitation] = Table(
    row(
        1,
        Invitation,
        binary(8, exact=True),
        peer_id,
        peer_id,
        boolean,
        boolean,
        _SECONDS,
        _SECONDS,
        binary(NONCE_SIZE, exact=True),
        integer(1, MOST_USES),
        optional(binary(400)),
        body=True,
    )
)


# making one ---------------------------------------------------------------------------------------


def issue(issuer: Identity, invitation: Invitation) -> bytes:
    """The invitation, signed."""
    header = TABLE.encode(invitation)
    return header + issuer.sign(_SIGNED + header)


def reveal(signed: bytes, secret: bytes = b"") -> str:
    """The line of text to give to whom is invited; with the secret, nobody else should see it."""
    raw = signed + secret
    return PREFIX + base64.urlsafe_b64encode(raw + _check(raw)).decode().rstrip("=")


def key_of(secret: bytes) -> Identity:
    """The key that is the subject of an invitation for whoever has it."""
    return Identity(Ed25519PrivateKey.from_private_bytes(secret))


# coming with one ----------------------------------------------------------------------------------


def parse(text: str) -> tuple[Invitation, bytes, bytes]:
    """Read what `reveal` wrote: what was signed, the same as bytes, and the secret or nothing.

    Raises InvitationError, which never quotes the text.
    """
    version, encoded = text[: len(PREFIX)], text[len(PREFIX) :]
    if version != PREFIX:
        raise InvitationError(f"it does not begin with {PREFIX}")
    try:
        padded = encoded.encode("ascii") + b"=" * (-len(encoded) % 4)
        raw = base64.b64decode(padded, altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise InvitationError(f"what follows {PREFIX} is not base64") from None
    raw, check = raw[:-CHECK_SIZE], raw[-CHECK_SIZE:]
    if _check(raw) != check:
        raise InvitationError("its checksum is wrong, so it is not what was written")
    invitation, _, secret = _split(raw)
    if len(secret) != SECRET_SIZE * invitation.bearer:
        raise InvitationError("its secret is missing")
    return invitation, raw[: len(raw) - len(secret)], secret


def redeem(text: str, me: PeerId) -> bytes:
    """What this peer shows to others. Raises InvitationError: not for this peer, or none at all."""
    invitation, signed, secret = parse(text)
    if invitation.bearer:
        return signed + key_of(secret).sign(_REDEEMED + me)
    if invitation.subject != me:
        raise InvitationError(f"it is for {invitation.subject}, and this node is {me}")
    return signed


# letting somebody in ------------------------------------------------------------------------------


def examine(
    shown: bytes, peer: PeerId, networks: Collection[bytes], admins: Collection[PeerId]
) -> tuple[Invitation, ...]:
    """The invitation that this peer shows, and the inviter's own if that is what it rests on.

    All that does not change with time is checked; `refusal` says the rest.

    Raises:
        InvitationError: it was not signed by an admin or inviter for this peer and network.
    """
    if len(shown) > MOST_SHOWN:
        raise InvitationError("it is too long")
    invitation, signature, redeemed = _split(shown)
    chain: tuple[Invitation, ...] = (invitation,)
    if invitation.proof is not None:
        own = examine(invitation.proof, invitation.issuer, networks, admins)
        if not own[0].inviter:
            raise InvitationError(f"{invitation.issuer.short} may not invite anybody")
        chain += own
    elif invitation.issuer not in admins:
        raise InvitationError(f"{invitation.issuer.short}, who signed it, is no admin of ours")
    if invitation.network not in networks:
        raise InvitationError(f"it is for network {invitation.network.hex()}")
    header = shown[: len(shown) - len(signature) - len(redeemed)]
    if not verify(invitation.issuer, signature, _SIGNED + header):
        raise InvitationError("its signature is wrong")
    if invitation.bearer:
        if not verify(invitation.subject, redeemed, _REDEEMED + peer):
            raise InvitationError("whoever shows it does not have its secret")
    elif invitation.subject != peer or redeemed:
        raise InvitationError("it is for somebody else")
    return chain


def refusal(chain: Collection[Invitation], now: float) -> str | None:
    """Why these invitations are not valid at that time (Unix seconds); None if they are."""
    assert isfinite(now)
    for invitation in chain:
        if now < invitation.begins - SKEW:
            return "its time has not come yet"
        if now >= invitation.expires + SKEW:
            return "it has expired"
    return None


def _split(raw: bytes) -> tuple[Invitation, bytes, bytes]:
    """The invitation, its signature, and what follows."""
    try:
        invitation, rest = TABLE.decode(raw)
    except WireError as error:
        raise InvitationError(f"it is no invitation: {error}") from None
    return invitation, bytes(rest[:SIGNATURE_SIZE]), bytes(rest[SIGNATURE_SIZE:])


def _check(raw: bytes) -> bytes:
    return sha256(PREFIX.encode() + raw).digest()[:CHECK_SIZE]
