"""Symmetric links: a few peers that both count each other as neighbours.

    asks                                     is asked
    REQUESTED --- Request(token) ---------->
              <-- Accept(token, echo) ------ ACCEPTED     room was made; not a neighbour yet
    UP        --- Ping -------------------->  UP          anything that comes back confirms

Whoever asks repeats the request until an answer comes; an answer that is lost is given again. Two
requests that cross are one link. A link goes down when the other end says so, does not know it, is
silent for too long, or asks again, which means that it has lost it or was started anew. After
that its token is gone, so nothing that arrives late can bring it back. The two-way confirmation is
what the published HyParView lacks and iroh-gossip added: without it one-sided links stay.

Who has no room for a peer that lacks two links or more puts it in the middle of one of its own:
A - B becomes A - C - B. So nobody loses a link, the network stays connected, and nearly everybody
comes to have exactly as many as he may. (HyParView evicts a random neighbour, which must then
evict another one. The operation is that of Cooper, Dyer, Greenhill, "Sampling regular graphs and a
peer-to-peer network", 2007, which proves that it leads to random regular graphs.) A peer can have
this done once a minute, whatever it says it lacks. A peer of full view that swaps a link names in
its request the neighbour X that will make way: A - X and C - Y become A - C and X - Y, the old
links ending only when the new one is up, so again nobody ends with fewer.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from p2p.diversity import Splits, crowded, spare
from p2p.link import (
    Link,
    LinkConfig,
    LinkDown,
    LinkEvent,
    LinkUp,
    RequestFailed,
    RequestRefused,
    State,
)
from p2p.liveness import Liveness, Say
from p2p.messages import (
    MOST,
    SHARED_PEERS,
    VERSION,
    Accept,
    Disconnect,
    Refuse,
    Request,
    Unknown,
)
from p2p.packet import Source
from p2p.peer import Address, Peer, PeerId
from p2p.timers import Timers

REQUESTED = State.REQUESTED


class Links:
    """All links of one peer. Messages in, events out; what is said goes to `say`.

    Args:
        liveness: watches the links that are up.
        known: peers to suggest where there is no room.
    """

    def __init__(
        self,
        me: Peer,
        config: LinkConfig,
        rng: Random,
        incarnation: int,
        say: Say,
        liveness: Liveness,
        known: Callable[[int], tuple[Peer, ...]],
    ) -> None:
        self.up: dict[PeerId, Link] = {}
        self._me = me
        self._config = config
        self._rng = rng
        self._incarnation = incarnation
        self._say = say
        self._liveness = liveness
        self._known = known
        self._all: dict[int, Link] = {}  # by our token
        self._number = 0
        self._splits = Splits(config.split_every, config.splits)
        self._timers: Timers[int] = Timers()  # by our token

    # commands ------------------------------------------------------------------------------------

    @property
    def room(self) -> int:
        """How many more links there may be. Who did not answer a first request at once is not
        waited for: after a disaster most of those that we know are dead."""
        hopeful = (
            link for link in self._all.values() if link.attempts <= 1 or link.state is not REQUESTED
        )
        return self._config.most - sum(1 for _ in hopeful)

    @property
    def full(self) -> bool:
        """Whether as many links are up as there may be."""
        return len(self.up) >= self._config.most

    @property
    def lacks_ours(self) -> bool:
        """Whether too few of the links that are up are with peers that we chose."""
        return sum(link.ours for link in self.up.values()) < self._kept

    @property
    def _made(self) -> int:
        """Links in which both ends believe, or are about to."""
        return sum(1 for link in self._all.values() if link.state is not REQUESTED)

    def knows(self, address: Address) -> bool:
        """Whether there is a link with that address already, or being made."""
        return any(link.address == address for link in self._all.values())

    def crowded(self, address: Address) -> bool:
        """Whether the network of that address has its share of our links."""
        config = self._config
        return not config.lan and crowded(address, self._all.values(), config.most_in_network)

    def request(
        self,
        target: Peer | Address,
        now: float,
        *,
        joining: bool = False,
        extra: bool = False,
        ours: bool = True,
    ) -> None:
        """Ask for a link, unless there is one or one is being made, or too many are near there.

        With `extra`, it takes the place of another at both ends if there is no room for it. `ours`:
        somebody else's choice if False.
        """
        peer = target if isinstance(target, Peer) else None
        address = target.address if isinstance(target, Peer) else target
        if address == self._me.address or self.knows(address):
            return
        if peer and (peer.id == self._me.id or self._find(peer.id) or self.crowded(address)):
            return
        loser = self._loser() if extra and self.room <= 0 else None
        link = self._add(Link(address, peer, REQUESTED, 0, joining=joining, extra=extra, ours=ours))
        link.gives_way = loser.peer.id if loser and loser.peer else None
        self._ask(link, now)

    def drop(self, link: Link, *, leaving: bool = False, instead: Peer | None = None) -> None:
        """End a link whose other end believes in it, and say so."""
        self._say(link.to, Disconnect(link.theirs, leaving, instead))
        self._remove(link)

    def on_link(
        self, token: int, sender: PeerId | None, now: float
    ) -> tuple[Link | None, list[LinkEvent]]:
        """The link on which a message with our `token` arrived; that confirms it."""
        link = self._all.get(token)
        if link is None or link.state is REQUESTED:
            return None, []
        assert link.peer is not None
        if sender not in (None, link.peer.id):
            return None, []
        events = self._confirm(link, now)
        return (link if link.state is State.UP and link.mine in self._all else None), events

    # timers --------------------------------------------------------------------------------------

    def next_timeout(self) -> float:
        """When `handle_timeout` wants to be called."""
        return self._timers.next()

    def handle_timeout(self, now: float) -> list[LinkEvent]:
        """Repeat requests, give up on those who do not answer."""
        events: list[LinkEvent] = []
        for token in self._timers.pop_expired(now):
            link = self._all[token]
            if link.state is State.ACCEPTED:
                self._remove(link)
            elif link.attempts < self._config.request_attempts:
                self._ask(link, now)
            else:
                self._remove(link)
                events.append(RequestFailed(link.address, link.peer))
        return events

    def bury(self, link: Link, now: float) -> list[LinkEvent]:
        """The other end is dead."""
        silence = now - link.watch.heard
        return self._fail(link, f"silent for {silence:.1f} s", reachable=True)

    # making a link -------------------------------------------------------------------------------

    def _ask(self, link: Link, now: float) -> None:
        target = link.peer.id if link.peer else None
        loser = self.up.get(link.gives_way) if link.gives_way else None
        self._number += 1
        request = Request(
            VERSION,
            self._me,
            target,
            self._incarnation,
            self._number,
            link.mine,
            2 if link.extra else min(max(self.room + 1, 1), MOST),
            link.joining,
            loser.peer if loser else None,
            link.ours,
        )
        self._say(link.to, request)
        self._timers.set(link.mine, now + self._config.request_timeout * 2**link.attempts)
        link.attempts += 1

    def on_request(self, request: Request, now: float) -> list[LinkEvent]:
        """A peer asks."""
        if request.sender.id == self._me.id:
            return self._on_own_request(request)
        if request.target not in (None, self._me.id):
            return []  # meant for who lived here before
        link = self._find(request.sender.id) or self._seed_at(request.sender.address)
        if link is None:
            return self._consider(request, now)
        order = (request.incarnation, request.number)
        if order <= link.asked:
            return []  # a late copy
        if link.theirs == request.token:
            return self._accept(link, request, now)  # it is repeated
        if link.state is REQUESTED:  # the two requests cross
            if self._made < self._config.most:
                return self._accept(link, request, now)
            self._remove(link)
            return self._consider(request, now)
        if link.state is State.UP and request.target is None and order[0] == link.asked[0]:
            self._say(link.to, Refuse(request.token, ()))  # asks a seed that it has already
            return []
        again = "was started anew" if order[0] != link.asked[0] else "lost the link"
        events = self._fail(link, again, reachable=True) if link.state is State.UP else []
        if link.state is not State.UP:
            self._remove(link)
        return events + self._consider(request, now)

    def _on_own_request(self, request: Request) -> list[LinkEvent]:
        link = self._all.get(request.token)
        if link is None or request.incarnation != self._incarnation:
            return []
        self._remove(link)
        return [RequestRefused(link.address, (), self._me.id)]

    def _consider(self, request: Request, now: float) -> list[LinkEvent]:
        """Accept if there is room, or if room has to be made."""
        split = False
        if self.crowded(request.sender.address):
            self._say(request.sender, Refuse(request.token, self._known(SHARED_PEERS)))
            return []
        if self.room <= 0:
            waiting = [link for link in self._all.values() if link.state is REQUESTED]
            if waiting and self._made < self._config.most:
                self._remove(waiting[0])  # this one has asked us; that one may never answer
            elif (
                request.missing > 1
                and self._loser(request.instead or request.sender)
                and self._splits.take(request.sender.id, now)
            ):
                split = True
            else:
                self._say(request.sender, Refuse(request.token, self._known(SHARED_PEERS)))
                return []
        link = Link(request.sender.address, request.sender, REQUESTED, 0)
        if split:
            link.extra, link.instead = True, request.instead or request.sender
        return self._accept(self._add(link), request, now)

    def _accept(self, link: Link, request: Request, now: float) -> list[LinkEvent]:
        link.peer, link.address = request.sender, request.sender.address
        link.theirs, link.wanted = request.token, request.chosen
        link.asked = (request.incarnation, request.number)
        link.joining = request.joining
        if link.state is REQUESTED:
            link.state = State.ACCEPTED
            self._timers.set(link.mine, now + self._patience)
        accept = Accept(self._me, self._incarnation, self._number, link.mine, link.theirs)
        self._say(link.to, accept)
        return []

    @property
    def _patience(self) -> float:
        """Seconds for which a repeated request may still come."""
        return self._config.request_timeout * float(2**self._config.request_attempts)

    def on_accept(self, accept: Accept, now: float) -> list[LinkEvent]:
        """A peer says yes."""
        link = self._all.get(accept.echo)
        if link is None:
            self._say(accept.sender, Disconnect(accept.token, False, None))
            return []
        if link.state is State.UP:
            return []
        if link.peer is not None and link.peer.id != accept.sender.id:
            self._remove(link)
            return [RequestFailed(link.address, link.peer)]
        events: list[LinkEvent] = []
        other = self._find(accept.sender.id)
        if other is not None and other is not link:
            # A seed turned out to be somebody we know; it knows only the link of this answer.
            if other.state is State.UP:
                events += self._fail(other, "asked under another address", reachable=True)
            else:
                self._remove(other)
        link.peer, link.address = accept.sender, accept.sender.address
        link.theirs = accept.token
        full = link.state is REQUESTED and self._made >= self._config.most
        if full and not (link.extra and self.up):
            self.drop(link)  # others were quicker
            return events
        link.asked = (accept.incarnation, accept.number)
        link.state, link.joining = State.ACCEPTED, False
        return events + self._confirm(link, now)

    def on_refuse(self, refuse: Refuse, source: Source) -> list[LinkEvent]:
        """A peer has no room."""
        link = self._all.get(refuse.echo)
        if link is None or link.state is not REQUESTED:
            return []
        self._remove(link)
        return [RequestRefused(link.address, refuse.peers, source)]

    def _confirm(self, link: Link, now: float) -> list[LinkEvent]:
        if link.state is State.UP:
            return []
        assert link.peer is not None
        events: list[LinkEvent] = []
        if self.full:
            loser = self.up.get(link.gives_way) if link.gives_way else None
            loser = loser or self._loser(link.instead)
            if loser is None:
                self.drop(link)  # what could have made way is gone
                return []
            assert loser.peer is not None
            self.drop(loser, instead=link.instead)
            events.append(LinkDown(loser.peer, "gave way to another", reachable=True))
        link.state = State.UP
        self._timers.cancel(link.mine)
        self.up[link.peer.id] = link
        self._liveness.watch(link, now)
        return [*events, LinkUp(link, link.joining)]

    @property
    def _kept(self) -> int:
        return min(self._config.ours, self._config.most - 1)

    def _loser(self, instead: Peer | None = None) -> Link | None:
        """Who makes way for a peer of ours, or so that its other end takes `instead`: a random one.
        Who takes nobody instead had better not be one that chose us."""
        losers = [link for link in spare(self.up.values(), self._kept) if link.peer != instead]
        if instead is None:
            losers = [link for link in losers if not link.wanted] or losers
        return self._rng.choice(losers) if losers else None

    # a link that is up ---------------------------------------------------------------------------

    def on_disconnect(self, message: Disconnect) -> list[LinkEvent]:
        """The other end has ended the link."""
        link = self._all.get(message.token)
        if link is None or link.state is REQUESTED:
            return []
        if link.state is State.ACCEPTED:
            self._remove(link)
            return []
        reason = "left" if message.leaving else "ended the link"
        return self._fail(link, reason, reachable=not message.leaving, instead=message.instead)

    def on_unknown(self, message: Unknown, address: Address) -> list[LinkEvent]:
        """The other end says that it has no such link."""
        for link in self.up.values():
            if link.theirs == message.token and link.address == address:
                return self._fail(link, "does not know the link", reachable=True)
        return []

    def _fail(
        self, link: Link, reason: str, *, reachable: bool, instead: Peer | None = None
    ) -> list[LinkEvent]:
        assert link.peer is not None
        self._remove(link)
        return [LinkDown(link.peer, reason, reachable, instead, link.ours)]

    # the table -----------------------------------------------------------------------------------

    def _find(self, peer: PeerId) -> Link | None:
        for link in self._all.values():
            if link.peer is not None and link.peer.id == peer:
                return link
        return None

    def _seed_at(self, address: Address) -> Link | None:
        for link in self._all.values():
            if link.peer is None and link.address == address:
                return link
        return None

    def _add(self, link: Link) -> Link:
        while link.mine == 0 or link.mine in self._all:
            link.mine = self._rng.getrandbits(32)
        self._all[link.mine] = link
        return link

    def _remove(self, link: Link) -> None:
        del self._all[link.mine]
        self._timers.cancel(link.mine)
        self._liveness.forget(link)
        if link.peer is not None and self.up.get(link.peer.id) is link:
            del self.up[link.peer.id]
