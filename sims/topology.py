"""Who is linked with whom, where the overlay is not to decide.

`overlay` leaves it to the swarm, as in the product. All other kinds are graphs that are drawn
before the run and do not change; a link whose end is down comes back with it. An agent exchanges
with one neighbour at a time, in turn, so on the exponential graph (Ying et al., "Exponential Graph
is Provably Efficient", NeurIPS 2021) what runs is near its one-peer form: the hops 1, 2, 4, ... one
after another. Published algorithms that talk to all neighbours at once run on its static form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import isqrt, log
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from gossip.errors import ConfigError

if TYPE_CHECKING:
    import networkx

Kind = Literal[
    "overlay",
    "ring",
    "grid",
    "torus",
    "complete",
    "star",
    "regular",
    "random",
    "small-world",
    "exponential",
    "file",
]
KINDS: tuple[str, ...] = get_args(Kind)
DRAWS = 100  # of a random graph until one is connected
DEGREE = 4  # of regular and small-world graphs, if nothing is said
REWIRED = 0.1  # share of the links of a small world, if nothing is said

Edge = tuple[int, int]  # the smaller first


@dataclass(frozen=True, slots=True, kw_only=True)
class TopologyConfig:
    """Which graph."""

    kind: Kind = "overlay"
    """overlay: what HyParView makes, as real nodes do. random is Erdős and Rényi's."""

    degree: int = 0
    """Links of each node: regular (4), small-world (4, even). 0: that default."""

    probability: float = 0.0
    """random: that two nodes are linked (2 ln n / n, which is connected nearly always);
    small-world: that a link is rewired (0.1). 0: that default."""

    file: Path | None = None
    """file: one pair of node numbers a line, or GraphML if it ends in .graphml."""

    def __post_init__(self) -> None:
        for name, value, users in (
            ("degree", self.degree, ("regular", "small-world")),
            ("probability", self.probability, ("random", "small-world")),
            ("file", self.file, ("file",)),
        ):
            if value and self.kind not in users:
                raise ValueError(
                    f"{name} = {value} is for {' and '.join(users)}, and the kind is {self.kind}"
                )
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability is from 0 to 1, not {self.probability}")
        if self.degree < 0:
            raise ValueError(f"degree is at least 1, not {self.degree}")
        if self.kind == "file" and self.file is None:
            raise ValueError('kind = "file" needs file = "graph.txt" or "graph.graphml"')


def edges(config: TopologyConfig, nodes: int, seed: int) -> list[Edge] | None:
    """The links among nodes 0 to `nodes` - 1, in order; None where the overlay decides.

    Raises ConfigError: a graph that cannot be, is in parts, or is of other nodes.
    """
    match config.kind:
        case "overlay":
            return None
        case "ring":
            found = _pairs((i, (i + 1) % nodes) for i in range(nodes))
        case "complete":
            found = [(i, j) for j in range(nodes) for i in range(j)]
        case "star":
            found = [(0, i) for i in range(1, nodes)]
        case "exponential":
            hops = [2**k for k in range((nodes - 1).bit_length())]
            found = _pairs((i, (i + hop) % nodes) for i in range(nodes) for hop in hops)
        case "grid" | "torus":
            found = _lattice(nodes, around=config.kind == "torus")
        case "file":
            assert config.file is not None
            found = _read(config.file, nodes)
        case _:
            return _drawn(config, nodes, seed)
    _refuse_parts(found, nodes, config.kind)
    return found


def neighbours(links: Iterable[Edge], nodes: int) -> list[list[int]]:
    """The neighbours of each node, in order."""
    near: list[list[int]] = [[] for _ in range(nodes)]
    for a, b in links:
        near[a].append(b)
        near[b].append(a)
    return [sorted(each) for each in near]


def _pairs(raw: Iterable[tuple[int, int]]) -> list[Edge]:
    return sorted({(min(a, b), max(a, b)) for a, b in raw if a != b})


def _lattice(nodes: int, *, around: bool) -> list[Edge]:
    least = 3 if around else 2
    rows = next((r for r in range(isqrt(nodes), least - 1, -1) if nodes % r == 0), 0)
    if not rows:
        side = max(isqrt(nodes), least)
        raise ConfigError(
            f"{nodes} nodes are no rectangle of {least} rows or more: take {side * side} or "
            f"{side * (side + 1)}"
        )
    columns = nodes // rows
    steps = [(0, 1), (1, 0)]
    found = []
    for row in range(rows):
        for column in range(columns):
            for down, right in steps:
                y, x = row + down, column + right
                if around or (y < rows and x < columns):
                    found.append((row * columns + column, y % rows * columns + x % columns))
    return _pairs(found)


def _drawn(config: TopologyConfig, nodes: int, seed: int) -> list[Edge]:
    import networkx as nx

    degree, probability = config.degree or DEGREE, config.probability
    draw: Callable[[int], Any]
    match config.kind:
        case "regular":
            if degree >= nodes or degree * nodes % 2:
                raise ConfigError(
                    f"no graph of {nodes} nodes has {degree} links at each: the degree is below "
                    "the number of nodes, and one of the two is even"
                )
            what = f"every node has {degree} links"

            def draw(number: int) -> Any:
                return nx.random_regular_graph(degree, nodes, number)
        case "small-world":
            if degree >= nodes or degree % 2:
                raise ConfigError(
                    f"a small world of {nodes} nodes has an even degree below that, not {degree}"
                )
            rewired = probability or REWIRED
            what = f"each of {degree} links is rewired with probability {rewired}"

            def draw(number: int) -> Any:
                return nx.watts_strogatz_graph(nodes, degree, rewired, number)
        case _:
            linked = probability or min(1.0, 2 * log(nodes) / nodes)
            what = f"two of {nodes} nodes are linked with probability {linked:.3g}"

            def draw(number: int) -> Any:
                return nx.fast_gnp_random_graph(nodes, linked, number)

    for number in range(DRAWS):
        graph = draw((seed << 8) + number)
        if nx.is_connected(graph):
            return _pairs(graph.edges)
    raise ConfigError(
        f"where {what}, none of {DRAWS} graphs was connected: take more links (ln n / n = "
        f"{log(nodes) / nodes:.3g} is the least that makes sense)"
    )


def _read(path: Path, nodes: int) -> list[Edge]:
    import networkx as nx

    try:
        if path.suffix == ".graphml":
            graph = nx.Graph(nx.read_graphml(path))
        else:
            graph = nx.read_edgelist(path, data=False)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except Exception as error:  # what its parsers raise has no common root
        raise ConfigError(f"{path} is no graph: {error}") from None
    return _numbered(graph, path, nodes)


def _numbered(graph: networkx.Graph, path: Path, nodes: int) -> list[Edge]:
    """Nodes are numbered from 0 as in the file, or in the order of their names."""
    names = sorted(map(str, graph.nodes))
    if all(name.isdecimal() for name in names):
        number = {name: int(name) for name in names}
    else:
        number = {name: place for place, name in enumerate(names)}
    strange = [name for name in names if number[name] >= nodes]
    if strange or len(names) != nodes:
        example = f", and node {strange[0]} is none of 0 to {nodes - 1}" if strange else ""
        raise ConfigError(f"{path} has {len(names)} nodes, the experiment {nodes}{example}")
    return _pairs((number[str(a)], number[str(b)]) for a, b in graph.edges)


def _refuse_parts(links: list[Edge], nodes: int, kind: str) -> None:
    near = neighbours(links, nodes)
    reached, frontier = {0}, [0]
    while frontier:
        for other in near[frontier.pop()]:
            if other not in reached:
                reached.add(other)
                frontier.append(other)
    if len(reached) < nodes:
        lost = next(i for i in range(nodes) if i not in reached)
        raise ConfigError(
            f"the {kind} graph is in parts: no path from node 0 to {lost}, so they would never "
            "learn from each other"
        )
