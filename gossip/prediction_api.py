"""I/O: predictions in the node's local API, and in the words of the Open Inference Protocol.

That protocol (version 2, of KServe, Triton and MLServer, in JSON) knows one model here, `model`:
its input is a tensor [batch, ...] of raw inputs as the learner reads them, texts, or files in
base64 (`gossip.inputs`); its outputs are `answer`, the learner's answers as texts of JSON, and
`output`, what the model itself gave.
"""

from __future__ import annotations

import asyncio
import json
import time
from importlib.metadata import version
from typing import Any

from aiohttp import web

from gossip import inputs
from gossip.errors import PredictionRefused
from gossip.prediction import Answered, Predictor
from gossip.prometheus import Exposition
from gossip.routes import DISTRIBUTION, JSON, Handler, Route, Schema, refusal

MODEL = "model"
BATCH: Schema = {
    "type": "object",
    "properties": {"inputs": {"type": "array", "minItems": 1}},
    "required": ["inputs"],
}
TENSORS: Schema = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "inputs": {
            "type": "array",
            "minItems": 1,
            "maxItems": 1,
            "items": {
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "shape": {"type": "array", "items": {"type": "integer"}},
                    "datatype": {"enum": ["BYTES", *inputs.DATATYPES]},
                    "parameters": {"type": "object"},
                    "data": {"type": "array"},
                },
                "required": ["shape", "datatype", "data"],
            },
        },
        "outputs": {"type": "array"},
    },
    "required": ["inputs"],
}


class PredictionApi:
    """The routes; what they answered is counted in `exposition`."""

    def __init__(self, predictor: Predictor, exposition: Exposition) -> None:
        self._predictor = predictor
        self._exposition = exposition

    @property
    def routes(self) -> list[Route]:
        """For the API's table."""
        return [
            _get("/api/v1/predict", "What an input looks like.", self._asked),
            Route(
                method="POST",
                path="/api/v1/predict",
                about="Answers to a batch in JSON or npy, or to the bytes of a file.",
                answer=self._predict,
                takes=(JSON, inputs.NPY, inputs.FILE),
                schema=BATCH,
            ),
            _get("/v2", "Who answers.", self._server),
            _get("/v2/health/live", "Whether the node answers at all.", self._live),
            _get("/v2/health/ready", "Whether there are predictions.", self._ready),
            _get("/v2/models/{name}", "What the model takes and gives.", self._metadata),
            _get("/v2/models/{name}/ready", "Whether there are predictions.", self._model_ready),
            Route(
                method="POST",
                path="/v2/models/{name}/infer",
                about="Answers to a batch in one tensor.",
                answer=self._infer,
                takes=(JSON,),
                schema=TENSORS,
            ),
        ]

    async def _asked(self, request: web.Request) -> web.Response:
        try:
            asked = await self._predictor.asked()
        except PredictionRefused as error:
            return refusal(error)
        found = {"able": self._predictor.able, "shape": asked.shape}
        return web.json_response(found | {"highest": asked.highest, "side": asked.side})

    async def _predict(self, request: web.Request) -> web.Response:
        began = time.monotonic()
        try:
            body = await request.read()
            raw = await asyncio.to_thread(inputs.read, request.content_type, body)
            answered = await self._answer(raw)
        except PredictionRefused as error:
            return self._refused(error)
        seconds = round(time.monotonic() - began, 6)
        found = {"predictions": answered.answers, "samples": answered.samples, "seconds": seconds}
        return web.json_response(found)

    async def _answer(self, raw: list[Any]) -> Answered:
        began = time.monotonic()
        answered = await self._predictor.answer(raw)
        self._exposition.predictions["answered"] += 1
        self._exposition.predicting += time.monotonic() - began
        return answered

    def _refused(self, error: PredictionRefused) -> web.Response:
        self._exposition.predictions["refused"] += 1
        return refusal(error)

    # the Open Inference Protocol ------------------------------------------------------------------

    async def _server(self, request: web.Request) -> web.Response:
        known = {"name": DISTRIBUTION, "version": version(DISTRIBUTION), "extensions": []}
        return web.json_response(known)

    async def _live(self, request: web.Request) -> web.Response:
        return web.json_response({"live": True})

    async def _ready(self, request: web.Request) -> web.Response:
        able = self._predictor.able
        return web.json_response({"ready": able}, status=200 if able else 503)

    async def _model_ready(self, request: web.Request) -> web.Response:
        return _unknown(request) or await self._ready(request)

    async def _metadata(self, request: web.Request) -> web.Response:
        try:
            asked = await self._predictor.asked()
        except PredictionRefused as error:
            return refusal(error)
        shape = [-1] if asked.shape is None else [-1, *asked.shape]
        kind = "BYTES" if asked.shape is None else "FP32"
        known = {
            "name": MODEL,
            "platform": "pytorch",
            "inputs": [{"name": "input", "datatype": kind, "shape": shape}],
            "outputs": [
                {"name": "answer", "datatype": "BYTES", "shape": [-1]},
                {"name": "output", "datatype": "FP32", "shape": [-1, -1]},
            ],
        }
        return _unknown(request) or web.json_response(known)

    async def _infer(self, request: web.Request) -> web.Response:
        unknown = _unknown(request)
        if unknown is not None:
            return unknown
        try:
            body = await request.read()
            raw, wanted, identity = await asyncio.to_thread(inputs.tensors, body)
            answered = await self._answer(raw)
            outputs = _outputs(answered, wanted)
        except PredictionRefused as error:
            return self._refused(error)
        found = {"model_name": MODEL, "model_version": str(answered.samples), "outputs": outputs}
        return web.json_response(found if identity is None else found | {"id": identity})


def _outputs(answered: Answered, wanted: list[str] | None) -> list[dict[str, object]]:
    """The tensors that are wanted. Raises PredictionRefused for one that is not there."""
    texts = [json.dumps(answer) for answer in answered.answers]
    known: dict[str, dict[str, object]] = {
        "answer": {"datatype": "BYTES", "shape": [len(texts)], "data": texts}
    }
    if answered.outputs is not None and bool(answered.outputs.isfinite().all()):
        numbers = answered.outputs.float()
        known["output"] = {
            "datatype": "FP32",
            "shape": list(numbers.shape),
            "data": numbers.flatten().tolist(),
        }
    missing = set(wanted or ()) - set(known)
    if missing:
        raise PredictionRefused(f"outputs are {', '.join(known)}, not {', '.join(sorted(missing))}")
    return [{"name": name} | known[name] for name in wanted or known]


def _get(path: str, about: str, answer: Handler) -> Route:
    return Route(method="GET", path=path, about=about, answer=answer)


def _unknown(request: web.Request) -> web.Response | None:
    name = request.match_info["name"]
    return None if name == MODEL else refusal(f"there is no model {name!r}, only {MODEL!r}", 404)
