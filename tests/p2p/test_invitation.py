"""Invitations: who may be let in, and everybody who may not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.errors import InvitationError
from p2p.identity import Identity
from p2p.invitation import (
    LONGEST,
    PREFIX,
    SIGNATURE_SIZE,
    SKEW,
    Invitation,
    examine,
    issue,
    key_of,
    parse,
    redeem,
    refusal,
    reveal,
)
from p2p.peer import PeerId

NETWORK = b"network!"
ADMIN, INVITER, GUEST, STRANGER = (Identity.generate() for _ in range(4))
SECRET = bytes(range(32))
NOW = 1_000_000


def named(**changes: Any) -> Invitation:
    """An admin's invitation for GUEST."""
    usual = Invitation(
        network=NETWORK,
        issuer=ADMIN.id,
        subject=GUEST.id,
        bearer=False,
        inviter=False,
        begins=NOW,
        expires=NOW + 3600,
        nonce=bytes(16),
        uses=1,
    )
    return replace(usual, **changes)


def bearer(**changes: Any) -> Invitation:
    return named(bearer=True, subject=key_of(SECRET).id, **changes)


def by_inviter(own: Invitation, **changes: Any) -> bytes:
    """What GUEST shows of an invitation that INVITER signed, who has this one itself."""
    proof = issue(ADMIN, own)
    return issue(INVITER, named(issuer=INVITER.id, proof=proof, **changes))


def inviter(**changes: Any) -> Invitation:
    return named(subject=INVITER.id, inviter=True, **changes)


def examined(shown: bytes, peer: PeerId = GUEST.id) -> tuple[Invitation, ...]:
    return examine(shown, peer, [NETWORK], [ADMIN.id])


# who comes in -------------------------------------------------------------------------------------


def test_whoever_is_invited_by_name_comes_in_and_nobody_else() -> None:
    text = reveal(issue(ADMIN, named()))
    shown = redeem(text, GUEST.id)
    assert examined(shown) == (named(),)
    with pytest.raises(InvitationError, match=f"it is for {GUEST.id}"):
        redeem(text, STRANGER.id)
    with pytest.raises(InvitationError, match="somebody else"):
        examined(shown, STRANGER.id)


def test_whoever_has_the_line_comes_in_and_what_he_shows_is_of_no_use_to_others() -> None:
    text = reveal(issue(ADMIN, bearer()), SECRET)
    for peer in (GUEST.id, STRANGER.id):
        assert examined(redeem(text, peer), peer) == (bearer(),)
    seen = redeem(text, GUEST.id)
    assert SECRET not in seen
    with pytest.raises(InvitationError, match="does not have its secret"):
        examined(seen, STRANGER.id)
    with pytest.raises(InvitationError, match="does not have its secret"):
        examined(seen[:-SIGNATURE_SIZE])


def test_an_inviter_invites_members_and_the_chain_ends_there() -> None:
    assert examined(by_inviter(inviter())) == (
        named(issuer=INVITER.id, proof=issue(ADMIN, inviter())),
        inviter(),
    )
    with pytest.raises(InvitationError, match="members, not inviters"):
        named(issuer=INVITER.id, proof=issue(ADMIN, inviter()), inviter=True)
    member = issue(INVITER, named(issuer=INVITER.id, proof=issue(ADMIN, inviter())))
    third = issue(GUEST, named(issuer=GUEST.id, subject=STRANGER.id, proof=member[:400]))
    with pytest.raises(InvitationError):
        examined(third, STRANGER.id)


def test_a_member_may_not_invite() -> None:
    with pytest.raises(InvitationError, match="may not invite anybody"):
        examined(by_inviter(named(subject=INVITER.id)))


def test_an_inviter_is_invited_by_name() -> None:
    with pytest.raises(InvitationError, match="by name"):
        bearer(inviter=True)


# forgeries ----------------------------------------------------------------------------------------


def test_nobody_but_an_admin_or_inviter_can_sign() -> None:
    with pytest.raises(InvitationError, match="no admin of ours"):
        examined(issue(STRANGER, named(issuer=STRANGER.id)))
    with pytest.raises(InvitationError, match="signature is wrong"):
        examined(issue(STRANGER, named()))
    with pytest.raises(InvitationError, match="signature is wrong"):
        examined(issue(STRANGER, named(issuer=INVITER.id, proof=issue(ADMIN, inviter()))))
    with pytest.raises(InvitationError, match="no admin of ours"):
        examined(by_inviter(inviter(issuer=STRANGER.id)))
    with pytest.raises(InvitationError, match="somebody else"):
        examined(by_inviter(inviter(), subject=STRANGER.id))


@pytest.mark.parametrize("by_name", [True, False])
def test_every_bit_that_is_flipped_is_noticed(by_name: bool) -> None:
    text = reveal(issue(ADMIN, named())) if by_name else reveal(issue(ADMIN, bearer()), SECRET)
    shown = redeem(text, GUEST.id)
    for bit in range(8 * len(shown)):
        forged = bytearray(shown)
        forged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(InvitationError):
            examined(bytes(forged))


def test_an_invitation_is_for_one_network() -> None:
    with pytest.raises(InvitationError, match=f"for network {b'another!'.hex()}"):
        examined(issue(ADMIN, named(network=b"another!")))
    with pytest.raises(InvitationError, match="for network"):
        examined(by_inviter(inviter(network=b"another!")))


@given(st.binary(max_size=2000))
def test_no_bytes_raise_anything_but_an_invitation_error(data: bytes) -> None:
    with pytest.raises(InvitationError):
        examined(data)


# time ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (NOW - SKEW - 1, "not come yet"),
        (NOW - SKEW, None),
        (NOW + 3600 + SKEW - 1, None),
        (NOW + 3600 + SKEW, "expired"),
    ],
)
def test_an_invitation_has_its_time_give_or_take_what_clocks_differ(
    now: float, expected: str | None
) -> None:
    found = refusal([named()], now)
    assert (found is None) == (expected is None)
    assert expected is None or (found is not None and expected in found)


def test_it_ends_with_that_of_the_inviter() -> None:
    chain = examined(by_inviter(inviter(expires=NOW + 60)))
    assert refusal(chain, NOW + 60 + SKEW - 1) is None
    assert refusal(chain, NOW + 60 + SKEW) == "it has expired"


@pytest.mark.parametrize("life", [0, -1, LONGEST + 1])
def test_it_lives_for_thirty_days_at_most(life: int) -> None:
    with pytest.raises(InvitationError, match="30 days"):
        named(expires=NOW + life)


# text ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("secret", [b"", SECRET])
def test_parse_inverts_reveal(secret: bytes) -> None:
    invitation = bearer() if secret else named()
    signed = issue(ADMIN, invitation)
    text = reveal(signed, secret)
    assert text.startswith(PREFIX)
    assert len(text.splitlines()) == 1
    assert parse(text) == (invitation, signed, secret)


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda text: text[1:], "does not begin with"),
        (lambda text: "", "does not begin with"),
        (lambda text: text[:-1], "."),
        (lambda text: text[:-9], "."),
        (lambda text: text.replace("A", "B", 1), "checksum"),
        (lambda text: text + "\u00e9", "base64"),
        (lambda text: PREFIX + "!!", "base64"),
        (lambda text: PREFIX, "checksum"),
    ],
)
def test_what_is_not_what_was_written_is_refused_and_not_quoted(damage: Any, why: str) -> None:
    text = reveal(issue(ADMIN, bearer()), SECRET)
    with pytest.raises(InvitationError, match=why) as caught:
        parse(damage(text))
    assert text[-40:-10] not in str(caught.value)


def test_a_secret_that_was_left_out_is_missed() -> None:
    with pytest.raises(InvitationError, match="secret is missing"):
        parse(reveal(issue(ADMIN, bearer())))
