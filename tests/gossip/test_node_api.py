"""What a node answers in its local API: in this process, over real sockets."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from io import BytesIO
from pathlib import Path
from threading import Event
from typing import Any

import aiohttp
import numpy as np
import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families
from torch import Tensor, nn

from gossip.config import Config
from gossip.learner import TorchLearner
from gossip.node import Node

DOCS = Path(__file__).parents[2] / "docs"
PATIENCE = 30.0  # seconds; only a test that fails waits so long


def learner(
    wait: Callable[[], object] = lambda: time.sleep(0.005), **settings: Any
) -> TorchLearner:
    """A model of four numbers whose training goes at somebody's pace."""
    torch.manual_seed(0)
    inputs = torch.randn(64, 4)
    targets = (inputs[:, 0] > 0).long()

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs, targets)

    model = nn.Sequential(nn.Linear(4, 2), nn.Dropout(0.5))
    test = (inputs, targets)
    made = TorchLearner(model, [test], loss, test=test, steps=1, **settings)
    train = made.train

    def paced() -> int:
        wait()
        return train()

    made.train = paced  # type: ignore[method-assign]
    return made


class Asker:
    """Asks one node, with its token."""

    def __init__(self, node: Node, session: aiohttp.ClientSession) -> None:
        self.node, self._session = node, session

    async def __call__(
        self, path: str, body: bytes | None = None, media: str = "application/json"
    ) -> tuple[int, Any]:
        method = "GET" if body is None else "POST"
        headers = {"Content-Type": media} if body is not None else {}
        async with self._session.request(method, path, data=body, headers=headers) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if text.startswith(("{", "[")) else text

    def follow(self) -> Any:
        """The stream of events."""
        return self._session.ws_connect("/api/v1/events")


@asynccontextmanager
async def asking(home: Path, learner: Any, **settings: Any) -> AsyncIterator[Asker]:
    async with Node(learner, Config(state_dir=home, evaluate_every=0.05, **settings)) as node:
        known = json.loads((home / "api.json").read_text())
        headers = {"Authorization": f"Bearer {known['token']}"}
        async with aiohttp.ClientSession(f"http://{known['address']}", headers=headers) as session:
            yield Asker(node, session)


async def eventually(what: str, check: Callable[[], Awaitable[Any]]) -> Any:
    deadline = time.monotonic() + PATIENCE
    while not (found := await check()):
        assert time.monotonic() < deadline, f"not within {PATIENCE} s: {what}"
        await asyncio.sleep(0.02)
    return found


def names(text: str) -> set[str]:
    families = text_string_to_metric_families(text)
    return {sample.name for family in families for sample in family.samples}


def test_health_needs_no_token_and_tells_no_ids(tmp_path: Path) -> None:
    async def check() -> None:
        async with (
            asking(tmp_path, learner()) as ask,
            aiohttp.ClientSession(f"http://{ask.node.api_address}") as stranger,
        ):
            for path in ("/livez", "/readyz", "/metrics", "/"):
                async with stranger.get(path) as answer:
                    assert answer.status == 200, path
                    assert str(ask.node.me.id) not in await answer.text()
            async with stranger.get("/api/v1/status") as answer:
                assert answer.status == 401

    asyncio.run(check())


def test_metrics_are_what_prometheus_reads_and_what_the_documents_name(tmp_path: Path) -> None:
    async def check() -> None:
        async with (
            asking(tmp_path / "a", learner()) as one,
            asking(tmp_path / "b", learner(), join=(str(one.node.me.address),)),
        ):
            await eventually("an exchange", lambda: _true(one.node.agent.stats.exchanges > 0))
            await one("/api/v1/predict", b'{"inputs": [[0, 0, 0, 0]]}')
            _, text = await one("/metrics")
            found = names(text)
            samples = {
                (sample.name, *sample.labels.values()): sample.value
                for family in text_string_to_metric_families(text)
                for sample in family.samples
            }
            assert samples["gossip_neighbours",] == 1
            assert samples["gossip_exchanges_total",] > 0
            assert samples["gossip_predictions_total", "answered"] == 1
            assert samples["gossip_model_metric", "loss"] > 0
            for document in ("grafana.json", "alerts.yml"):
                told = (DOCS / document).read_text()
                named = set(re.findall(r"\b(?:gossip|process)_[a-z_]+", told))
                assert named, document
                assert named - found == set(), document

    asyncio.run(check())


async def _true(found: bool) -> bool:
    return found


def test_the_document_lists_every_route_and_nothing_else(tmp_path: Path) -> None:
    async def check() -> None:
        async with asking(tmp_path, learner()) as ask:
            _, document = await ask("/api/v1/openapi.json")
            listed = {
                (method.upper(), path)
                for path, operations in document["paths"].items()
                for method in operations
            }
            routes = [route for route in ask.node.routes if not route.page]
            expected = {(route.method, route.path) for route in routes}
            assert listed == expected | {("GET", "/api/v1/openapi.json")}
            free = {
                path
                for path, operations in document["paths"].items()
                if operations.get("get", {}).get("security") == []
            }
            assert free == {"/livez", "/readyz", "/metrics"}

    asyncio.run(check())


def test_what_it_tells_about_learning_and_security(tmp_path: Path) -> None:
    async def check() -> None:
        async with asking(tmp_path, learner()) as ask:
            history = await eventually("a moment", lambda: _moments(ask))
            assert set(history["metrics"]) == {"loss", "accuracy"}
            assert {len(column) for name, column in history.items() if name != "metrics"} == {
                len(history["time"])
            }
            assert (await ask("/api/v1/scores"))[1] == {"scores": [], "dropped": 0}
            assert (await ask("/api/v1/trust"))[1] == {"trust": {}}
            code, log = await ask("/api/v1/audit")
            assert (code, log["kept"]) == (200, True)
            assert "start" in [line["type"] for line in log["lines"]]
            code, verdict = await ask("/api/v1/audit/verification")
            assert (code, verdict["whole"], verdict["signer"]) == (200, True, str(ask.node.me.id))
            (line,) = (await ask("/api/v1/roster"))[1]["roster"]
            assert (line["id"], line["state"]) == (str(ask.node.me.id), "up")

    asyncio.run(check())


async def _moments(ask: Asker) -> Any:
    _, history = await ask("/api/v1/learning")
    return history if history["time"] else None


def test_who_follows_hears_of_a_neighbour_and_the_log_remembers_it(tmp_path: Path) -> None:
    async def check() -> None:
        async with asking(tmp_path / "a", learner()) as one, one.follow() as stream:
            async with asking(tmp_path / "b", learner(), join=(str(one.node.me.address),)):
                heard = []
                async with asyncio.timeout(PATIENCE):
                    while not {"peer_up", "log", "exchange_completed"} <= {
                        told["type"] for told in heard
                    }:
                        heard.append(await stream.receive_json())
            (up,) = [told for told in heard if told["type"] == "peer_up"]
            assert set(up["peer"]) == {"id", "address"}
            _, logs = await one("/api/v1/logs")
            assert any("linked with" in line["text"] for line in logs["lines"])

    asyncio.run(check())


def test_a_follower_does_not_keep_the_node_from_leaving(tmp_path: Path) -> None:
    async def check() -> float:
        async with asking(tmp_path, learner()) as ask:
            stream = await ask.follow()
            began = time.monotonic()
            assert not stream.closed
        return time.monotonic() - began

    assert asyncio.run(check()) < 5


# predictions --------------------------------------------------------------------------------------

INPUTS = [[1.0, 0.0, 0.0, 0.0], [0.0, 2.0, -1.0, 0.5], [9.0, 9.0, 9.0, 9.0]]


def test_json_npy_and_the_inference_protocol_give_what_the_merged_model_gives(
    tmp_path: Path,
) -> None:
    stop, stopped, go_on = Event(), Event(), Event()

    def wait() -> None:
        if stop.is_set():
            stopped.set()
            go_on.wait(PATIENCE)

    async def check() -> None:
        async with asking(tmp_path, learner(wait)) as ask:
            assert (await ask("/api/v1/predict", b'{"inputs": [[1, 2, 3, 4]]}'))[0] == 200
            stop.set()  # from here on a round of training lasts, and no answer waits for it
            try:
                await asyncio.to_thread(stopped.wait, PATIENCE)
                ask.node.agent.replace(torch.arange(10.0))
                await _answers_with(ask, torch.arange(10.0))
            finally:
                go_on.set()

    asyncio.run(check())


async def _answers_with(ask: Asker, x: Tensor) -> None:
    weight, bias = x[:8].reshape(2, 4), x[8:]
    expected = (torch.tensor(INPUTS) @ weight.T + bias).tolist()
    code, found = await ask("/api/v1/predict", json.dumps({"inputs": INPUTS}).encode())
    assert code == 200, found
    assert found["predictions"] == expected  # in evaluation mode: nothing was dropped out
    array = BytesIO()
    np.save(array, np.array(INPUTS, dtype=np.float32))
    _, again = await ask("/api/v1/predict", array.getvalue(), "application/x-npy")
    assert again["predictions"] == expected
    tensor = {"name": "input", "shape": [3, 4], "datatype": "FP32", "data": INPUTS}
    body = json.dumps({"id": "7", "inputs": [tensor]}).encode()
    code, inferred = await ask("/v2/models/model/infer", body)
    assert (code, inferred["id"], inferred["model_name"]) == (200, "7", "model")
    outputs = {output["name"]: output for output in inferred["outputs"]}
    assert outputs["output"]["shape"] == [3, 2]
    assert outputs["output"]["data"] == [value for row in expected for value in row]
    assert [json.loads(text) for text in outputs["answer"]["data"]] == expected


def test_training_goes_on_while_it_answers(tmp_path: Path) -> None:
    async def check() -> None:
        async with asking(tmp_path, learner()) as ask:
            before = ask.node.agent.stats.rounds
            for _ in range(20):
                assert (await ask("/api/v1/predict", b'{"inputs": [[1, 2, 3, 4]]}'))[0] == 200
            await eventually("rounds", lambda: _true(ask.node.agent.stats.rounds > before + 3))

    asyncio.run(check())


def test_a_head_of_ones_own_answers_too(tmp_path: Path) -> None:
    async def check() -> None:
        made = learner(keep=["0.bias"])
        async with asking(tmp_path, made) as ask:
            await eventually("rounds", lambda: _true(ask.node.agent.stats.rounds > 3))
            await ask.node._stop_training()
            code, found = await ask("/api/v1/predict", b'{"inputs": [[0, 0, 0, 0]]}')
            assert code == 200
            bias = made.model[0].bias.tolist()  # type: ignore[index]
            assert found["predictions"] == [bias]

    asyncio.run(check())


@pytest.mark.parametrize(
    ("path", "body", "code", "reason"),
    [
        ("/api/v1/predict", b"{}", 400, "inputs"),
        ("/api/v1/predict", b'{"inputs": []}', 400, "1 to 4096 inputs"),
        ("/api/v1/predict", b'{"inputs": [[1, 2]]}', 400, "cannot be read"),
        ("/api/v1/predict", b'{"inputs": ["four"]}', 400, "cannot be read"),
        ("/api/v1/predict", b'{"inputs": [[1,2,3,4], [1]]}', 400, "cannot be read"),
        ("/v2/models/other/infer", b"{}", 404, "no model 'other'"),
        ("/v2/models/model/infer", b"{}", 400, "one tensor"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_the_reason(
    tmp_path: Path, path: str, body: bytes, code: int, reason: str
) -> None:
    async def check() -> None:
        async with asking(tmp_path, learner()) as ask:
            found, text = await ask(path, body)
            assert found == code
            assert reason in text["error"]
            assert (await ask("/api/v1/predict", b'{"inputs": [[1, 2, 3, 4]]}'))[0] == 200

    asyncio.run(check())


def test_the_inference_protocol_says_what_the_model_takes(tmp_path: Path) -> None:
    async def check() -> None:
        async with asking(tmp_path, learner()) as ask:
            assert (await ask("/v2"))[1]["name"] == "gossip-learning"
            for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/model/ready"):
                assert (await ask(path))[0] == 200
            (tensor,) = (await ask("/v2/models/model"))[1]["inputs"]
            assert tensor == {"name": "input", "datatype": "FP32", "shape": [-1, 4]}
            assert (await ask("/v2/models/other"))[0] == 404

    asyncio.run(check())
