"""Who is kept out, in the node's local API."""

from __future__ import annotations

from math import inf
from types import NoneType

from aiohttp import web

from gossip.access import Access
from gossip.routes import JSON, Route, Schema, answering, refusal

BAN: Schema = {
    "type": "object",
    "properties": {
        "who": {"type": "string", "description": "A peer id, or the name of an invitation."},
        "seconds": {"type": ["number", "null"], "exclusiveMinimum": 0},
    },
    "required": ["who"],
}


class AccessApi:
    """Bans of a node, and what peers have on their account."""

    def __init__(self, access: Access) -> None:
        self._access = access

    @property
    def routes(self) -> list[Route]:
        """For the API's table."""
        return [
            answering("scores", "The faults of peers that count, and what follows.", self._scores),
            answering("bans", "Who is kept out, how long and why.", self._bans),
            Route(
                method="POST",
                path="/api/v1/bans",
                about="Keep out a peer, or all who came with an invitation, from now on.",
                answer=self._ban,
                takes=(JSON,),
                schema=BAN,
            ),
            Route(
                method="DELETE",
                path="/api/v1/bans/{who}",
                about="Let somebody in again.",
                answer=self._lift,
            ),
        ]

    def _scores(self) -> dict[str, object]:
        return {"scores": self._access.scores(), "dropped": self._access.conduct.dropped}

    def _bans(self) -> dict[str, object]:
        return {"bans": self._access.bans()}

    async def _ban(self, request: web.Request) -> web.Response:
        try:
            wanted = await request.json()
            who, seconds = wanted["who"], wanted.get("seconds")
            if not isinstance(who, str) or type(seconds) not in (float, int, NoneType):
                raise ValueError('it takes {"who": PEER or NONCE, "seconds": NUMBER or null}')
            if seconds is not None and not 0 < seconds < inf:
                raise ValueError(f"seconds is a number above 0, not {seconds}")
            self._access.ban(who, inf if seconds is None else seconds)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            return refusal(error)
        except OSError as error:
            return _unwritten(error)
        return web.json_response(self._bans())

    async def _lift(self, request: web.Request) -> web.Response:
        who = request.match_info["who"]
        try:
            if not self._access.lift(who):
                return refusal(f"{who} is not banned")
        except ValueError as error:
            return refusal(error)
        except OSError as error:
            return _unwritten(error)
        return web.json_response(self._bans())


def _unwritten(error: OSError) -> web.Response:
    text = f"it is in effect until the node stops, but could not be written down: {error.strerror}"
    return refusal(text, 507)
