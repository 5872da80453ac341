"""I/O: the pages of a node, files that are served as they are.

They hold nothing of the node, so everybody may have them; what they show they ask the API for.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from aiohttp import web

from gossip.routes import Route

HOME = Path(__file__).parent / "web"
TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".LICENSE": "text/plain",
}
FILES = sorted(path for path in HOME.rglob("*") if path.suffix in TYPES)


def routes() -> list[Route]:
    """For the API's table: a route for each file, and one for the page itself."""
    served = [("/", HOME / "index.html")]
    served += [(f"/{path.relative_to(HOME).as_posix()}", path) for path in FILES]
    return [
        Route(
            method="GET",
            path=path,
            about="A file of the pages.",
            answer=partial(_answer, file),
            open=True,
            page=True,
            gives=TYPES[file.suffix],
        )
        for path, file in served
    ]


async def _answer(file: Path, request: web.Request) -> web.StreamResponse:
    """The file; a browser asks whether it is still the same, so a newer version shows at once."""
    kind = f"{TYPES[file.suffix]}; charset=utf-8"
    return web.FileResponse(file, headers={"Cache-Control": "no-cache", "Content-Type": kind})
