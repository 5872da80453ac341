"""I/O: the node's local API.

JSON over HTTP, on loopback only, for whoever can read the token in the state directory. Its
address and token stand in `api.json` there (mode 0600), so `gossip status` needs no arguments but
the directory.
"""

from __future__ import annotations

import hmac
import json
import logging
import os
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping
from math import inf
from pathlib import Path
from types import NoneType

from aiohttp import http, web

from gossip.access import Access
from gossip.errors import ConfigError
from p2p import Address, files

log = logging.getLogger(__name__)
FILE = "api.json"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether a failure is ours to log, and not bytes that are no HTTP."""
    return not (record.exc_info and isinstance(record.exc_info[1], http.HttpProcessingError))


log.addFilter(_is_ours)


class Api:
    """The listener; use as `async with`. Raises ConfigError if the address is taken.

    Args:
        answers: by the last part of their path; `status` is asked for at /api/v1/status.
        routes: what answers otherwise than with JSON; behind the same token.
    """

    def __init__(
        self,
        listen: Address,
        state_dir: Path | None,
        answers: Mapping[str, Callable[[], dict[str, object]]],
        access: Access | None = None,
        routes: Iterable[web.RouteDef] = (),
    ) -> None:
        self._listen = listen
        self._file = None if state_dir is None else state_dir / FILE
        self._answers = answers
        self._access = access
        self._routes = routes
        self._token = secrets.token_urlsafe(24)
        self.address = listen

    async def __aenter__(self) -> Api:
        app = web.Application(middlewares=[self._guard])
        for name in self._answers:
            app.router.add_get(f"/api/v1/{name}", self._answer)
        if self._access is not None:
            app.router.add_get("/api/v1/bans", self._bans)
            app.router.add_post("/api/v1/bans", self._ban)
            app.router.add_delete("/api/v1/bans/{who}", self._lift)
        app.router.add_routes(self._routes)
        self._runner = web.AppRunner(app, access_log=None, logger=log)
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
        given = request.headers.get("Authorization", "").encode(errors="surrogateescape")
        if not hmac.compare_digest(given, f"Bearer {self._token}".encode()):
            return web.json_response({"error": "the token in api.json is needed"}, status=401)
        return await handler(request)

    async def _answer(self, request: web.Request) -> web.Response:
        return web.json_response(self._answers[request.path.rpartition("/")[2]]())

    async def _bans(self, request: web.Request) -> web.Response:
        assert self._access is not None
        return web.json_response({"bans": self._access.bans()})

    async def _ban(self, request: web.Request) -> web.Response:
        assert self._access is not None
        try:
            wanted = await request.json()
            who, seconds = wanted["who"], wanted.get("seconds")
            if not isinstance(who, str) or type(seconds) not in (float, int, NoneType):
                raise ValueError('it takes {"who": PEER or NONCE, "seconds": NUMBER or null}')
            if seconds is not None and not 0 < seconds < inf:
                raise ValueError(f"seconds is a number above 0, not {seconds}")
            self._access.ban(who, inf if seconds is None else seconds)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            return web.json_response({"error": str(error)}, status=400)
        except OSError as error:
            return _unwritten(error)
        return web.json_response({"bans": self._access.bans()})

    async def _lift(self, request: web.Request) -> web.Response:
        assert self._access is not None
        who = request.match_info["who"]
        try:
            if not self._access.lift(who):
                return web.json_response({"error": f"{who} is not banned"}, status=400)
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=400)
        except OSError as error:
            return _unwritten(error)
        return web.json_response({"bans": self._access.bans()})


def _unwritten(error: OSError) -> web.Response:
    text = f"it is in effect until the node stops, but could not be written down: {error.strerror}"
    return web.json_response({"error": text}, status=507)
