"""`gossip model`: out of a running node, into one, out of a stopped one, and what is refused."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import torch
from click.testing import Result
from safetensors.torch import load_file, save_file

from gossip.agent import AgentConfig
from gossip.config import Config
from gossip.host import Host
from gossip.model_file import SHA256
from gossip.vector import Layout
from tests.daemons import ROOT, here

LAYOUT = Layout(("w", "b"), ((4, 8), (4,)), ("float32", "float16"))


def config(state_dir: Path, **settings: Any) -> Config:
    return Config(
        agent=AgentConfig(adopt_ratio=float("inf")), state_dir=state_dir, lan=False, **settings
    )


def vector(value: float = 0.0) -> torch.Tensor:
    return torch.full((LAYOUT.size,), value)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


async def model(*arguments: object) -> Result:
    """The command, beside the node that it asks."""
    return await asyncio.to_thread(here, "model", *arguments)


def one_line(result: Result, code: int, *parts: str) -> None:
    assert (result.exit_code, result.stdout) == (code, "")
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("gossip: ")
    for part in parts:
        assert part in line


@asynccontextmanager
async def node(home: Path, value: float = 0.0, **settings: Any) -> AsyncIterator[Host]:
    async with Host(LAYOUT, vector(value), config(home, **settings)) as host:
        host.sync(vector(value), 64)
        yield host


def test_pull_writes_the_model_with_its_layers_and_where_it_comes_from(tmp_path: Path) -> None:
    async def check() -> None:
        file = tmp_path / "m.safetensors"
        async with node(tmp_path / "a", 1.5) as host:
            result = await model("pull", "--state-dir", tmp_path / "a", file, "--json")
        assert result.exit_code == 0
        told = json.loads(result.stdout)
        assert (told["layers"], told["parameters"], told["samples"]) == (2, LAYOUT.size, "64")
        assert (told["id"], told["layout"]) == (str(host.me.id), LAYOUT.hash.hex())
        found = load_file(file)
        assert torch.equal(found["w"], torch.full((4, 8), 1.5))
        assert torch.equal(found["b"], torch.full((4,), 1.5, dtype=torch.float16))
        assert sorted(os.listdir(tmp_path)) == ["a", file.name]

    run(check())


def test_what_is_pushed_is_handed_to_training_and_reaches_the_neighbours(tmp_path: Path) -> None:
    async def check() -> None:
        file = tmp_path / "m.safetensors"
        save_file({"b": torch.full((4,), 3.0).half(), "w": torch.full((4, 8), 2.0)}, file)
        expected = torch.cat([torch.full((32,), 2.0), torch.full((4,), 3.0)])
        async with node(tmp_path / "a") as a, node(tmp_path / "b", join=(str(a.me.address),)) as b:
            result = await model("push", "--state-dir", tmp_path / "a", file)
            assert result.exit_code == 0, result.stderr
            assert "is the node's model now" in result.stdout
            assert torch.equal(a.agent.x, expected)
            held = vector()  # training got on by 1 meanwhile
            held = a.sync(held + 1, 64).clone()
            assert torch.equal(held, expected + 1)
            mine, theirs = held, vector()
            for _ in range(3000):
                mine, theirs = a.sync(mine, 0).clone(), b.sync(theirs, 0).clone()
                if float((theirs - (expected + 1) / 2).abs().max()) < 0.01:
                    break
                await asyncio.sleep(0.005)
            assert torch.allclose(theirs, (expected + 1) / 2, atol=0.01), "the mean of the two"

    run(check())


def test_what_is_no_model_of_the_node_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    async def check() -> None:
        wrong, spoilt, text = (tmp_path / name for name in ("wrong", "spoilt", "text"))
        save_file({"w": torch.zeros(4, 9), "b": torch.zeros(4).half()}, wrong)
        save_file({"w": torch.full((4, 8), float("nan")), "b": torch.zeros(4).half()}, spoilt)
        text.write_text("no model")
        async with node(tmp_path / "a", 1.0) as host:
            push = ["push", "--state-dir", tmp_path / "a"]
            parts = ["another layout", "w is float32 [4, 8] here and float32 [4, 9] there"]
            one_line(await model(*push, wrong), 3, *parts)
            one_line(await model(*push, spoilt), 3, "'w' contain NaN")
            one_line(await model(*push, text), 3, str(text), "gossip model pull")
            one_line(await model(*push, tmp_path / "nothing"), 3, "cannot read", "nothing")
            assert torch.equal(host.agent.x, vector(1.0))

    run(check())


def test_bytes_that_are_not_what_their_hash_says_change_nothing(tmp_path: Path) -> None:
    async def check() -> None:
        file = tmp_path / "m"
        save_file({"w": torch.zeros(4, 8), "b": torch.zeros(4).half()}, file)
        good = file.read_bytes()
        digest = sha256(good).hexdigest()
        async with node(tmp_path / "a", 1.0) as host, aiohttp.ClientSession() as session:
            known = json.loads((tmp_path / "a" / "api.json").read_text())
            url = f"http://{known['address']}/api/v1/model"

            async def put(body: bytes, digest: str, token: str = known["token"]) -> tuple[int, str]:
                headers = {SHA256: digest, "Authorization": f"Bearer {token}"}
                async with session.put(url, data=body, headers=headers) as answer:
                    return answer.status, await answer.text()

            for body, part in (
                (good[:-1] + b"?", "damaged"),
                (good[:-1], "cut off"),
                (good[:20], "cut off"),
                (b"", "cut off"),
                (good + bytes(1 << 16), "longer"),
                (b"\xff" * 9, "safetensors"),
            ):
                code, text = await put(body, digest)
                assert code == 400
                assert part in json.loads(text)["error"]
            assert (await put(good, "", ""))[0] == 401
            assert torch.equal(host.agent.x, vector(1.0))
            assert (await put(good, digest))[0] == 200
            assert torch.equal(host.agent.x, vector())

    run(check())


def test_export_is_pull_of_a_node_that_has_stopped(tmp_path: Path) -> None:
    async def check() -> None:
        home, pulled, exported = tmp_path / "a", tmp_path / "pulled", tmp_path / "exported"
        async with node(home, 1.5):
            assert (await model("pull", "--state-dir", home, pulled)).exit_code == 0
        assert (await model("export", "--state-dir", home, exported)).exit_code == 0
        assert exported.read_bytes() == pulled.read_bytes()
        (home / "checkpoint.safetensors").rename(home / "checkpoint.safetensors.previous")
        result = await model("export", "--state-dir", home, exported)
        assert result.exit_code == 0
        assert "is missing; using" in result.stderr

    run(check())


def test_diff_compares_files_and_state_directories_layer_by_layer(tmp_path: Path) -> None:
    async def check() -> None:
        file = tmp_path / "m"
        save_file({"w": torch.full((4, 8), 1.0), "b": torch.full((4,), 3.0).half()}, file)
        async with node(tmp_path / "a", 1.0):
            pass
        result = await model("diff", file, tmp_path / "a", "--json")
        layers = {layer["layer"]: layer for layer in json.loads(result.stdout)["layers"]}
        assert layers["w"] == {"layer": "w", "largest": 0.0, "relative": 0.0}
        assert layers["b"]["largest"] == 2.0
        assert layers["b"]["relative"] == pytest.approx(2 / 3)
        for_people = await model("diff", file, tmp_path / "a")
        assert for_people.stdout.splitlines()[0].split() == ["layer", "largest", "relative"]
        assert len(for_people.stdout.splitlines()) == 3
        other = tmp_path / "other"
        save_file({"w": torch.zeros(1)}, other)
        one_line(await model("diff", file, other), 3, "'w' is [4, 8]", "only equal layouts")

    run(check())


def test_who_cannot_be_asked_and_what_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    async def check() -> None:
        file, empty = tmp_path / "m", tmp_path / "empty"
        empty.mkdir()
        save_file({"w": torch.zeros(1)}, file)
        one_line(await model("pull", "--state-dir", empty, file), 4, "no node runs with", "run")
        one_line(await model("push", "--state-dir", empty, file), 4, "no node runs with", "run")
        one_line(await model("export", "--state-dir", empty, file), 3, "there is no", "--state-dir")
        usage = await model("pull", file)
        assert usage.exit_code == 2
        assert "--state-dir DIR or --api H:P" in usage.stderr
        nowhere = tmp_path / "nowhere" / "m"
        async with node(tmp_path / "a"):
            pull = ["pull", "--state-dir", tmp_path / "a"]
            one_line(await model(*pull, nowhere), 3, "cannot write", str(nowhere), "another FILE")

    run(check())


def test_pull_and_push_do_not_load_pytorch(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from gossip.cli import main\n"
        "for verb in ('pull', 'push'):\n"
        "    try:\n"
        "        main(['model', verb, '--state-dir', sys.argv[1], sys.argv[2]])\n"
        "    except SystemExit as end:\n"
        "        assert not end.code, end.code\n"
        "assert 'torch' not in sys.modules\n"
    )

    async def check() -> None:
        async with node(tmp_path / "a"):
            command = [sys.executable, "-c", program, str(tmp_path / "a"), str(tmp_path / "m")]
            done = await asyncio.to_thread(
                subprocess.run,
                command,
                capture_output=True,
                text=True,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
            )
            assert done.returncode == 0, done.stderr

    run(check())
