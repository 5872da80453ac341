"""One link between two agents: a shared reference, and exchanges that happen exactly once.

Both ends of a link hold one identical vector, the reference `r`. Exchange n is two halves:

    i -> j  HALF(n, q_i)    q_i = C(x_i - r)        C keeps the largest coordinates and quantises
    j -> i  HALF(n, q_j)    q_j = C(x_j - r)
    each, on holding both:  x_i += (q_j - q_i) / 2  the sum x_i + x_j never changes
                            r   += (q_i + q_j) / 2  the same arithmetic at both ends, bit for bit

A guard may let less than that into `x` (`gossip.merging`), never into `r`.

What C drops stays in `x - r` and is sent later (error feedback), so compression costs time, never
accuracy. The weight 1/2 needs no tuning at any sparsity. Sources: CHOCO-SGD (Koloskova, Stich,
Jaggi 2019) for compressing differences to a public copy; pairwise averaging as in randomized
gossip (Boyd et al. 2006); that one reference can serve both directions is our own, measured in
`benchmarks/consensus.py`.

**Exactly once.** Who starts exchange n keeps a timer and repeats its half, never another, until
the other half arrives. Who is asked answers at once, and thereby completes. Who has completed n
and is asked for it again repeats its kept half, as an answer; answers are not answered. Two halves
that cross are simply the exchange. So one end is ahead of the other by at most one exchange, and
only while an answer is on its way.

**Epochs.** Both ends draw a random number for a link; the pair is its epoch, and no number serves
in two epochs, so whatever a slow network delivers late names an epoch that is over. `Open` agrees
on a pair in two messages (a third where the first was lost); a stranger's message is answered by
`Challenge`, which changes nothing, so old copies of an `Open` cannot reset a healthy link. An
epoch begins with exchange 0, whose only half with content is a dense 8-bit snapshot of the older
model (more samples; on a tie the lower id): it sets `r` and leaves every `x` alone. What the body
of a half holds, and when buffers are in it, says `gossip.body`.

**Settlement.** When an epoch ends while one end is ahead, the sum would have moved by half an
exchange. Each `Open` therefore says how far its sender got in the last epoch, and the end that is
ahead takes its last exchange back. Only an end that has left the old epoch sends `Open`, so what
it says is final. A `Receipt` (what settling needs) is saved with the model and outlives the link.

**Rest.** An end whose budget allows nothing for some hours says so (`Rest`), and again to whatever
it is sent meanwhile. It takes in the answer to a half of its own, nothing else. The other end then
repeats nothing before these hours are over, or the first one speaks again. Neither forgets
anything, so both go on in the middle of an exchange. Whoever does not know this message goes on
repeating, ever more seldom.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from hashlib import sha256
from math import ceil, inf
from random import Random
from struct import pack

from torch import Tensor

from gossip.body import Bodies
from gossip.budget import Budget, Limits
from gossip.codec import CodecConfig, Patch
from gossip.density import Density, DensityConfig, Motion
from gossip.errors import CodecError, LayoutError
from gossip.largest import squared_distance
from gossip.merging import Guard
from gossip.messages import (
    DIGEST_SIZE,
    MOST_ATTEMPTS,
    MOST_REST,
    TABLE,
    Challenge,
    Describe,
    Half,
    Message,
    Open,
    Rest,
)
from gossip.spans import Span, unwatched
from gossip.timing import Timing, TimingConfig
from gossip.vector import Layout
from p2p import Peer, PeerId, UnknownMessage, WireError

SNAPSHOT = CodecConfig(density=1.0, bits=8)
LARGEST = 1e30  # of a received coordinate: far from overflow however many are added up


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeConfig:
    """How one link compresses and repeats."""

    codec: CodecConfig | None = None
    """What every difference is compressed to. None: chosen for each, see `density`."""

    density: DensityConfig = field(default_factory=DensityConfig)
    """How that is chosen."""

    digest_every: int = 16
    """Exchanges between two comparisons of the references. A divergence is a bug or a broken
    machine, so this bounds harm and costs 0.5 bytes an exchange. A guess."""

    timing: TimingConfig = field(default_factory=TimingConfig)
    """When a half is repeated."""


@dataclass(frozen=True, slots=True)
class ExchangeCompleted:
    """Both halves are here; the model and the reference have moved."""

    peer: Peer
    n: int
    sent: int  # bytes of our half, repetitions not counted
    received: int


@dataclass(frozen=True, slots=True)
class ExchangeUndone:
    """The peer never completed the last exchange of the last epoch, so the model moved back."""

    peer: Peer
    n: int


@dataclass(frozen=True, slots=True)
class LinkOpened:
    """Exchange 0 is done: both ends hold the same reference."""

    peer: Peer
    samples: int  # how many the peer's model had seen


@dataclass(frozen=True, slots=True)
class LinkReset:
    """The link begins anew from a snapshot."""

    peer: Peer
    reason: str


@dataclass(frozen=True, slots=True)
class ModelMismatched:
    """The peer's model has another layout than ours; nothing is exchanged with it."""

    peer: Peer
    difference: str


@dataclass(frozen=True, slots=True)
class PayloadRejected:
    """A peer's message made no sense and was dropped; nothing has changed."""

    peer: Peer
    reason: str


ExchangeEvent = (
    ExchangeCompleted | ExchangeUndone | LinkOpened | LinkReset | ModelMismatched | PayloadRejected
)


@dataclass(frozen=True, slots=True)
class Receipt:
    """How far a link got: what either end needs to settle it later."""

    epoch: tuple[int, int]  # the numbers of the lower and of the higher id
    n: int  # the last completed exchange
    mine: bytes = b""  # the two halves of it
    theirs: bytes = b""
    scale: float = 1.0  # the share of it that went into `x`; 0: none that can be taken back


@dataclass(slots=True)
class _Pending:
    """Our half of the next exchange, on its way."""

    half: Half
    body: bytes
    patch: Patch
    sent: list[float] = field(default_factory=list)  # when, by attempt


class Exchange:
    """One end of a link. Sans-IO, like a machine: payloads and `now` in, payloads and events out.

    Args:
        me: our id; the lower of the two ids takes the tie-breaks.
        x: (n,) the agent's public vector; changed in place when an exchange completes.
        layout: the model's layout; peers of another layout are refused.
        rng: draws epochs; must be unpredictable to strangers in a real network.
        receipt: of the last link with this peer, if there was one.
        motion: how far training moves `x`.
        budget: what halves may take.
        guard: says how much of an exchange goes into `x`; None: all.
        bodies: writes and reads what halves carry.
        span: is told what takes long: encode, decode, merge.
    """

    def __init__(
        self,
        me: PeerId,
        peer: Peer,
        x: Tensor,
        layout: Layout,
        config: ExchangeConfig,
        rng: Random,
        receipt: Receipt | None = None,
        *,
        motion: Motion | None = None,
        budget: Budget | None = None,
        guard: Guard | None = None,
        bodies: Bodies | None = None,
        span: Span = unwatched,
    ) -> None:
        self.peer = peer
        self.receipt = receipt
        self.reference: Tensor | None = None
        self._lower = me < peer.id
        self._x = x
        self._layout = layout
        self._config = config
        self._rng = rng
        self._span = span
        motion = motion or Motion()
        self._guard = guard or Guard("mean", motion)
        self._bodies = bodies or Bodies()
        self._mine = Open(0, 0, True, layout.hash, 0, ())  # replaced by `open`
        self._theirs: Open | None = None  # the peer's word on the number that it drew last
        self._origin: Tensor | None = None  # x when our number was drawn, if untrained
        self._agreed = False  # both ends know the epoch
        self._refused = False  # the peer's model has another layout
        self._away = False  # the peer rests, until `_due` or until it speaks
        self._settled: list[ExchangeEvent] = []  # to be told with the next events
        self._pending: _Pending | None = None
        self._kept: tuple[Half, bytes] | None = None  # our half of the last completed exchange
        self._outbox: deque[bytes] = deque()
        self._density = Density(config.density, motion)
        self._budget = budget or Budget(Limits())
        self._timing = Timing(config.timing)
        self._due = inf

    # commands ------------------------------------------------------------------------------------

    def open(self, samples: int, now: float) -> None:
        """Begin a new epoch, whatever there was before; `samples` is the age of `x`."""
        past = (*self.receipt.epoch, self.receipt.n) if self.receipt else ()
        source = self._rng.getrandbits(63) + 1  # never 0, which means "not known"
        self._origin = None if samples else self._x.clone()
        origin = None if self._origin is None else digest(self._origin)
        self._mine = Open(source, 0, True, self._layout.hash, samples, past, origin)
        self._theirs = None
        self._agreed = False
        self._pending = None
        self._kept = None
        self.reference = None
        self._ask(now)

    def rest(self, now: float) -> None:
        """Tell the peer that the budget begins or ends a rest."""
        if self._budget.rests(now):
            self._decline(now)
        else:
            self._say(Rest(0))
            self._due = now

    def start(self, now: float) -> bool:
        """Begin the next exchange; False if the link is not ready or one is under way."""
        if not self.ready:
            return False
        self._pending = self._compress(now)
        self._transmit(self._pending, now)
        return True

    @property
    def share(self) -> float:
        """Of the coordinates, that our halves keep at present."""
        return self._config.codec.density if self._config.codec else self._density.share

    @property
    def ready(self) -> bool:
        """Whether `start` would start."""
        return self.reference is not None and self._pending is None and not self._away

    @property
    def waiting(self) -> bool:
        """Whether a half of ours is on its way."""
        return self._pending is not None

    @property
    def overdue(self) -> bool:
        """Whether a half of ours has been repeated more than once (loss is an unlikely reason), or
        waits for a peer that rests."""
        return self._pending is not None and (self._away or len(self._pending.sent) > 2)

    @property
    def completed(self) -> int:
        """The last exchange completed in this epoch; -1 before the snapshot."""
        receipt = self.receipt
        return receipt.n if self._agreed and receipt and receipt.epoch == self._epoch else -1

    # the verbs -----------------------------------------------------------------------------------

    def receive(self, payload: memoryview, samples: int, now: float) -> list[ExchangeEvent]:
        """Take what the peer sent; `samples` is the age of `x`. Never raises on a peer's bytes."""
        try:
            message, body = TABLE.decode(payload)
            events = self._on_message(message, bytes(body), samples, now)
        except UnknownMessage:
            events = []  # what a newer version has to say besides is no fault
        except (WireError, CodecError, LayoutError) as error:
            events = [PayloadRejected(self.peer, str(error))]
        settled, self._settled = self._settled, []
        return settled + events

    def _on_message(
        self, message: Message, body: bytes, samples: int, now: float
    ) -> list[ExchangeEvent]:
        if isinstance(message, Rest):
            self._away = message.seconds > 0
            self._due = now + message.seconds
            return []
        if self._away:  # it is back
            self._away, self._due = False, now
        if self._budget.rests(now) and not self._answers(message):
            self._decline(now)
            return []
        match message:
            case Open():
                return self._on_open(message, samples, now)
            case Challenge():
                return self._on_challenge(message, samples, now)
            case Half():
                return self._on_half(message, body, samples, now)
            case Describe():
                return self._on_describe(body)

    def handle_timeout(self, now: float) -> list[ExchangeEvent]:
        """Repeat what was not answered."""
        if now < self._due:
            return []
        if self._budget.rests(now):
            self._due = self._budget.rest_ends
            return []
        self._away = False
        self._timing.back_off()
        if self._pending is not None:
            self._transmit(self._pending, now)
        elif not self._agreed and not self._refused:
            self._ask(now)
        else:
            self._due = inf
        return []

    def poll_transmit(self) -> bytes | None:
        """The next payload for the peer, or None."""
        return self._outbox.popleft() if self._outbox else None

    def next_timeout(self) -> float:
        """When `handle_timeout` wants to be called."""
        return self._due

    # agreeing on an epoch ------------------------------------------------------------------------

    @property
    def _epoch(self) -> tuple[int, int]:
        mine, theirs = self._mine.source, self._theirs.source if self._theirs else 0
        return (mine, theirs) if self._lower else (theirs, mine)

    @property
    def _tag(self) -> int | None:
        """How halves name the epoch; None while only one of its numbers is known."""
        if self._theirs is None:
            return None
        return int.from_bytes(sha256(pack(">QQ", *self._epoch)).digest()[:4])

    def _ask(self, now: float) -> None:
        """Say our Open and repeat it until the peer's arrives."""
        if self._budget.rests(now):
            self._decline(now)
            return
        self._tell(answer=True)
        self._due = now + self._timing.delay(0)

    def _tell(self, *, answer: bool) -> None:
        target = self._theirs.source if self._theirs else 0
        self._say(replace(self._mine, target=target, answer=answer))

    def _challenge(self, unknown: int) -> None:
        self._say(Challenge(self._mine.source, unknown))

    def _say(self, message: Message, body: bytes = b"") -> None:
        self._outbox.append(TABLE.encode(message, body))

    def _decline(self, now: float) -> None:
        """Say how long we rest; what is unfinished is repeated then."""
        self._due = self._budget.rest_ends
        self._say(Rest(min(ceil(self._due - now), MOST_REST)))

    def _on_open(self, message: Open, samples: int, now: float) -> list[ExchangeEvent]:
        if message.layout != self._layout.hash:
            if self._agreed:
                return [PayloadRejected(self.peer, "another layout in the middle of a link")]
            self._refused = True
            self._due = inf
            self._say(Describe(), self._layout.encode())
            return []
        self._refused = False
        known = message.target == self._mine.source
        if not self._agreed:
            self._theirs = message
            if known:
                self._agree(now, answer=message.answer)
            else:
                self._ask(now)
            return []
        assert self._theirs is not None
        if message.source == self._theirs.source:
            if message.answer:
                self._tell(answer=False)
            return []
        if not known:
            self._challenge(message.source)
            return []
        # the peer has a new number and knows ours: it has really begun anew
        self.open(samples, now)
        self._theirs = message
        self._outbox.clear()
        self._ask(now)
        return [LinkReset(self.peer, "the peer began anew")]

    def _on_challenge(self, message: Challenge, samples: int, now: float) -> list[ExchangeEvent]:
        if message.target not in (self._mine.source, self._tag):
            return []
        if not self._agreed:
            self._say(replace(self._mine, target=message.source))
            return []
        if self._theirs is not None and message.source == self._theirs.source:
            return []
        self.open(samples, now)
        self._outbox.clear()
        self._say(replace(self._mine, target=message.source))
        return [LinkReset(self.peer, "the peer is in another epoch")]

    def _agree(self, now: float, *, answer: bool) -> None:
        """Both numbers are known: settle the last epoch and begin this one with exchange 0."""
        assert self._theirs is not None
        self._settle(self._theirs.past)
        self._agreed = True
        self._due = inf
        if answer:
            self._tell(answer=False)
        if self._snapshot_is_ours(self._theirs):
            if self._alike and self._origin is not None:
                body, patch = b"", Patch(self._layout.size, None, self._origin)
            else:
                with self._span("encode"):
                    body, patch = self._bodies.write(self._layout, 0, self._x, None, SNAPSHOT)
            self._pending = self._wrap(0, None, body, patch)
            self._transmit(self._pending, now)

    @property
    def _alike(self) -> bool:
        """Whether both ends have begun this epoch with the same untrained model."""
        mine, theirs = self._mine.origin, self._theirs.origin if self._theirs else None
        return mine is not None and mine == theirs

    def _snapshot_is_ours(self, theirs: Open) -> bool:
        mine = self._mine.samples
        return self._lower if mine == theirs.samples else mine > theirs.samples

    def _settle(self, past: tuple[int, ...]) -> None:
        """Take the last exchange of the last epoch back if the peer did not complete it."""
        receipt = self.receipt
        if receipt is None or past != (*receipt.epoch, receipt.n - 1):
            return
        if not (receipt.mine and receipt.theirs):
            return  # the snapshot, or taken back already: the peer lost more than one exchange
        mine, theirs = (
            self._bodies.read(self._layout, receipt.n, half)
            for half in (receipt.mine, receipt.theirs)
        )
        theirs.add_to(self._x, -0.5 * receipt.scale)
        mine.add_to(self._x, 0.5 * receipt.scale)
        self.receipt = Receipt(receipt.epoch, receipt.n - 1)
        if receipt.scale:  # else nothing of it is in the model
            self._settled.append(ExchangeUndone(self.peer, receipt.n))

    def _on_describe(self, body: bytes) -> list[ExchangeEvent]:
        theirs = Layout.decode(body)
        if self._agreed or theirs.hash == self._layout.hash:
            return []
        self._refused = True
        self._due = inf
        return [ModelMismatched(self.peer, self._layout.difference(theirs))]

    # halves --------------------------------------------------------------------------------------

    def _answers(self, message: Message) -> bool:
        """Whether this completes an exchange without a word of ours."""
        if self._pending is None or not isinstance(message, Half):
            return False
        pending = self._pending.half
        return message.answer and (message.epoch, message.n) == (pending.epoch, pending.n)

    def _on_half(self, half: Half, body: bytes, samples: int, now: float) -> list[ExchangeEvent]:
        if half.epoch != self._tag:
            self._challenge(half.epoch)
            return []
        if not self._agreed:
            self._agree(now, answer=False)
        completed = self.completed
        if half.n == completed:
            if self._kept is not None and not half.answer:
                self._answer(*self._kept, half.attempt)
            return []
        if half.n != completed + 1:
            return []  # a late copy: the exchange is long over
        if half.n == 0:
            return self._complete_snapshot(half, body, now)
        assert self.reference is not None
        if half.digest is not None and half.digest != digest(self.reference):
            self.open(samples, now)
            return [LinkReset(self.peer, f"the references differ at exchange {half.n}")]
        return self._complete(half, body, now)

    def _complete_snapshot(self, half: Half, body: bytes, now: float) -> list[ExchangeEvent]:
        assert self._theirs is not None
        if self._pending is not None:
            self.reference = self._pending.patch.dense().to(self._x)
            self._measure(self._pending, half, now)
        elif self._snapshot_is_ours(self._theirs):
            return []
        else:
            found = self._origin if self._alike else self._decode(0, body).dense()
            assert found is not None
            self.reference = found.to(self._x)
            self._kept = Half(half.epoch, 0, False, None), b""
            self._answer(*self._kept, half.attempt)
        self._origin = None
        self._finish(Receipt(self._epoch, 0))
        return [LinkOpened(self.peer, self._theirs.samples)]

    def _complete(self, half: Half, body: bytes, now: float) -> list[ExchangeEvent]:
        assert self.reference is not None
        theirs = self._decode(half.n, body)
        mine = self._pending
        if mine is None:
            mine = self._compress(now)
            self._answer(mine.half, mine.body, half.attempt)
        else:
            self._measure(mine, half, now)
        with self._span("merge"):
            scale = self._guard.merge(self.peer.id, mine.patch, theirs, self._x)
            # Multiplying by 1/2 is exact, so a fused multiply-add rounds as two steps do; and both
            # ends add the lower id's half first. Hence one reference, to the bit.
            first, second = (mine.patch, theirs) if self._lower else (theirs, mine.patch)
            first.add_to(self.reference, 0.5)
            second.add_to(self.reference, 0.5)
        self._kept = mine.half, mine.body
        self._finish(Receipt(self._epoch, half.n, mine.body, body, scale))
        return [ExchangeCompleted(self.peer, half.n, len(mine.body), len(body))]

    def _finish(self, receipt: Receipt) -> None:
        self.receipt = receipt
        self._pending = None
        self._due = inf

    def _compress(self, now: float) -> _Pending:
        assert self.reference is not None
        n = self.completed + 1
        compared = n == 1 or n % self._config.digest_every == 0
        seen = digest(self.reference) if compared else None
        with self._span("encode"):
            codec = self._config.codec or self._chosen(now)
            body, patch = self._bodies.write(self._layout, n, self._x, self.reference, codec)
        self._density.sent(patch.values.numel(), len(body))
        return self._wrap(n, seen, body, patch)

    def _chosen(self, now: float) -> CodecConfig:
        assert self.reference is not None
        cut = self._layout.parameters
        squared = squared_distance(self._x[:cut], self.reference[:cut])
        return self._density.choose(squared, cut, self._budget.half(now))

    def _wrap(self, n: int, digest: bytes | None, body: bytes, patch: Patch) -> _Pending:
        assert self._tag is not None
        return _Pending(Half(self._tag, n, False, digest), body, patch)

    def _answer(self, half: Half, body: bytes, attempt: int) -> None:
        """Say our half to somebody who waits for it, and does not answer again."""
        self._say(replace(half, answer=True, attempt=attempt), body)

    def _decode(self, n: int, body: bytes) -> Patch:
        with self._span("decode"):
            patch = self._bodies.read(self._layout, n, body)
        if patch.values.numel() and max(map(abs, map(float, patch.values.aminmax()))) > LARGEST:
            raise CodecError(f"a difference above {LARGEST:g} is no model's")
        return patch

    def _transmit(self, pending: _Pending, now: float) -> None:
        attempt = min(len(pending.sent), MOST_ATTEMPTS)
        pending.sent[attempt:] = [now]
        self._say(replace(pending.half, attempt=attempt), pending.body)
        self._due = now + self._timing.delay(len(pending.body))

    def _measure(self, pending: _Pending, theirs: Half, now: float) -> None:
        """Learn from an answer; a half that crossed ours was sent whenever its sender liked."""
        if theirs.answer and theirs.attempt < len(pending.sent):
            self._timing.measure(now - pending.sent[theirs.attempt])


def digest(vector: Tensor) -> bytes:
    """(8,) what tells two vectors apart."""
    return sha256(vector.cpu().numpy().data).digest()[:DIGEST_SIZE]
