"""I/O: the node's local API.

HTTP on loopback only. Its address and a token stand in `api.json` in the state directory (mode
0600), so `gossip status` needs no arguments but the directory.

Who could do harm, and what stands in the way:

    other users of this machine reach the port: they lack the token. Open to them are the pages'
        code, which holds nothing, and whether and how well the node is (`Route.open`): numbers,
        no ids, no addresses.
    web pages in the operator's browser reach it too: what they send bears their Origin, and is
        refused, as is every Host that is no name of loopback: theirs, if they had their own name
        lead to 127.0.0.1 (DNS rebinding).
    a page of ours that shows what a peer says: a strict Content-Security-Policy lets no script run
        but our files, and nothing be loaded from anywhere else.

A browser gets the token in the fragment of the address that `gossip dashboard` prints: it is sent
to nobody, and the page takes it out of the address and keeps it for its own tab. Not in a cookie:
those are of a host, whatever the port, so all nodes of a machine would share it, and a browser
would send it along whoever asks it to.
"""

from __future__ import annotations

import hmac
import json
import logging
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from aiohttp import http, web

from gossip.errors import ConfigError
from gossip.routes import Handler, Route, answering, openapi, refusal
from p2p import Address, files

log = logging.getLogger(__name__)
FILE = "api.json"
MOST_BODY = 16 << 20  # bytes that are held in memory; a model is not. A guess.
LINGER = 2.0  # seconds for which an answer under way may hold up the end. A guess.
LOOPBACK = ("127.0.0.1", "localhost", "::1")
BEARER = "bearer."  # before the token, where a browser can set no header: among the protocols

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether a failure is ours to log, and not bytes that are no HTTP."""
    return not (record.exc_info and isinstance(record.exc_info[1], http.HttpProcessingError))


log.addFilter(_is_ours)


class Api:
    """The listener; use as `async with`. Raises ConfigError if the address is taken."""

    def __init__(self, listen: Address, state_dir: Path | None, routes: Iterable[Route]) -> None:
        self._listen = listen
        self._file = None if state_dir is None else state_dir / FILE
        self._routes = [*routes]
        self._routes.append(_document(self._routes))
        self._open = {(route.method, route.path) for route in self._routes if route.open}
        self._token = secrets.token_urlsafe(24)
        self.address = listen

    async def __aenter__(self) -> Api:
        app = web.Application(middlewares=[self._guard], client_max_size=MOST_BODY)
        app.on_response_prepare.append(_set_headers)
        for route in self._routes:
            if route.method == "GET":
                app.router.add_get(route.path, route.answer)  # and HEAD
            else:
                app.router.add_route(route.method, route.path, route.answer)
        self._runner = web.AppRunner(app, access_log=None, logger=log, shutdown_timeout=LINGER)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._listen.host, self._listen.port)
        try:
            await site.start()
        except OSError as error:
            await self._runner.cleanup()
            raise ConfigError(
                f"cannot open the local API at {self._listen}: {error.strerror}; "
                "give another --api HOST:PORT"
            ) from None
        host, port = self._runner.addresses[0][:2]
        self.address = Address(host, port)
        try:
            self._write_file()
        except OSError as error:
            await self._runner.cleanup()
            raise ConfigError(
                f"cannot write {self._file}: {error.strerror}; give another --state-dir"
            ) from None
        return self

    async def __aexit__(self, *exception: object) -> None:
        if self._file is not None:
            self._file.unlink(missing_ok=True)
        await self._runner.cleanup()

    def _write_file(self) -> None:
        """Replace the file in one step: nobody reads half of it, or an old token."""
        if self._file is None:
            return
        known = {"address": str(self.address), "token": self._token, "pid": os.getpid()}
        files.replace(self._file, json.dumps(known).encode())

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        host = request.headers.get("Host")
        if host is not None and _name(host) not in LOOPBACK:  # who sends none is no browser
            return refusal("this API is for this machine: ask 127.0.0.1 or localhost", 403)
        if request.headers.get("Origin", f"http://{host}") != f"http://{host}":
            return refusal("pages from elsewhere may not ask", 403)
        if not self._is_open(request) and not any(map(self._is_token, _tokens(request))):
            return refusal("the token in api.json is needed", 401)
        return await handler(request)

    def _is_open(self, request: web.Request) -> bool:
        resource = request.match_info.route.resource
        method = "GET" if request.method == "HEAD" else request.method
        return resource is not None and (method, resource.canonical) in self._open

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(errors="surrogateescape"), self._token.encode())


def _name(host: str) -> str:
    """What stands before the port in a Host header."""
    host = host.lower()
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


def _tokens(request: web.Request) -> Iterator[str]:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme == "Bearer":
        yield token
    for protocol in request.headers.get("Sec-WebSocket-Protocol", "").split(","):
        if protocol.strip().startswith(BEARER):
            yield protocol.strip().removeprefix(BEARER)


async def _set_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)
    response.headers.setdefault("Cache-Control", "no-store")


def _document(routes: Sequence[Route]) -> Route:
    return answering("openapi.json", "This document.", lambda: openapi(routes))
