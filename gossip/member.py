"""A training loop of one's own, with the network beside it; see `gossip.join`.

A background thread runs the network. `step` never waits for it: every `sync_every` steps it hands
a copy of the model over, and takes in what was merged into the copy before that, by adding the
difference. With nobody to exchange with, the model is never written to.

One buffer goes to and fro, so nothing is allocated at a sync: it carries the model's values to the
network and brings back the change that merging makes. Adding the change to the model leaves in it,
in the same pass, the values to be carried next.

What happens is told when all else of a step is done, so a callback that raises undoes nothing.

A network that breaks never stops the training: that is said once, in the log, and from then on
`step` does nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

import torch

from gossip.background import Background, Beside, SyncCompleted
from gossip.background import MemberEvent as MemberEvent
from gossip.background import NetworkEnded as NetworkEnded
from gossip.config import Config
from gossip.errors import NetworkLost
from gossip.training import Training

log = logging.getLogger("gossip")


OnEvent = Callable[[MemberEvent], object]


class Member:
    """A model on the network; made by `gossip.join`."""

    def __init__(
        self,
        training: Training,
        sync_every: int,
        config: Config,
        device: torch.device | str,
        on_event: OnEvent | None,
    ) -> None:
        self._training = training
        self._sync_every = sync_every
        self._on_event = on_event
        # Not the training thread's while a sync is on its way.
        self._buffer = torch.empty(training.layout.size, device=device)
        self._host = Beside(training.layout, training.flatten(self._buffer), config)
        self._network = Background(self._host, listens=on_event is not None)
        self._steps = 0
        self._samples = 0
        self._merging: Future[SyncCompleted] | None = None
        self._lost: NetworkLost | None = None  # then we are alone for good

    @property
    def id(self) -> str:
        """Our id on the network."""
        return str(self._host.me.id)

    @property
    def address(self) -> str:
        """Where others reach us; give it to them as one of `peers`."""
        return str(self._host.me.address)

    def status(self) -> dict[str, object]:
        """What `gossip status --json` prints; once the network broke, `lost` says why."""
        if self._lost is None:
            called = self._network.call(self._host.status)
            try:
                return self._network.result(called)
            except NetworkLost as lost:
                self._go_on_alone(lost)
        return nothing(self.id, self.address) | {"lost": str(self._lost)}

    def step(self, samples: int = 1) -> bool:
        """Say that the model has taken a step on so many samples; whether the model was changed.

        Calls `on_event` with what has happened since. Raises what that raises, and NotFinite, some
        steps late, if the model held NaN or infinity: your loop made that, and the network has not
        seen it. Nothing else: see above.
        """
        if samples < 0:
            raise ValueError(f"a step is on 0 samples or more, not {samples}")
        self._steps += 1
        self._samples += samples
        if self._host.asked:
            self._network.answer(self._training.state())
        changed = self._steps >= self._sync_every and self._due() and self._sync()
        self._tell()
        return changed

    def __enter__(self) -> Member:
        self._network.start()
        try:
            if self._host.restored:
                self._training.load(self._host.agent.handed_out)
                self._training.restore(self._host.local)
        except BaseException:
            self._network.stop()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        """Take in the last merges, say goodbye, save."""
        try:
            if exception[0] is None:
                self._wait()
                self._sync()
                self._wait()
                self._take_in()
                self._tell()
        finally:
            self._keep()
            self._network.stop()
            if self._network.cause is not None and self._lost is None:
                log.error("the network did not end well: %r", self._network.cause)

    def _wait(self) -> None:
        """Until `_ready`."""
        if self._merging is not None:
            self._network.wait(self._merging)

    def _due(self) -> bool:
        """Whether to sync, now that there have been steps enough."""
        return self._ready()

    def _ready(self) -> bool:
        """Whether `_take_in` has something to take."""
        return self._merging is None or self._network.ready(self._merging)

    def _sync(self) -> bool:
        """Take in and hand over; whether the model was changed."""
        self._steps = 0  # first: all ranks of a group count alike, whatever happens to one
        changed = self._take_in()
        if self._merging is None and self._lost is None:
            if not changed:
                self._training.flatten(self._buffer)
            self._merging = self._network.call(
                partial(self._host.merge, self._buffer, self._samples)
            )
            self._samples = 0
        return changed

    def _take_in(self) -> bool:
        """Add what was merged since the last sync; whether the buffer now holds the model."""
        if not self._brought():
            return False
        self._training.add(self._buffer)
        return True

    def _brought(self) -> bool:
        """Whether the buffer holds a change for us. Raises NotFinite."""
        if self._merging is None or not self._ready():
            return False
        merging, self._merging = self._merging, None
        try:
            done = self._network.result(merging)
        except NetworkLost as lost:
            self._go_on_alone(lost)
            return False
        self._network.events.append(done)
        return done.merged

    def _tell(self) -> None:
        events = self._network.events
        while events:
            event = events.popleft()
            if self._on_event is not None:
                self._on_event(event)

    def _keep(self) -> None:
        """Give the host what it saves when it leaves."""
        if self._host.config.state_dir is not None:
            self._host.local = self._training.state()

    def _go_on_alone(self, lost: NetworkLost) -> None:
        if self._lost is not None:
            return  # `status` may notice it while a sync is out
        self._lost = lost
        self._keep()
        self._network.end()
        log.error("%s; training goes on alone", lost)
        self._network.events.append(NetworkEnded(str(lost)))


class Off(Member):
    """No network at all: every verb is there and does nothing."""

    def __init__(self) -> None:
        self._samples = 0

    @property
    def id(self) -> str:
        """None, in words."""
        return "off"

    @property
    def address(self) -> str:
        """None, in words."""
        return "off"

    def status(self) -> dict[str, object]:
        """The same fields, about nobody."""
        return nothing(self.id, self.address) | {"samples": self._samples}

    def step(self, samples: int = 1) -> bool:
        """Does nothing."""
        if samples < 0:
            raise ValueError(f"a step is on 0 samples or more, not {samples}")
        self._samples += samples
        return False

    def __enter__(self) -> Member:
        return self

    def __exit__(self, *exception: object) -> None:
        pass


def nothing(me: str, address: str) -> dict[str, object]:
    """The status of who has no network: the fields that programs read most."""
    counters = ("samples", "exchanges", "bytes_sent", "bytes_received", "bytes_dense")
    return (
        {"id": me, "address": address, "network": None}
        | dict.fromkeys(counters, 0)
        | {"peers": [], "metrics": {}}
    )
