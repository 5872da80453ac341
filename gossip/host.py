"""I/O: one agent on real sockets and a real clock.

Everything that touches the agent happens on one event loop, and no verb awaits: a packet, a
deadline or progress goes in, packets and events come out, one timer is armed anew. Who trains, and
in which thread, is the business of `Node` and of `join`.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import asdict
from datetime import datetime
from math import isfinite, isinf
from random import SystemRandom

from torch import Tensor

from gossip import access, cache, checkpoint
from gossip.addresses import advertised, own, own_loopback, resolve
from gossip.agent import Agent, AgentEvent
from gossip.api import Api
from gossip.audit import Audit
from gossip.checkpoint import NAME as CHECKPOINT
from gossip.config import Config
from gossip.discovery import Discovery
from gossip.disk import Disk
from gossip.errors import ConfigError
from gossip.exchange import Receipt
from gossip.node_api import NodeApi
from gossip.peers import peers
from gossip.profile import Profile
from gossip.quiet import LOOK, Quiet
from gossip.routes import Route
from gossip.snapshot import restore, snapshot
from gossip.spans import unwatched
from gossip.vector import Layout
from p2p import Address, Packet, Peer, PeerId, Swarm, files, network_key
from p2p.certificates import Credentials
from p2p.endpoint import Endpoint
from p2p.identity import Identity, load_or_create, lock
from p2p.network_key import NetworkKey
from p2p.traffic import EndpointConfig

log = logging.getLogger("gossip")

EVENTS = 256  # that a reader may lag behind before it misses the oldest. A guess.
PEERS = "peers.json"
LOCAL = "local."  # before the names of what training keeps


class Host:
    """An agent that is reachable. Use as `async with`; leaving says goodbye and saves.

    Args:
        layout: of the model.
        parameters: (n,) the model to start from, unless the state directory holds a later one.
        wall: the local time, which quiet hours go by.
        profile: is told where time goes.

    Raises on entering:
        ConfigError: an address that cannot be used, or not without a network key; an invitation, a
            list of peers, bans or an audit log that cannot.
        CheckpointError: a checkpoint of another model, or none that can be read.
        P2PError: a port in use, a state directory in use, a broken identity or network key.
    """

    def __init__(
        self,
        layout: Layout,
        parameters: Tensor,
        config: Config,
        wall: Callable[[], datetime] = datetime.now,
        profile: Profile | None = None,
    ) -> None:
        self.config = config
        self._wall = wall
        self.metrics: dict[str, float] = {}
        self.network: str | None = None  # the id of the network, if it has a key
        self.restored = False  # the model came from a checkpoint
        self.local: dict[
            str, Tensor
        ] = {}  # what training kept: from the checkpoint, then as last asked
        self._parameters: Tensor | None = parameters  # until the agent has its copy
        self._layout = layout
        self._profile = profile
        self._span = profile.span if profile else unwatched
        self._readers: list[asyncio.Queue[AgentEvent]] = []
        self._alarm: asyncio.TimerHandle | None = None
        self._started = time.monotonic()
        self.disk = None if config.state_dir is None else Disk(str(config.state_dir))
        self._saving = asyncio.Lock()
        self._up = False  # before, there is nobody to give packets to
        self._left = False
        self._met: tuple[Peer, ...] = ()  # whom we knew when we left
        self._stack = AsyncExitStack()

    # life -----------------------------------------------------------------------------------------

    async def __aenter__(self) -> Host:
        async with AsyncExitStack() as stack:
            identity = self._identity(stack)
            keys = [network_key.load(path) for path in self.config.network_key]
            self.network = keys[0].id.hex() if keys else None
            self.access = self._access(stack, identity, keys)
            credentials = self._credentials(identity, keys)
            listen = await self._listen()
            self.endpoint = Endpoint(
                self._on_packet,
                config=EndpointConfig(transport=self.config.transport),
                credentials=credentials,
                on_failed=self.access.on_failed,
            )
            listen = await self.endpoint.open(listen)
            stack.push_async_callback(self.endpoint.close)
            self.me = Peer(identity.id, await self._advertised(listen))
            self.agent = self._agent(identity)
            self._discovery = Discovery(
                self.agent.swarm,
                listen,
                self.config.join,
                keys if self.config.lan else (),
                lambda: self._after([]),
            )
            local = await own_loopback(self.config.api, "the local API is for this machine only")
            self.api = NodeApi(self, identity.id)
            self.routes = [*self.api.routes, *self._routes()]
            api = Api(local, self.config.state_dir, self.routes)
            await stack.enter_async_context(api)
            self.api_address = api.address
            self._up = True
            self._publish()
            self._quiet = Quiet(self.agent, self._wall)
            self._quiet.look(self.config.quiet, self._now())  # before anybody can be met
            self._meet_again()
            self._after([])
            # Undone in this order, backwards: seeds that resolve late must not be asked after we
            # left, and a checkpoint that is being written is waited for.
            stack.push_async_callback(_cancel, asyncio.create_task(self._save_often()))
            stack.push_async_callback(_cancel, asyncio.create_task(self._look_often()))
            stack.push_async_callback(self.leave)
            stack.push_async_callback(_cancel, asyncio.create_task(self._discovery.run()))
            await stack.enter_async_context(self.api.observer)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._stack.aclose()

    def _identity(self, stack: AsyncExitStack) -> Identity:
        if self.config.state_dir is None:
            return Identity.generate()
        try:
            files.make_directory(self.config.state_dir)
        except OSError as error:
            raise ConfigError(
                f"cannot make {self.config.state_dir}: {error.strerror}; give another --state-dir"
            ) from None
        stack.enter_context(lock(self.config.state_dir))
        path = self.config.state_dir / "identity.key"
        files.sweep(path)  # whoever was killed while making it
        return load_or_create(path)

    def _agent(self, identity: Identity) -> Agent:
        parameters, self._parameters = self._parameters, None
        assert parameters is not None
        samples = 0
        receipts: dict[PeerId, Receipt] = {}
        if self.config.state_dir is not None:
            saved = checkpoint.load(self.config.state_dir / CHECKPOINT)
            if saved is not None:
                restored, samples, receipts = restore(saved, self._layout)
                self.local = {
                    name.removeprefix(LOCAL): tensor
                    for name, tensor in saved.tensors.items()
                    if name.startswith(LOCAL)
                }
                parameters = restored.to(parameters.device)
                self.restored = True
                if saved.warning:
                    log.warning("%s", saved.warning)
                before = saved.metadata.get("id", str(identity.id))
                if before != str(identity.id):
                    log.warning(
                        "%s is of node %s, and identity.key is another's: for others this is a "
                        "new node, %s",
                        saved.path,
                        before,
                        identity.id,
                    )
        rng = SystemRandom()  # epochs and link choices: strangers must not foresee them
        swarm = Swarm(
            self.me,
            self.config.swarm,
            rng,
            incarnation=time.time_ns(),
            sign=identity.sign,
            conduct=self.access.conduct,
        )
        return Agent(
            swarm,
            self._layout,
            parameters,
            self.config.agent,
            rng,
            samples=samples,
            receipts=receipts,
            span=self._span,
        )

    def _routes(self) -> list[Route]:
        """What the local API answers besides."""
        return []

    def reload(self, config: Config) -> None:
        """Go on with other settings, made by `gossip.reload.merged`.

        Raises ConfigError, with nothing changed, for a list of peers that cannot be used.
        """
        self.access.reload(config.access)
        self.agent.limit(config.agent.budget, self._now())
        self.config = config
        self._quiet.look(config.quiet, self._now())
        self._after([])
        for peer in list(self.agent.links):
            if not self.access.lists(peer):
                self._expel(peer, "it is not in the list of allowed peers any more")

    async def leave(self) -> None:
        """Say goodbye and save; what is left of the host is to be closed or to die."""
        if self._left:
            return
        self._met = self.agent.swarm.known()  # afterwards it has no neighbours
        self._after(self.agent.leave(self._now()))
        self._left = True  # saving takes a while, and whoever asks for a link now would lose it
        if self._alarm is not None:
            self._alarm.cancel()
        await asyncio.gather(self.save(), self._discovery.close())

    def _meet_again(self) -> None:
        """Ask the peers of earlier days for links."""
        if self.config.state_dir is None:
            return
        cached, warning = cache.load(self.config.state_dir / PEERS)
        if warning:
            log.warning("%s", warning)
        self.agent.swarm.join([], self._now(), cached=cached)

    def _access(
        self, stack: AsyncExitStack, identity: Identity, keys: list[NetworkKey]
    ) -> access.Access:
        audit = None
        networks = [key.id for key in keys]
        if self.config.state_dir is not None:
            audit = Audit(self.config.state_dir, identity)
            stack.callback(audit.close)
            audit.record("start", node=str(identity.id), settings=asdict(self.config))
            if len(keys) > 1:
                first, second = (network.hex() for network in networks)
                audit.record("rotation", signs=first, accepts=second)
            stack.callback(audit.record, "stop")
        self._audit = audit
        return access.Access(
            self.config.access,
            identity.id,
            networks,
            self.config.state_dir,
            self._now,
            self._expel,
            audit,
        )

    def _credentials(self, identity: Identity, keys: list[NetworkKey]) -> Credentials | None:
        """None without a network key."""
        if not keys:
            return None
        shown = None
        if self.config.invitation is None:
            self.access.warn_uninvited()
        else:
            networks = [key.id for key in keys]
            shown = access.own(self.config.invitation, identity.id, networks, time.time())
        return Credentials(identity, keys, invitation=shown, admit=self.access.admit)

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
            return advertised(listen, map(Address.parse, self.config.join))
        try:
            return (await resolve(Address.parse(self.config.advertise)))[0]
        except (OSError, UnicodeError) as error:
            raise ConfigError(
                f"cannot advertise {self.config.advertise}: {error}; give an IP address"
            ) from None

    # the driver -----------------------------------------------------------------------------------

    def sync(self, parameters: Tensor, samples: int) -> Tensor:
        """`Agent.sync`; call it from the event loop."""
        try:
            with self._span("sync"):
                return self.agent.sync(parameters, samples, self._now())
        finally:
            self._publish()
            self._after([])

    async def _look_often(self) -> None:
        while True:
            self._quiet.look(self.config.quiet, self._now())
            self._after([])
            await asyncio.sleep(LOOK)

    def _publish(self) -> None:
        """Tell the network how far we are; the swarm sees to it that this is not too often."""
        name = self.config.name or socket.gethostname()
        self.agent.swarm.publish(name, self.agent.samples, self.metrics, self._now())

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _on_packet(self, packet: Packet) -> None:
        if self._up and not self._left:
            self._after(self.agent.receive(packet, self._now()))

    def _expel(self, peer: PeerId, reason: str) -> None:
        """Nothing connects us with this peer any more."""
        self._after(self.agent.expel(peer, reason, self._now()))  # it is told,
        self.endpoint.expel(peer)  # which takes the session

    def _on_alarm(self) -> None:
        self._alarm = None
        self._after(self.agent.handle_timeout(self._now()))

    def _after(self, events: Iterable[AgentEvent]) -> None:
        """Tell, send, and arm the one timer."""
        if self._profile is not None:
            self._profile.look(self.agent.links)
        while (packet := self.agent.poll_transmit()) is not None:
            self.endpoint.send(packet)
        for event in events:
            log.info("%s", event)
            self.access.note(event)  # may expel somebody
            for reader in self._readers:
                if reader.full():
                    reader.get_nowait()
                reader.put_nowait(event)
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
            "quiet_until": self._quiet.status,
            "saved": None if self.disk is None else self.disk.status(time.monotonic()),
            "peers": [
                {
                    "id": str(link.peer.id),
                    "address": str(link.peer.address),
                    "rtt": round(agent.swarm.rtt(link.peer.id), 6),
                    "exchanges": max(link.completed, 0),
                }
                for link in agent.links.values()
            ],
            "access": {
                "mode": self.config.access.mode,
                "bans": len(self.access.bans()),
                "dropped": self.access.conduct.dropped,
                "handshakes": traffic.handshakes,
                "handshakes_failed": traffic.handshakes_failed,
                "unopened": traffic.unopened,
            },
            "queues": self.endpoint.queues
            | {
                "packets": agent.swarm.waiting,
                "events": max((reader.qsize() for reader in self._readers), default=0),
            },
            # JSON has no NaN and no infinity.
            "metrics": {
                name: value if isfinite(value) else None for name, value in self.metrics.items()
            },
        }

    def peers(self) -> dict[str, object]:
        """What `gossip peers --json` prints."""
        return peers(self.agent.swarm, self._now())

    async def _kept(self) -> dict[str, Tensor] | None:
        """A copy of what training keeps besides the model, for the checkpoint; None: write none."""
        return {}

    async def save(self) -> None:
        """Write a checkpoint, if there is a state directory."""
        if self.config.state_dir is None or self.disk is None:
            return
        kept = await self._kept()  # not under the lock: training may be stuck, and we want to leave
        if kept is None:
            return
        async with self._saving:
            tensors, metadata = snapshot(self.agent)
            tensors |= {LOCAL + name: tensor for name, tensor in kept.items()}
            path = self.config.state_dir / CHECKPOINT
            try:
                await asyncio.to_thread(checkpoint.save, path, tensors, metadata)
                met = self._met or self.agent.swarm.known()
                if met:  # who is alone now had better keep those whom it knew
                    await asyncio.to_thread(cache.save, self.config.state_dir / PEERS, met)
                self.disk.wrote(time.monotonic())
            except OSError as error:
                self.disk.failed(error)

    async def _save_often(self) -> None:
        await asyncio.sleep(self.config.checkpoint_every / 5)
        while True:
            await self.save()
            if self._audit is not None:
                self._audit.tick()
            await asyncio.sleep(self.config.checkpoint_every)


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
