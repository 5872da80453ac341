"""I/O: what a node answers about itself, in its local API."""

from __future__ import annotations

import asyncio
from pathlib import Path

from aiohttp import web

from gossip import audit, pages
from gossip.access_api import AccessApi
from gossip.errors import AuditBroken, ConfigError
from gossip.model_api import ModelApi
from gossip.observer import Observed, Observer
from gossip.prometheus import CONTENT_TYPE, Exposition
from gossip.routes import Route, answering, refusal
from p2p import PeerId

MOST_FOLLOWERS = 16  # of the event stream; each has a queue. A guess.
SHOWN = 100  # lines of the audit log
HEARTBEAT = 30.0  # seconds between two pings on the event stream
PROTOCOL = "gossip-learning"  # of the event stream, for whoever must name one beside the token


class NodeApi:
    """The routes of one node."""

    def __init__(self, node: Observed, me: PeerId) -> None:
        self.observer = Observer(node)
        self.exposition = Exposition(node, self.observer)
        self._node, self._me = node, me
        self._state_dir = node.config.state_dir
        self._verifying = asyncio.Lock()

    @property
    def routes(self) -> list[Route]:
        """For the API's table."""
        node = self._node
        return [
            *pages.routes(),
            *self._health(),
            answering("status", "How the node is.", node.status),
            answering("peers", "Its neighbours, and all peers on the network.", node.peers),
            answering("roster", "All peers on the network.", self._roster),
            answering("learning", "How learning went: columns of equal length.", self._learning),
            answering("logs", "The last lines that people want to read.", self._logs),
            Route(
                method="GET",
                path="/api/v1/events",
                about="Everything that happens from now on, over a WebSocket: an object each.",
                answer=self._events,
            ),
            *AccessApi(node.access).routes,
            answering("trust", "Which share of what each neighbour says is taken.", self._trust),
            answering("audit", "The last lines of the audit log, unchecked.", self._audit),
            Route(
                method="GET",
                path="/api/v1/audit/verification",
                about="Whether the audit log is as it was written.",
                answer=self._verify,
            ),
            *ModelApi(node.agent).routes,
        ]

    def _health(self) -> list[Route]:
        return [
            Route(
                method="GET",
                path="/livez",
                about="Whether the node answers at all.",
                answer=self._alive,
                open=True,
            ),
            Route(
                method="GET",
                path="/readyz",
                about="Whether it takes part: 503 while it leaves.",
                answer=self._ready,
                open=True,
            ),
            Route(
                method="GET",
                path="/metrics",
                about="Its figures, for Prometheus.",
                answer=self._metrics,
                open=True,
                gives="text/plain",
            ),
        ]

    async def _alive(self, request: web.Request) -> web.Response:
        return web.json_response({"alive": True})

    async def _ready(self, request: web.Request) -> web.Response:
        if not self.observer.present:
            return refusal("it is coming up or leaving", 503)
        return web.json_response({"ready": True})

    async def _metrics(self, request: web.Request) -> web.Response:
        text = self.exposition.render()
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE})

    def _roster(self) -> dict[str, object]:
        known = self._node.peers()
        return {"id": known["id"], "roster": known["roster"]}

    def _learning(self) -> dict[str, object]:
        return self.observer.history.columns()

    def _trust(self) -> dict[str, object]:
        agent = self._node.agent
        believed = {str(peer): round(agent.guard.trust.of(peer), 4) for peer in agent.links}
        return {"trust": believed}

    def _logs(self) -> dict[str, object]:
        return {"lines": list(self.observer.lines)}

    async def _events(self, request: web.Request) -> web.StreamResponse:
        if not self.observer.present:
            return refusal("the node is leaving", 503)
        if self.observer.followers >= MOST_FOLLOWERS:
            return refusal(f"{MOST_FOLLOWERS} follow already; end one of them", 503)
        socket = web.WebSocketResponse(
            heartbeat=HEARTBEAT, protocols=(PROTOCOL,), max_msg_size=1024
        )
        if not socket.can_prepare(request):
            return refusal("this is a WebSocket: ask to upgrade to one", 426)
        await socket.prepare(request)
        with self.observer.following() as queue:
            reading = asyncio.create_task(_drain(socket))
            reading.add_done_callback(lambda _: None if queue.full() else queue.put_nowait(None))
            try:
                while (told := await queue.get()) is not None and not socket.closed:
                    await socket.send_json(told)
            except ConnectionResetError:
                pass
            finally:
                reading.cancel()
        await socket.close()
        return socket

    # the audit log --------------------------------------------------------------------------------

    def _log(self) -> Path | None:
        return self._state_dir / audit.DIRECTORY if self._state_dir is not None else None

    def _audit(self) -> dict[str, object]:
        log = self._log()
        return {"kept": log is not None, "lines": audit.latest(log, SHOWN) if log else []}

    async def _verify(self, request: web.Request) -> web.Response:
        log = self._log()
        if log is None:
            return refusal("there is no audit log: the node has no --state-dir")
        async with self._verifying:
            try:
                found = await asyncio.to_thread(audit.check, log, self._me)
            except (AuditBroken, ConfigError) as error:
                return web.json_response({"whole": False, "reason": str(error)})
        counted = {name: getattr(found, name) for name in ("files", "lines", "unsigned")}
        return web.json_response({"whole": True, "signer": found.signer} | counted)


async def _drain(socket: web.WebSocketResponse) -> None:
    """Nothing is expected from there but its end."""
    async for _ in socket:
        pass
