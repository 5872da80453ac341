"""I/O: the model in the node's local API: GET reads it, PUT replaces it.

Bodies are model files (`gossip.model_file`), never more bytes than the model has, with their
SHA-256 in the header `X-Content-SHA256`. One at a time: each holds a copy of the model.
"""

from __future__ import annotations

import asyncio
from hashlib import sha256

from aiohttp import web
from torch import Tensor

from gossip import model_file, model_vector
from gossip.agent import Agent
from gossip.errors import ModelError, NotFinite
from gossip.model_file import SHA256
from gossip.routes import Route, refusal
from gossip.vector import Layout

BYTES = "application/octet-stream"


class ModelApi:
    """Hands out and takes in the model of an agent; runs on the agent's event loop."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._busy = asyncio.Lock()

    @property
    def routes(self) -> list[Route]:
        """For the API's table."""
        return [
            Route(
                method="GET",
                path="/api/v1/model",
                about=f"The model as a safetensors file; its SHA-256 in the header {SHA256}.",
                answer=self._get,
                gives=BYTES,
            ),
            Route(
                method="PUT",
                path="/api/v1/model",
                about="Go on from the model in such a file.",
                answer=self._put,
                takes=(BYTES,),
            ),
        ]

    async def _get(self, request: web.Request) -> web.StreamResponse:
        async with self._busy:
            layout, x = self._agent.layout, self._agent.x.clone()
            about = model_vector.about(layout, self._agent.samples, str(self._agent.me.id))
            try:
                size, digest = await asyncio.to_thread(_measure, layout, x, about)
            except ModelError as error:
                return refusal(error)
            answer = web.StreamResponse(headers={SHA256: digest})
            answer.content_type = BYTES
            answer.content_length = size
            await answer.prepare(request)
            for piece in model_vector.write(layout, x, about):
                await answer.write(piece)
            await answer.write_eof()
            return answer

    async def _put(self, request: web.Request) -> web.Response:
        async with self._busy:
            try:
                x = await self._receive(request)
                self._agent.replace(x.to(self._agent.x.device))
            except (ModelError, NotFinite) as error:
                return refusal(error)
            except asyncio.IncompleteReadError:
                return refusal(ModelError("it is cut off"))
            return web.json_response({"layout": self._agent.layout.hash.hex()})

    async def _receive(self, request: web.Request) -> Tensor:
        layout = self._agent.layout
        first = await request.content.readexactly(8)
        text = await request.content.readexactly(model_file.length(first))
        header = model_file.decode(text)
        model_vector.check(layout, header)
        data = bytearray()  # as many bytes as the header says, which are the layout's, and no more
        digest = sha256(first + text)
        async for piece in request.content.iter_any():
            digest.update(piece)
            data += piece
            if len(data) > header.size:
                raise ModelError("it is longer than its header says")
        if len(data) < header.size:
            raise ModelError("it is cut off")
        if request.headers.get(SHA256) != digest.hexdigest():
            raise ModelError(
                f"it is not what the header {SHA256} says: it is damaged; send it again"
            )
        return await asyncio.to_thread(model_vector.read, layout, header, data)


def _measure(layout: Layout, x: Tensor, about: dict[str, str]) -> tuple[int, str]:
    """How long the file will be, and its SHA-256."""
    digest, size = sha256(), 0
    for piece in model_vector.write(layout, x, about):
        digest.update(piece)
        size += len(piece)
    return size, digest.hexdigest()
