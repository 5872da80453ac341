"""What two peers say to each other to be neighbours, and how it is read off the wire.

A link has a number at each end, its *token*, drawn by that end when the link is asked for or
accepted. What travels on the link carries the receiver's token and nothing else about its sender,
so it is short, and what an earlier link left behind in the network names a token that is gone.
"""

from __future__ import annotations

from dataclasses import dataclass

from p2p.peer import Peer, PeerId
from p2p.record import PREFIX
from p2p.wire import (
    MAX_HEADER,
    Table,
    binary,
    boolean,
    integer,
    optional,
    pair,
    peer,
    peer_id,
    row,
    sequence,
)

SHARED_PEERS = 8  # in one message; HyParView's shuffle sends 1 + 3 + 4
DIGESTED = 48  # records named in one message; as many as a header holds
SENT = 8  # records in one message; the size of a header allows three or four
MOST = 15  # links that a peer may lack, steps of a walk

VERSION = 1
WORD = integer(0, 2**16 - 1)
TOKEN = integer(0, 2**32 - 1)
COUNT = integer(0, 2**63 - 1)
SMALL = integer(0, MOST)
PEERS = sequence(peer, SHARED_PEERS)
RECORD = binary(PREFIX, exact=True)


@dataclass(frozen=True, slots=True)
class Request:
    """Let us be neighbours."""

    version: int  # of this protocol
    sender: Peer
    target: PeerId | None  # whom the sender means; None: whoever listens there, a seed
    incarnation: int  # of the sender's process; rises with every start
    number: int  # rises with every request of this incarnation: old copies show
    token: int
    missing: int  # links that the sender lacks, this one included
    joining: bool  # the sender is new: pass its name on
    instead: Peer | None = None  # whom a link that makes way for this one shall go to, if not to us
    chosen: bool = False  # the sender took the receiver from its own view, nobody sent it


@dataclass(frozen=True, slots=True)
class Accept:
    """Yes. The link is up for its sender once anything comes back on it."""

    sender: Peer
    incarnation: int  # as in a request, and the number of the sender's last one
    number: int
    token: int
    echo: int  # the token in the request


@dataclass(frozen=True, slots=True)
class Refuse:
    """No, there is no room here; try these."""

    echo: int
    peers: tuple[Peer, ...]


@dataclass(frozen=True, slots=True)
class Ping:
    """Are you there?"""

    token: int
    number: int
    suspected: bool  # the receiver is believed to be gone; time to protest


@dataclass(frozen=True, slots=True)
class Pong:
    """Yes, I am."""

    token: int
    number: int  # of the ping


@dataclass(frozen=True, slots=True)
class Payload:
    """Bytes for the layer above; they are the body."""

    token: int


@dataclass(frozen=True, slots=True)
class Disconnect:
    """This link is over."""

    token: int
    leaving: bool  # the sender leaves the network: forget its address
    instead: Peer | None  # the link gave way to this peer, which wants the receiver as well


@dataclass(frozen=True, slots=True)
class Unknown:
    """There is no link with this token here (any more)."""

    token: int


@dataclass(frozen=True, slots=True)
class Walk:
    """Somebody joined: who ends this random walk becomes a neighbour (HyParView's ForwardJoin)."""

    token: int
    joined: Peer
    ttl: int


@dataclass(frozen=True, slots=True)
class Shuffle:
    """Whoever ends this random walk swaps some of the peers it knows with the origin."""

    token: int
    origin: Peer
    number: int  # drawn by the origin, to recognise the answer
    ttl: int
    peers: tuple[Peer, ...]


@dataclass(frozen=True, slots=True)
class Shuffled:
    """The other half of the swap."""

    number: int
    peers: tuple[Peer, ...]


@dataclass(frozen=True, slots=True)
class PingRequest:
    """I cannot reach this peer; can you?"""

    token: int
    number: int  # of the sender's ping
    target: Peer


@dataclass(frozen=True, slots=True)
class Vouch:
    """I have tried to reach that peer for you."""

    token: int
    number: int  # in the request
    alive: bool


@dataclass(frozen=True, slots=True)
class Check:
    """Are you there? Somebody else wants to know, so there is no link."""

    number: int
    target: PeerId
    sender: Peer | None = None  # whom to answer; the port that a stream comes from is TCP's own


@dataclass(frozen=True, slots=True)
class Checked:
    """Yes, I am."""

    number: int  # of the check


@dataclass(frozen=True, slots=True)
class Digest:
    """These are the records that are new here; which of them do you lack?"""

    token: int
    place: int  # of the last of them, among all that the sender has learned
    records: tuple[tuple[bytes, int], ...]  # whose, and which sequence number


@dataclass(frozen=True, slots=True)
class Wanted:
    """I lack these. If none: I have all records up to that place."""

    token: int
    place: int  # in the digest
    records: tuple[bytes, ...]  # whose


@dataclass(frozen=True, slots=True)
class Records:
    """What peers say about themselves; see `p2p.record`."""

    token: int
    records: tuple[tuple[int, bytes], ...]  # tenths of a second since it was published, and it


Message = (
    Request
    | Accept
    | Refuse
    | Ping
    | Pong
    | Payload
    | Disconnect
    | Unknown
    | Walk
    | Shuffle
    | Shuffled
    | PingRequest
    | Vouch
    | Check
    | Checked
    | Digest
    | Wanted
    | Records
)

OPENING = (WORD, peer, optional(peer_id), COUNT, COUNT, TOKEN, SMALL, boolean)  # of a request

TABLE: Table[Message] = Table(
    row(1, Request, *OPENING, optional(peer), boolean),
    row(2, Accept, peer, COUNT, COUNT, TOKEN, TOKEN),
    row(3, Refuse, TOKEN, PEERS),
    row(4, Ping, TOKEN, TOKEN, boolean),
    row(5, Pong, TOKEN, TOKEN),
    row(6, Payload, TOKEN, body=True),
    row(7, Disconnect, TOKEN, boolean, optional(peer)),
    row(8, Unknown, TOKEN),
    row(9, Walk, TOKEN, peer, SMALL),
    row(10, Shuffle, TOKEN, peer, COUNT, SMALL, PEERS),
    row(11, Shuffled, COUNT, PEERS),
    row(12, PingRequest, TOKEN, TOKEN, peer),
    row(13, Vouch, TOKEN, TOKEN, boolean),
    row(14, Check, TOKEN, peer_id, optional(peer)),
    row(15, Checked, TOKEN),
    row(16, Digest, TOKEN, COUNT, sequence(pair(RECORD, COUNT), DIGESTED)),
    row(17, Wanted, TOKEN, COUNT, sequence(RECORD, DIGESTED)),
    row(18, Records, TOKEN, sequence(pair(WORD, binary(MAX_HEADER)), SENT)),
)
