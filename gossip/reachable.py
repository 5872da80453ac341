"""I/O: whether somebody answers at an address, by TCP and by UDP, without becoming a peer.

What we send is a ping on a link that does not exist. By TCP its arrival is acknowledged; by UDP it
is answered with "no such link". Neither asks for a link or leaves a trace among the peers.

With credentials the TCP request begins with the handshake that every session begins with, so that
one question also tells whether both are in the same network, and whether we are let in. UDP needs
the session, so where TCP fails it is not asked.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from random import SystemRandom

import aiohttp

from p2p import Address, Channel, Packet, PeerId
from p2p.certificates import Credentials, NotAdmitted
from p2p.endpoint import Endpoint
from p2p.messages import TABLE, Ping, Unknown
from p2p.outbox import UNREACHABLE, Client
from p2p.sessions import Destination
from p2p.traffic import EndpointConfig

PATIENCE = 2.0  # seconds for an answer by UDP. A guess; TCP has `EndpointConfig.connect`.
AGAIN = 0.5  # seconds until a datagram that may be lost is sent again. A guess.


@dataclass(frozen=True, slots=True)
class Reached:
    """What came of it."""

    address: Address
    tcp: str  # empty: it answers; else why not
    udp: str | None  # the same; None: it was not asked
    peer: PeerId | None = None  # who answered, proven
    next: str = ""  # what to do where TCP fails


class Asking:
    """An endpoint that asks. Use as `async with`.

    Args:
        listen: from where, by UDP.
        credentials: of whoever asks; None: in the clear, on one's own machine.

    Raises P2PError on entering: it cannot listen there.
    """

    def __init__(self, listen: Address, credentials: Credentials | None) -> None:
        self._listen = listen
        config = EndpointConfig()
        self._credentials = credentials
        self._config = config
        self._endpoint = Endpoint(self._on_packet, config=config, credentials=credentials)
        self._asked: dict[int, asyncio.Event] = {}  # by the token of the link that does not exist
        self._rng = SystemRandom()

    async def __aenter__(self) -> Asking:
        self.address = await self._endpoint.open(self._listen)
        self._client = Client(self._config, self._credentials)
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._client.close()
        await self._endpoint.close()

    async def ask(self, address: Address, *, udp: bool) -> Reached:
        """Ask whoever is at that IP address; never raises."""
        token = self._rng.randrange(2**32)
        ping = TABLE.encode(Ping(token, 1, False))
        try:
            async with asyncio.timeout(self._config.connect + self._config.handshake):
                answer = await self._client.post(Destination(address, None), "/v1/packet", ping)
        except (*UNREACHABLE, ValueError) as error:
            why, next_ = _why(error, self._credentials is not None)
            return Reached(address, why, None, next=next_)
        if answer.status != 204:
            why = f"it answers {answer.status}, so it is no node"
            return Reached(address, why, None, next="--join the port that its --listen says")
        answered = await self._by_udp(address, token, ping) if udp else None
        return Reached(address, "", answered, answer.peer)

    async def _by_udp(self, address: Address, token: int, ping: bytes) -> str:
        self._asked[token] = answered = asyncio.Event()
        packet = Packet(address, ping, Channel.DATAGRAM)
        for _ in range(round(PATIENCE / AGAIN)):
            self._endpoint.send(packet)
            try:
                async with asyncio.timeout(AGAIN):
                    await answered.wait()
                return ""
            except TimeoutError:
                pass
        return f"no answer within {PATIENCE:g} s"

    def _on_packet(self, packet: Packet) -> None:
        if packet.channel is not Channel.DATAGRAM:
            return
        try:
            message, _ = TABLE.decode(packet.data)
        except ValueError:
            return
        if isinstance(message, Unknown) and message.token in self._asked:
            self._asked[message.token].set()


def _why(error: BaseException, secure: bool) -> tuple[str, str]:
    """The cause, and what to do next."""
    cause = error.__cause__ if isinstance(error, aiohttp.ClientSSLError) else None
    if isinstance(cause, NotAdmitted):
        return f"we do not let it in: {cause.args[0]}", "see who may come in: [access]"
    if isinstance(cause, ssl.SSLCertVerificationError) and any(
        part in cause.verify_message for part in ("not yet valid", "expired")
    ):
        why = f"the clocks of both machines do not agree ({cause.verify_message})"
        return why, "set them on both: timedatectl set-ntp true"
    if isinstance(error, aiohttp.ClientSSLError):
        why = "it is in another network, or in none: its network key is not ours"
        return why, "--network-key FILE with a copy of that machine's"
    if isinstance(error, aiohttp.ClientConnectorError):
        if isinstance(error.os_error, ConnectionRefusedError):
            return "nothing listens there, or a firewall refuses it", "start that node: gossip run"
        why = error.os_error.strerror or str(error.os_error)
        return why, "see whether there is a way to that machine: ping"
    if isinstance(error, TimeoutError):
        why = "no answer: the machine is off, or a firewall or a router drops what we send"
        return why, "let the port in there, TCP and UDP, and see: gossip doctor on that machine"
    if secure:
        why = "it is in our network, but does not let us in: we were not invited, or are banned"
        return why, "ask an admin: gossip invite; then --invitation FILE"
    why = "it ends the connection: it has a network key and we have none, or it is no node"
    return why, "--network-key FILE with a copy of that machine's"
