from pathlib import Path

import pytest

from gossip.errors import ConfigError
from sims.experiment import read
from sims.stage import stage
from sims.topology import KINDS, TopologyConfig, edges, neighbours


def degrees(kind: str, nodes: int, **settings: object) -> list[int]:
    found = edges(TopologyConfig(kind=kind, **settings), nodes, 7)  # type: ignore[arg-type]
    assert found is not None
    return [len(near) for near in neighbours(found, nodes)]


@pytest.mark.parametrize(
    ("kind", "nodes", "expected"),
    [
        ("ring", 6, [2] * 6),
        ("complete", 5, [4] * 5),
        ("star", 4, [3, 1, 1, 1]),
        ("torus", 12, [4] * 12),
        ("grid", 6, [2, 3, 2, 2, 3, 2]),
        ("regular", 10, [4] * 10),
        ("exponential", 16, [7] * 16),  # hops of 1, 2 and 4 either way, and 8, which is both
    ],
)
def test_a_graph_has_the_degrees_of_its_kind(kind: str, nodes: int, expected: list[int]) -> None:
    assert degrees(kind, nodes) == expected


@pytest.mark.parametrize("kind", ["random", "small-world", "regular"])
def test_the_same_seed_draws_the_same_graph_and_another_seed_another(kind: str) -> None:
    config = TopologyConfig(kind=kind)  # type: ignore[arg-type]
    first, again, other = (edges(config, 20, seed) for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("0 1\n1 2\n2 0\n", "graph.txt"),
        (
            '<graphml xmlns="http://graphml.graphdrawing.org/xmlns">'
            '<graph edgedefault="undirected">'
            '<node id="a"/><node id="b"/><node id="c"/><edge source="a" target="b"/>'
            '<edge source="b" target="c"/><edge source="c" target="a"/></graph></graphml>',
            "graph.graphml",
        ),
    ],
)
def test_a_graph_is_read_from_a_file(tmp_path: Path, text: str, name: str) -> None:
    (tmp_path / name).write_text(text)
    assert degrees("file", 3, file=tmp_path / name) == [2, 2, 2]


@pytest.mark.parametrize(
    ("settings", "nodes", "text"),
    [
        ({"kind": "ring", "degree": 3}, 6, "degree = 3 is for regular and small-world"),
        ({"kind": "regular", "degree": 3}, 7, "no graph of 7 nodes has 3 links at each"),
        ({"kind": "small-world", "degree": 3}, 9, "even degree"),
        ({"kind": "torus"}, 10, "take 9 or 12"),
        ({"kind": "random", "probability": 0.01}, 30, "none of 100 graphs was connected"),
        ({"kind": "file"}, 3, "needs file"),
    ],
)
def test_graphs_that_cannot_be_are_refused(
    settings: dict[str, object], nodes: int, text: str
) -> None:
    with pytest.raises(ValueError, match=text):  # a ConfigError is one
        edges(TopologyConfig(**settings), nodes, 0)  # type: ignore[arg-type]


def test_a_file_of_other_nodes_or_in_parts_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "graph.txt"
    file.write_text("0 1\n2 3\n")
    with pytest.raises(ConfigError, match="in parts: no path from node 0 to 2"):
        degrees("file", 4, file=file)
    with pytest.raises(ConfigError, match="has 4 nodes, the experiment 5"):
        degrees("file", 5, file=file)


@pytest.mark.parametrize("kind", ["ring", "star"])
def test_nodes_link_with_their_neighbours_in_the_graph_and_with_nobody_else(kind: str) -> None:
    changes = {"nodes": 6, "seconds": 20.0, "round_seconds": 2.0, "topology.kind": kind}
    changes |= {"options.steps": 1}
    simulation = stage(read("steady", changes, {}))
    simulation.run(15)
    simulation.crash(2)
    simulation.run(20)  # until the others know
    simulation.restart(2)
    simulation.run(20)
    index = {node.peer.id: node.index for node in simulation.nodes}
    found = [
        sorted(index[peer] for peer in node.agent.swarm.neighbours)
        for node in simulation.nodes
        if node.agent is not None
    ]
    links = edges(TopologyConfig(kind=kind), 6, 0)  # type: ignore[arg-type]
    assert links is not None
    assert found == neighbours(links, 6)
    assert simulation.report().exchanges > 20


def test_every_kind_has_a_name() -> None:
    assert {"overlay", "ring", "torus", "exponential", "file"} <= set(KINDS)
