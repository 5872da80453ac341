"""I/O: makes invitations, for `gossip invite`."""

from __future__ import annotations

import secrets
import time
from pathlib import Path

from p2p import InvitationError, PeerId, identity, network_key
from p2p.invitation import NONCE_SIZE, SECRET_SIZE, Invitation, issue, key_of, parse, reveal


def invite(
    network_key: Path,
    admin_key: Path,
    invitation: Path | None,
    peer: str | None,
    uses: int,
    expires: float,
    role: str,
) -> tuple[dict[str, object], str]:
    """What the invitation says, and the line to hand over.

    Args:
        invitation: file with the inviter's own, if it is no admin.
        peer: who is invited; None: whoever has the line.
        expires: seconds from now.

    Raises InvitationError, IdentityError.
    """
    network = _network(network_key)
    signer = identity.load(admin_key)
    secret = b"" if peer else secrets.token_bytes(SECRET_SIZE)
    now = int(time.time())
    made = Invitation(
        network=network,
        issuer=signer.id,
        subject=_subject(peer) if peer else key_of(secret).id,
        bearer=not peer,
        inviter=role == "inviter",
        begins=now,
        expires=now + int(expires),
        nonce=secrets.token_bytes(NONCE_SIZE),
        uses=1 if peer else uses,
        proof=None if invitation is None else _proof(invitation, signer.id),
    )
    said: dict[str, object] = {
        "name": made.name,
        "network": network.hex(),
        "for": peer,
        "role": role,
        "uses": made.uses,
        "expires": made.expires,
    }
    return said, reveal(issue(signer, made), secret)


def _network(path: Path) -> bytes:
    return network_key.load(path).id


def _subject(text: str) -> PeerId:
    try:
        return PeerId.parse(text)
    except ValueError as error:
        raise InvitationError(f"{error}; gossip status --json shows a node's id") from None


def _proof(path: Path, issuer: PeerId) -> bytes:
    try:
        text = path.read_text(encoding="ascii", errors="replace").strip()
    except OSError as error:
        raise InvitationError(f"cannot read {path}: {error.strerror}") from None
    try:
        own, signed, _ = parse(text)
    except InvitationError as error:
        raise InvitationError(f"{path} holds no invitation: {error}") from None
    if not own.inviter or own.subject != issuer:
        raise InvitationError(f"{path} does not let {issuer.short} invite others")
    return signed
