"""What a local API is made of: one table of routes, of which its OpenAPI document is made too."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Schema = Mapping[str, object]

DISTRIBUTION = "gossip-learning"
JSON = "application/json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One thing that can be asked for."""

    method: str
    path: str  # `{name}` in it matches up to the next slash
    about: str  # one sentence
    answer: Handler
    open: bool = False  # whoever reaches the port may ask; else it takes the token
    page: bool = False  # part of the pages, which are no API
    takes: Sequence[str] = ()  # the media types of a body
    schema: Schema = field(default_factory=dict)  # of a body in JSON
    gives: str = JSON  # the media type of the answer


def answering(name: str, about: str, answer: Callable[[], Mapping[str, object]]) -> Route:
    """A route that reads something: /api/v1/`name`."""

    async def handler(request: web.Request) -> web.Response:
        return web.json_response(answer())

    return Route(method="GET", path=f"/api/v1/{name}", about=about, answer=handler)


def refusal(error: object, status: int = 400) -> web.Response:
    """The answer to what cannot be done; the text says why."""
    return web.json_response({"error": str(error)}, status=status)


def openapi(routes: Iterable[Route]) -> dict[str, object]:
    """The document of all routes that are no pages, of OpenAPI 3.1."""
    paths: dict[str, dict[str, object]] = {}
    for route in routes:
        if not route.page:
            paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "A node of gossip-learning",
            "version": version(DISTRIBUTION),
            "description": "On loopback only. The token stands in api.json in the state directory.",
        },
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {
                "Error": {
                    "type": "object",
                    "properties": {"error": {"type": "string"}},
                    "required": ["error"],
                }
            },
        },
        "paths": paths,
    }


def _operation(route: Route) -> dict[str, object]:
    error = {"schema": {"$ref": "#/components/schemas/Error"}}
    names = [part[1:-1] for part in route.path.split("/") if part.startswith("{")]
    operation: dict[str, object] = {
        "summary": route.about,
        "security": [] if route.open else [{"token": []}],
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in names
        ],
        "responses": {
            "200": {"description": route.about, "content": {route.gives: {}}},
            "default": {"description": "It cannot be done.", "content": {JSON: error}},
        },
    }
    if route.takes:
        operation["requestBody"] = {
            "required": True,
            "content": {
                media: {"schema": dict(route.schema)} if media == JSON else {}
                for media in route.takes
            },
        }
    return operation
