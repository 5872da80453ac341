"""What stands in `deploy/`: it can be read, and its commands are commands.

Whether an engine takes it nothing here says.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import yaml

from gossip.cli import main
from gossip.target import load

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def read(name: str) -> list[Any]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def parsed(words: list[str]) -> dict[str, Any]:
    """The parameters of a command line of `gossip`, as the command itself reads them."""
    command = main.commands[words[0]]
    return command.make_context(words[0], words[1:]).params


def options(words: list[str]) -> dict[str, Any]:
    """Those of a node, whose learner has to exist."""
    assert words[0] == "run"
    given = parsed(words)
    load(given["target"])
    return given


def lines(name: str) -> Iterator[str]:
    """Commands in the comment at the head of a file."""
    for line in (DEPLOY / name).read_text().splitlines():
        if line.startswith("#     "):
            yield line.removeprefix("#     ")


def test_compose_runs_three_nodes_in_one_network() -> None:
    (found,) = read("compose.yaml")
    services = found["services"]
    nodes = {name: one for name, one in services.items() if name.startswith("node")}
    given = {name: options(one["command"]) for name, one in nodes.items()}
    assert [one["shard"] for one in given.values()] == [(0, 3), (1, 3), (2, 3)]
    assert {one["network_key"] for one in given.values()} == {(Path("/keys/network.key"),)}
    port = given["node0"]["listen"].rpartition(":")[2]
    for name, one in given.items():
        assert one["join"] == (() if name == "node0" else (f"node0:{port}",))
        volumes = [volume.split(":")[:2] for volume in nodes[name]["volumes"]]
        assert ["keys", "/keys"] in volumes
        assert str(one["state_dir"]) in [there for _, there in volumes]
        assert {volume for volume, _ in volumes} <= set(found["volumes"])
        program, command, *rest = nodes[name]["healthcheck"]["test"][1:]
        assert (program, parsed([command, *rest])["state_dir"]) == ("gossip", one["state_dir"])
    states = [one["volumes"][1] for one in nodes.values()]
    assert len(set(states)) == 3
    (build,) = {str(one["build"]): one["build"] for one in services.values()}.values()
    assert (DEPLOY / build["context"] / build["dockerfile"]).is_file()
    made = services["key"]["command"][0].partition("|| gossip ")[2].split()
    key = click.Context(main.commands["key"])
    assert main.commands["key"].get_command(key, made[1]) is not None  # type: ignore[attr-defined]
    assert Path(made[2]) == given["node0"]["network_key"][0]


def test_kubernetes_gives_each_pod_its_part_and_its_volume() -> None:
    service, stateful = read("kubernetes.yaml")
    spec = stateful["spec"]
    assert spec["serviceName"] == service["metadata"]["name"]
    labels = spec["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == spec["selector"]["matchLabels"] == labels
    pod = spec["template"]["spec"]
    (node,), (key,) = pod["containers"], pod["initContainers"]
    environment = {entry["name"] for entry in node["env"]}
    for index in range(spec["replicas"]):
        values = {"INDEX": str(index), "NAME": f"gossip-{index}"}
        assert set(values) == environment
        words = node["args"]
        for variable, value in values.items():
            words = [word.replace(f"$({variable})", value) for word in words]
        given = options(words)
        assert given["shard"] == (index, spec["replicas"])
    ports = {str(port["containerPort"]) for port in node["ports"]}
    assert ports == {given["listen"].rpartition(":")[2]}
    assert given["join"] == (
        f"{service['metadata']['name']}:{service['spec']['ports'][0]['port']}",
    )
    assert given["network_key"] == (Path(key["command"][-1]),)
    for probe in ("startupProbe", "livenessProbe"):
        program, *asked = node[probe]["exec"]["command"]
        assert (program, parsed(asked)["state_dir"]) == ("gossip", given["state_dir"])
    volumes = {volume["name"] for volume in pod["volumes"]}
    volumes |= {claim["metadata"]["name"] for claim in spec["volumeClaimTemplates"]}
    for container in (node, key):
        mounts = {mount["name"] for mount in container["volumeMounts"]}
        assert mounts <= volumes
        assert container["securityContext"]["readOnlyRootFilesystem"]


def test_the_image_is_made_of_what_is_there() -> None:
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", "")
    steps = [line.split(maxsplit=1) for line in text.splitlines() if line and line[0] != "#"]
    known = {"FROM", "WORKDIR", "COPY", "RUN", "USER", "EXPOSE", "STOPSIGNAL", "ENTRYPOINT", "CMD"}
    assert {step for step, _ in steps} <= known
    copied = [name for step, rest in steps if step == "COPY" for name in rest.split()[:-1]]
    assert all((ROOT / name).exists() for name in copied)
    let_in = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert {line[1:] for line in let_in if line.startswith("!")} == set(copied)
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert packages <= set(copied)
    assert json.loads(dict(steps)["ENTRYPOINT"]) == ["gossip"]
    ports = {port.partition("/")[0] for port in dict(steps)["EXPOSE"].split()}
    assert ports == {"7946"}


def test_each_says_that_nobody_has_tried_it() -> None:
    for name in ("Dockerfile", "compose.yaml", "kubernetes.yaml"):
        head = (DEPLOY / name).read_text().partition("\n\n")[0]
        assert "never" in head, name
        assert "at hand" in head, name
        assert any(lines(name)), name
