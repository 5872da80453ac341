"""I/O: one agent on real sockets and a real clock.

Everything that touches the agent happens on one event loop, and no verb awaits: a packet, a
deadline or progress goes in, packets and events come out, one timer is armed anew. Who trains, and
in which thread, is the business of `Node` and of `join`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack
from math import isfinite, isinf
from random import SystemRandom

import torch
from torch import Tensor

from gossip import checkpoint
from gossip.addresses import advertised, own, own_loopback, resolve
from gossip.agent import Agent, AgentEvent
from gossip.api import Api
from gossip.config import Config
from gossip.errors import CheckpointError, ConfigError
from gossip.exchange import Receipt
from gossip.vector import Layout
from p2p import Address, Packet, Peer, PeerId, Swarm, network_key
from p2p.certificates import Credentials
from p2p.endpoint import Endpoint
from p2p.identity import Identity, load_or_create, lock

log = logging.getLogger("gossip")

EVENTS = 256  # that a reader may lag behind before it misses the oldest. A guess.
RESOLVE_AGAIN = 10.0  # seconds; a name that does not resolve now may do so later. A guess.
CHECKPOINT = "checkpoint.safetensors"


class Host:
    """An agent that is reachable. Use as `async with`; leaving says goodbye and saves.

    Args:
        layout: of the model.
        parameters: (n,) the model to start from, unless the state directory holds a later one.

    Raises on entering:
        ConfigError: an address that cannot be used, or not without a network key.
        CheckpointError: a checkpoint of another model, or none that can be read.
        P2PError: a port in use, a state directory in use, a broken identity or network key.
    """

    def __init__(self, layout: Layout, parameters: Tensor, config: Config) -> None:
        self.config = config
        self.metrics: dict[str, float] = {}
        self.network: str | None = None  # the id of the network, if it has a key
        self.restored = False  # the model came from a checkpoint
        self._parameters: Tensor | None = parameters  # until the agent has its copy
        self._layout = layout
        self._readers: list[asyncio.Queue[AgentEvent]] = []
        self._alarm: asyncio.TimerHandle | None = None
        self._started = time.monotonic()
        self._saving = asyncio.Lock()
        self._left = False
        self._stack = AsyncExitStack()

    # life -----------------------------------------------------------------------------------------

    async def __aenter__(self) -> Host:
        async with AsyncExitStack() as stack:
            identity = self._identity(stack)
            credentials = self._credentials(identity)
            listen = await self._listen()
            self.endpoint = Endpoint(self._on_packet, credentials=credentials)
            listen = await self.endpoint.open(listen)
            stack.push_async_callback(self.endpoint.close)
            self.me = Peer(identity.id, await self._advertised(listen))
            self.agent = self._agent(identity)
            local = await own_loopback(self.config.api, "the local API is for this machine only")
            api = Api(local, self.config.state_dir, self.status)
            await stack.enter_async_context(api)
            self.api_address = api.address
            # Undone in this order, backwards: seeds that resolve late must not be asked after we
            # left, and a checkpoint that is being written is waited for.
            stack.push_async_callback(_cancel, asyncio.create_task(self._save_often()))
            stack.push_async_callback(self.leave)
            stack.push_async_callback(_cancel, asyncio.create_task(self._join()))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._stack.aclose()

    def _identity(self, stack: AsyncExitStack) -> Identity:
        if self.config.state_dir is None:
            return Identity.generate()
        try:
            self.config.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise ConfigError(
                f"cannot make {self.config.state_dir}: {error.strerror}; give another --state-dir"
            ) from None
        stack.enter_context(lock(self.config.state_dir))
        return load_or_create(self.config.state_dir / "identity.key")

    def _agent(self, identity: Identity) -> Agent:
        parameters, self._parameters = self._parameters, None
        assert parameters is not None
        samples = 0
        receipts: dict[PeerId, Receipt] = {}
        if self.config.state_dir is not None:
            saved = checkpoint.load(self.config.state_dir / CHECKPOINT)
            if saved is not None:
                restored, samples, receipts = _restore(saved, self._layout)
                parameters = restored.to(parameters.device)
                self.restored = True
                if saved.warning:
                    log.warning("%s", saved.warning)
        rng = SystemRandom()  # epochs and link choices: strangers must not foresee them
        swarm = Swarm(self.me, self.config.swarm, rng, incarnation=time.time_ns())
        return Agent(
            swarm,
            self._layout,
            parameters,
            self.config.agent,
            rng,
            samples=samples,
            receipts=receipts,
        )

    async def leave(self) -> None:
        """Say goodbye and save; what is left of the host is to be closed or to die."""
        self._after(self.agent.leave(self._now()))
        self._left = True  # saving takes a while, and whoever asks for a link now would lose it
        if self._alarm is not None:
            self._alarm.cancel()
        await self.save()

    async def _join(self) -> None:
        """Resolve the seeds' names and join; what does not resolve is tried again."""
        waiting = [Address.parse(text) for text in self.config.join]
        while waiting:
            unresolved = []
            for seed in waiting:
                try:
                    found = await resolve(seed)
                except (OSError, UnicodeError) as error:  # the latter: no name at all
                    log.warning("cannot resolve %s: %s; still trying", seed, error)
                    unresolved.append(seed)
                else:
                    self.agent.swarm.join([found], self._now())
                    self._after([])
            waiting = unresolved
            if waiting:
                await asyncio.sleep(RESOLVE_AGAIN)

    def _credentials(self, identity: Identity) -> Credentials | None:
        """None without a network key. Raises IdentityError for a key that cannot be used."""
        keys = [network_key.load(path) for path in self.config.network_key]
        self.network = keys[0].id.hex() if keys else None
        return Credentials(identity, keys) if keys else None

    async def _listen(self) -> Address:
        if self.network is not None:
            return await own(self.config.listen or "0.0.0.0:0")
        return await own_loopback(
            self.config.listen or "127.0.0.1:0",
            "without a network key nothing is encrypted, so a node stays on loopback; give "
            "--network-key FILE (gossip key new FILE makes one)",
        )

    async def _advertised(self, listen: Address) -> Address:
        if not self.config.advertise:
            return advertised(listen)
        try:
            return await resolve(Address.parse(self.config.advertise))
        except (OSError, UnicodeError) as error:
            raise ConfigError(
                f"cannot advertise {self.config.advertise}: {error}; give an IP address"
            ) from None

    # the driver -----------------------------------------------------------------------------------

    def sync(self, parameters: Tensor, samples: int) -> Tensor:
        """`Agent.sync`; call it from the event loop."""
        try:
            return self.agent.sync(parameters, samples, self._now())
        finally:
            self._after([])

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _on_packet(self, packet: Packet) -> None:
        if not self._left:
            self._after(self.agent.receive(packet, self._now()))

    def _on_alarm(self) -> None:
        self._alarm = None
        self._after(self.agent.handle_timeout(self._now()))

    def _after(self, events: Iterable[AgentEvent]) -> None:
        """Tell, send, and arm the one timer."""
        for event in events:
            log.info("%s", event)
            for reader in self._readers:
                if reader.full():
                    reader.get_nowait()
                reader.put_nowait(event)
        while (packet := self.agent.poll_transmit()) is not None:
            self.endpoint.send(packet)
        due = self.agent.next_timeout()
        if self._alarm is not None:
            if self._alarm.when() == due:
                return
            self._alarm.cancel()
            self._alarm = None
        if not isinf(due):
            self._alarm = asyncio.get_running_loop().call_at(due, self._on_alarm)

    async def events(self) -> AsyncIterator[AgentEvent]:
        """Everything that happens from now on; a slow reader misses the oldest."""
        reader: asyncio.Queue[AgentEvent] = asyncio.Queue(EVENTS)
        self._readers.append(reader)
        try:
            while True:
                yield await reader.get()
        finally:
            self._readers.remove(reader)

    # what others want to know ---------------------------------------------------------------------

    def status(self) -> dict[str, object]:
        """What `gossip status --json` prints."""
        agent, traffic = self.agent, self.endpoint.traffic
        return {
            "id": str(self.me.id),
            "address": str(self.me.address),
            "network": self.network,
            "age_seconds": round(time.monotonic() - self._started, 3),
            "samples": agent.samples,
            "exchanges": agent.stats.exchanges,
            "bytes_sent": traffic.bytes_sent,
            "bytes_received": traffic.bytes_received,
            "bytes_dense": agent.stats.bytes_dense,
            "peers": [
                {
                    "id": str(link.peer.id),
                    "address": str(link.peer.address),
                    "rtt": round(agent.swarm.rtt(link.peer.id), 6),
                    "exchanges": max(link.completed, 0),
                }
                for link in agent.links.values()
            ],
            # JSON has no NaN and no infinity.
            "metrics": {
                name: value if isfinite(value) else None for name, value in self.metrics.items()
            },
        }

    async def save(self) -> None:
        """Write a checkpoint, if there is a state directory."""
        if self.config.state_dir is None:
            return
        async with self._saving:
            tensors, metadata = _snapshot(self.agent)
            path = self.config.state_dir / CHECKPOINT
            try:
                await asyncio.to_thread(checkpoint.save, path, tensors, metadata)
            except OSError as error:
                log.error("no checkpoint written to %s: %s; learning goes on", path, error)

    async def _save_often(self) -> None:
        await asyncio.sleep(self.config.checkpoint_every / 5)
        while True:
            await self.save()
            await asyncio.sleep(self.config.checkpoint_every)


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


def _snapshot(agent: Agent) -> tuple[dict[str, Tensor], dict[str, object]]:
    """Everything that an agent needs to continue, copied: training goes on while it is written."""
    tensors = {"x": agent.x.clone()}
    receipts = {}
    for peer, receipt in agent.receipts().items():
        receipts[str(peer)] = [*receipt.epoch, receipt.n]
        for name, half in (("mine", receipt.mine), ("theirs", receipt.theirs)):
            if half:
                tensors[f"{name}.{peer}"] = torch.frombuffer(bytearray(half), dtype=torch.uint8)
    return tensors, {
        "samples": agent.samples,
        "layout": agent.layout.hash.hex(),
        "receipts": receipts,
    }


def _restore(
    saved: checkpoint.Checkpoint, layout: Layout
) -> tuple[Tensor, int, dict[PeerId, Receipt]]:
    if saved.metadata["layout"] != layout.hash.hex():
        raise CheckpointError(
            f"{saved.path} holds a model of another layout; move it away to start afresh, or give "
            "another --state-dir"
        )

    def half(name: str, peer: str) -> bytes:
        tensor = saved.tensors.get(f"{name}.{peer}")
        return b"" if tensor is None else tensor.numpy().tobytes()

    receipts = {
        PeerId.parse(peer): Receipt((low, high), n, half("mine", peer), half("theirs", peer))
        for peer, (low, high, n) in saved.metadata["receipts"].items()
    }
    return saved.tensors["x"], int(saved.metadata["samples"]), receipts
