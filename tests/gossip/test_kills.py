"""A node that is killed at any instant, time and again, goes on from what it had saved."""

from __future__ import annotations

import random
import signal
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from gossip import checkpoint
from gossip.audit import DIRECTORY, check
from gossip.checkpoint import NAME
from p2p import PeerId
from p2p.identity import load
from tests.lives import Lives, Womb

# A checkpoint after the other, so that many kills fall into one that is being written.
ALWAYS_SAVING = "checkpoint_every = 0.001\nevaluate_every = 0.5\nlan = false\n"
WIDTH = 20_000  # of the model; a checkpoint has 0.5 MB
LEFT = {f"{name}{ending}" for name in (NAME, "peers.json", "api.json") for ending in ("", ".new")}
LEFT |= {f"{NAME}.part", f"{NAME}.previous", "identity.key", "lock", DIRECTORY}


def saved(state_dir: Path) -> int:
    """What the last complete checkpoint says; 0 if there is none."""
    found = checkpoint.load(state_dir / NAME)
    return 0 if found is None else int(found.metadata["samples"])


class Story:
    """What is known about a state directory from one life to the next."""

    def __init__(self, node: Lives) -> None:
        self.node = node
        self.who: PeerId | None = None
        self.samples = 0
        self.torn = 0  # kills in the middle of a checkpoint
        self.early = 0  # kills before the node was up

    def live(self, rng: random.Random) -> None:
        """One life, of random length."""
        self.node.begin()
        if rng.random() < 0.25:
            self.early += 1
            time.sleep(
                rng.uniform(0, 0.5)
            )  # it may be anywhere between its start and the first save
        else:
            status = self.node.status()
            assert status["samples"] >= self.samples, "it goes on where its checkpoint was"
            assert self.who in (None, PeerId.parse(status["id"]))
            time.sleep(rng.uniform(0, 0.3))
        self.node.end()
        self.look()

    def look(self) -> None:
        """What a kill has left."""
        home = self.node.state_dir
        key = home / "identity.key"
        if key.exists():
            found = load(key).id
            assert self.who in (None, found)
            self.who = found
        samples = saved(home)
        assert samples >= self.samples, "what was saved stays saved"
        self.samples = samples
        names = {path.name for path in home.iterdir()} if home.exists() else set()
        half = {name for name in names if name.startswith(".identity.key.")}
        assert names - half <= LEFT
        assert len(half) <= 1
        self.torn += bool(names & {f"{NAME}.part", f"{NAME}.new"})


def killed(home: Path, stack: ExitStack, seed: int, kills: int, lives: int) -> list[Story]:
    """Kill a node so many times; after each `lives` it begins with an empty state directory."""
    womb = Womb(home)
    stack.callback(womb.close)
    (home / "node.toml").write_text(ALWAYS_SAVING)
    steady = Lives(
        home, "steady", womb, "--option", f"width={WIDTH}", "--config", home / "node.toml"
    )
    steady.begin()
    rng, stories = random.Random(seed), []
    arguments = ["--option", f"width={WIDTH}", "--option", "pause=0.001", "--join", steady.address]
    for number in range(kills // lives):
        name = f"node{number}"
        story = Story(Lives(home, name, womb, "--config", home / "node.toml", *arguments))
        for _ in range(lives):
            story.live(rng)
        story.node.begin()
        assert story.node.status()["samples"] >= story.samples
        story.node.goes_on()
        story.node.end(signal.SIGTERM)
        story.look()
        assert check(story.node.state_dir / DIRECTORY, story.who).lines > lives
        assert "Traceback" not in story.node.said
        assert "cannot be used" not in story.node.said, "no checkpoint was ever damaged"
        stories.append(story)
    assert steady.status()["exchanges"] > 0
    return stories


def test_a_node_that_is_killed_a_few_times_goes_on_each_time(tmp_path: Path) -> None:
    with ExitStack() as stack:
        (story,) = killed(tmp_path, stack, seed=1, kills=6, lives=6)
    assert story.samples > 0


@pytest.mark.slow
def test_a_node_that_is_killed_two_hundred_times_goes_on_each_time(tmp_path: Path) -> None:
    with ExitStack() as stack:
        stories = killed(tmp_path, stack, seed=2, kills=200, lives=20)
    assert sum(story.torn for story in stories) >= 20, "a good part fell into a checkpoint"
    assert all(story.samples > 0 for story in stories)
    print(f"{sum(s.torn for s in stories)} torn, {sum(s.early for s in stories)} early")
