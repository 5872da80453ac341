"""I/O: who may come in, and who may not any more.

The network key says who belongs to the network; every handshake ends with the question whether we
let this member in (`Access.admit`). The answer depends on the mode, and a ban comes before all:

    open      whoever has the network key
    allow     whose peer id stands in a file, one a line, `#` begins a comment; read when it changes
    invite    who shows an invitation that goes back to an admin of ours (`p2p.invitation`), and the
              admins themselves

Bans and counts of used invitations lie in the state directory, `bans.json` and `invitations.json`,
and are written before they count. Without a state directory they last as long as the node.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import inf, isinf
from pathlib import Path
from typing import Any, Literal

from gossip.audit import Audit
from gossip.errors import ConfigError
from gossip.exchange import LinkReset
from gossip.peer_list import PeerList
from p2p import (
    Address,
    Conduct,
    ConductConfig,
    InvitationError,
    PeerBanned,
    PeerGraylisted,
    PeerId,
    PeerUp,
    files,
)
from p2p import invitation as invitations
from p2p.conduct import Ban, Standing
from p2p.invitation import NONCE_SIZE, Invitation

log = logging.getLogger("gossip")

BANS, USES = "bans.json", "invitations.json"
MOST_INVITATIONS = 4096  # that are in use


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessConfig:
    """Who may come in."""

    mode: Literal["open", "allow", "invite"] = "open"
    """Of those who have the network key: all, those in a file, or those who are invited."""

    allow: Path | None = None
    """File with the peer ids that may come in, one a line; read again when it changes. A peer that
    is taken out may keep a link until its sessions end, 6 minutes at most, or the node gets a
    SIGHUP. The mode, this list and the admins can change while the node runs (SIGHUP)."""

    admins: tuple[str, ...] = ()
    """Peer ids whose invitations count. `gossip key new FILE --admin` makes one."""

    conduct: ConductConfig = field(default_factory=ConductConfig)
    """What peers may do before they are graylisted and banned."""

    def __post_init__(self) -> None:
        for admin in self.admins:
            try:
                PeerId.parse(admin)
            except ValueError as error:
                raise ValueError(f"admins: {error}") from None
        if self.mode == "allow" and self.allow is None:
            raise ValueError('mode "allow" needs the file of peer ids: allow = "FILE"')
        if self.mode == "invite" and not self.admins:
            raise ValueError('mode "invite" needs who may invite: admins = ["PEER"]')


def own(path: Path, me: PeerId, networks: Sequence[bytes], now: float) -> bytes:
    """What this node shows of the invitation in that file. Raises ConfigError."""
    try:
        with open(path, "rb") as file:
            text = file.read(4096).decode("ascii", "replace").strip()
        shown = invitations.redeem(text, me)
        invitation, _, _ = invitations.parse(text)
        if invitation.network not in networks:
            raise InvitationError(f"it is for network {invitation.network.hex()}")
        refusal = invitations.refusal([invitation], now)
        if refusal is not None:
            raise InvitationError(refusal)
    except OSError as error:
        raise ConfigError(f"cannot read the invitation in {path}: {error.strerror}") from None
    except InvitationError as error:
        raise ConfigError(
            f"the invitation in {path} is of no use: {error}; ask for another"
        ) from None
    return shown


class Access:
    """Decides at each handshake, and remembers.

    Args:
        me: this node, who is always let in: it may be among its own seeds.
        networks: ids of the networks whose keys the node has; none: nobody proves who he is.
        now: seconds, of the clock that the swarm is given.
        expel: called with a peer that must go, and why.
        audit: what is written down; None: nothing is.
        clock: Unix seconds.

    Raises ConfigError: a file that cannot be used.
    """

    def __init__(
        self,
        config: AccessConfig,
        me: PeerId,
        networks: Sequence[bytes],
        state_dir: Path | None,
        now: Callable[[], float],
        expel: Callable[[PeerId, str], None],
        audit: Audit | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._networks = frozenset(networks)
        self._me = me
        self._state_dir = state_dir
        self._now, self._clock = now, clock
        self._expel = expel
        self._audit = audit
        self.reload(config)
        self._came: dict[PeerId, tuple[str, ...]] = {}  # with which invitations, as of late
        # By issuer and name: by name alone, whoever may invite could use up what others signed.
        self._uses: dict[str, tuple[int, list[str]]] = self._load(USES, _read_uses, {})
        bans, self._revoked = self._load(BANS, self._read_bans, ({}, {}))
        self.conduct = Conduct(config.conduct, bans)

    def reload(self, config: AccessConfig) -> None:
        """Let in by these settings from now on; `conduct` stays. Raises ConfigError, with nothing
        changed."""
        if config.mode != "open" and not self._networks:
            raise ConfigError(
                f'access.mode = "{config.mode}" needs a network key: without one nobody proves who '
                "he is; give --network-key FILE"
            )
        listing = config.allow if config.mode == "allow" else None
        self._listed = PeerList(listing) if listing is not None else None
        self._config = config
        self._admins = frozenset(map(PeerId.parse, config.admins))
        self._examine = lru_cache(1024)(self._examine_once)

    def lists(self, peer: PeerId) -> bool:
        """Whether the list of allowed peers lets this one stay; if there is none, it does."""
        return self._listed is None or peer in self._listed

    def warn_uninvited(self) -> None:
        """Say what others would say only to themselves."""
        if self._config.mode == "invite" and self._me not in self._admins:
            log.warning(
                "this node has no invitation, so others will not let it in; give --invitation FILE "
                "(an admin makes one: gossip invite --for %s)",
                self._me,
            )

    # the question ---------------------------------------------------------------------------------

    def admit(self, peer: PeerId, invitation: bytes | None) -> str | None:
        """Why this peer, who shows this invitation or none, may not come in; None if it may."""
        refusal = self._refusal(peer, invitation)
        if refusal is not None:
            self._record("deny", peer=str(peer), reason=refusal)
        return refusal

    def _refusal(self, peer: PeerId, invitation: bytes | None) -> str | None:
        if peer == self._me:
            return None
        if self.conduct.standing(peer, self._now()) is Standing.BANNED:
            return "it is banned"
        match self._config.mode:
            case "open":
                return None
            case "allow":
                return None if self.lists(peer) else "it is not in the list of allowed peers"
            case "invite":
                return None if peer in self._admins else self._uninvited(peer, invitation)

    def _uninvited(self, peer: PeerId, shown: bytes | None) -> str | None:
        if shown is None:
            return "it has no invitation"
        try:
            chain = self._examine(shown, peer)
        except InvitationError as error:
            return str(error)
        refusal = invitations.refusal(chain, self._clock())
        if refusal is not None:
            return refusal
        names = tuple(invitation.name for invitation in chain)
        if any(self._clock() < self._revoked.get(name, -inf) for name in names):
            return "its invitation is revoked"
        refusal = self._count(chain[0], peer)
        if refusal is None:
            self._came.pop(peer, None)
            self._came[peer] = names
            if len(self._came) > MOST_INVITATIONS:
                del self._came[next(iter(self._came))]
        return refusal

    def _examine_once(self, shown: bytes, peer: PeerId) -> tuple[Invitation, ...]:
        return invitations.examine(shown, peer, self._networks, self._admins)

    def _count(self, invitation: Invitation, peer: PeerId) -> str | None:
        """Count this peer among those who came with it, unless they were enough already."""
        key = f"{invitation.issuer} {invitation.name}"
        _, peers = self._uses.get(key, (0, []))
        if str(peer) in peers:
            return None
        if len(peers) >= invitation.uses:
            return f"its invitation is used up, by {len(peers)} others"
        if not peers and len(self._uses) >= MOST_INVITATIONS:
            past = self._clock() - invitations.SKEW
            self._uses = {key: use for key, use in self._uses.items() if use[0] > past}
            if len(self._uses) >= MOST_INVITATIONS:
                return "too many invitations are in use"
        self._uses[key] = (invitation.expires, [*peers, str(peer)])
        self._save(USES, {key: list(use) for key, use in self._uses.items()})
        return None

    # bans -----------------------------------------------------------------------------------------

    def ban(self, who: str, seconds: float = inf) -> None:
        """Keep out a peer, or all who come with an invitation, from now on.

        Raises:
            ValueError: neither a peer id nor the name of an invitation.
            OSError: it is in effect, but could not be written down.
        """
        until = self._clock() + seconds
        if _is_name(who):
            self._revoked[who] = until
            going = [peer for peer, names in self._came.items() if who in names]
        else:
            going = [_peer(who)]
            self.conduct.ban(going[0], self._now() + seconds, "banned by the operator")
        for peer in going:
            self._expel(peer, "banned by the operator")
        self._record("ban", who=who, seconds=None if isinf(seconds) else seconds)
        self._write(BANS, self._banned())

    def lift(self, who: str) -> bool:
        """Let somebody in again; False if nobody of that name was kept out. Raises as `ban`."""
        known = (
            self._revoked.pop(who, None) is not None
            if _is_name(who)
            else self.conduct.lift(_peer(who))
        )
        if known:
            self._record("unban", who=who)
            self._write(BANS, self._banned())
        return known

    def bans(self) -> list[dict[str, object]]:
        """Who is kept out, for how many more seconds (None: for good), and why."""
        now, clock = self._now(), self._clock()
        peers = [
            (str(peer), ban.until - now, ban.reason) for peer, ban in self.conduct.bans.items()
        ]
        names = [(name, until - clock, "revoked") for name, until in self._revoked.items()]
        return [
            {"who": who, "seconds": None if isinf(left) else round(left, 1), "reason": reason}
            for who, left, reason in peers + names
            if left > 0
        ]

    def scores(self) -> list[dict[str, object]]:
        """Whose faults count at present, and what he may do."""
        now = self._now()
        return [
            {"id": str(peer), "faults": faults, "standing": self.conduct.standing(peer, now).value}
            for peer, faults in self.conduct.faults(now).items()
        ]

    def note(self, event: object) -> None:
        """Write down what happened, as far as it belongs here."""
        match event:
            case PeerUp(peer):
                self._record("join", peer=str(peer.id), address=str(peer.address))
            case PeerGraylisted(peer, reason):
                self._record("graylist", peer=str(peer), reason=reason)
            case PeerBanned(peer, seconds, reason):
                self._record("banned", peer=str(peer), seconds=seconds, reason=reason)
                self._save(BANS, self._banned())
                self._expel(peer, reason)
            case LinkReset(peer, reason):
                self._record("reset", peer=str(peer.id), reason=reason)

    def on_failed(self, source: Address, why: str) -> None:
        """A handshake has failed."""
        self._record("handshake", address=source.host, reason=why)

    def _record(self, type_: str, **data: object) -> None:
        if self._audit is not None:
            self._audit.record(type_, **data)

    # files ----------------------------------------------------------------------------------------

    def _banned(self) -> dict[str, object]:
        # The swarm's clock begins anew with every start; the file has the world's.
        offset = self._clock() - self._now()
        peers = {
            str(peer): [_or_none(ban.until + offset), ban.reason, ban.times]
            for peer, ban in self.conduct.bans.items()
        }
        return {
            "peers": peers,
            "invitations": {name: _or_none(until) for name, until in self._revoked.items()},
        }

    def _read_bans(self, found: Any) -> tuple[dict[PeerId, Ban], dict[str, float]]:
        offset = self._clock() - self._now()
        peers = {
            PeerId.parse(peer): Ban(_or_inf(until) - offset, str(reason), int(times))
            for peer, (until, reason, times) in found["peers"].items()
        }
        return peers, {str(name): _or_inf(until) for name, until in found["invitations"].items()}

    def _load(self, name: str, read: Callable[[Any], Any], nothing: Any) -> Any:
        if self._state_dir is None:
            return nothing
        path = self._state_dir / name
        try:
            return read(json.loads(path.read_bytes()))
        except FileNotFoundError:
            return nothing
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            # Starting without it would let in whoever was kept out.
            raise ConfigError(
                f"{path} cannot be used: {error}; restore it, or move it away to lift all that it "
                "held"
            ) from None

    def _save(self, name: str, content: object) -> None:
        try:
            self._write(name, content)
        except OSError as error:
            log.error("cannot write %s: %s; it is in effect until the node stops", name, error)

    def _write(self, name: str, content: object) -> None:
        """All of it or nothing, whatever happens in between. Raises OSError."""
        if self._state_dir is None:
            return
        files.replace(self._state_dir / name, json.dumps(content).encode())


def _read_uses(found: Any) -> dict[str, tuple[int, list[str]]]:
    return {
        str(key): (int(expires), [str(peer) for peer in peers])
        for key, (expires, peers) in found.items()
    }


def _peer(text: str) -> PeerId:
    try:
        return PeerId.parse(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is neither a peer id (52 letters and digits; gossip status --json shows "
            "them) nor the name of an invitation (32 hex digits)"
        ) from None


def _is_name(text: str) -> bool:
    return len(text) == 2 * NONCE_SIZE and set(text) <= set("0123456789abcdef")


def _or_none(until: float) -> float | None:
    return None if isinf(until) else until


def _or_inf(until: float | None) -> float:
    return inf if until is None else float(until)
