"""Nodes that lie about what they learned.

An attack wraps the learner of a node, so a liar speaks the real protocol, whichever algorithm runs:
what it hands to its agent after a round is not what training made. What it is handed back it takes
over like everybody, so its lies stay near enough to the others' models to be believed.

    sign-flip    the opposite of its progress, `scale` times as far
    noise        its model under Gaussian noise of `scale` times the model's own spread
    label-flip   honest training on wrong labels: class c is taught as classes - 1 - c
    replay       the model of its round `scale`, again and again
    little       "a little is enough" (Baruch, Baruch, Goldberg, NeurIPS 2019, algorithm 3): the
                 mean of the honest models less `scale` standard deviations in each coordinate;
                 the liars know all models. 1.5 by default, as in the paper's experiments
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from random import Random

import torch
from torch import Tensor

from gossip.errors import ConfigError
from gossip.learner import Batch, Learner, TorchLearner
from gossip.vector import Layout
from sims.simulation import MakeLearner, Simulation

LOUDEST = 1e18  # a lie's coordinate: their sums stay finite, for the liar itself as well

Forge = Callable[[Tensor, Tensor], Tensor]  # from what was loaded last and what training made of it


class Liar:
    """A learner whose parameters are forged after each round."""

    def __init__(self, learner: Learner, forge: Forge) -> None:
        self._learner = learner
        self._forge = forge
        self._start = learner.parameters()
        self._said = self._start  # what `parameters` returns

    @property
    def layout(self) -> Layout:
        """The layout of the model."""
        return self._learner.layout

    @property
    def honest(self) -> Learner:
        """The learner under the lie."""
        return self._learner

    def parameters(self) -> Tensor:
        """What it wants others to believe, (n,)."""
        return self._said.clone()

    def load(self, parameters: Tensor) -> None:
        """Take over what the agent merged."""
        self._learner.load(parameters)
        self._start = parameters.clone()
        self._said = self._start

    def train(self) -> int:
        """Train, and forge the outcome."""
        samples = self._learner.train()
        self._said = self._forge(self._start, self._learner.parameters())
        self._said = self._said.clamp(-LOUDEST, LOUDEST)
        self._learner.load(self._said)
        self._start = self._said
        return samples

    def evaluate(self) -> dict[str, float]:
        """How good the lie is."""
        return self._learner.evaluate()


class WrongLabels:
    """Batches with class c called classes - 1 - c."""

    def __init__(self, batches: Iterable[Batch], classes: int) -> None:
        self._batches = batches
        self._classes = classes

    def __iter__(self) -> Iterator[Batch]:
        for inputs, targets in self._batches:
            yield inputs, self._classes - 1 - targets


def sign_flip(scale: float = 1.0) -> Forge:
    """The opposite of the progress."""
    return lambda start, trained: start - scale * (trained - start)


def noise(generator: torch.Generator, scale: float = 1.0) -> Forge:
    """The model, and noise as strong as `scale` times its spread."""
    return lambda start, trained: (
        trained
        + scale * trained.std(correction=0) * torch.randn(trained.shape, generator=generator)
    )


def replay(scale: float = 10) -> Forge:
    """The model of round `scale` for ever, which was right once."""
    kept: list[Tensor] = []

    def forge(start: Tensor, trained: Tensor) -> Tensor:
        if len(kept) < scale:
            kept.append(trained)
        return kept[-1]

    return forge


def little(honest: Callable[[], Sequence[Tensor]], scale: float = 1.5) -> Forge:
    """The mean of the honest models, less `scale` of their standard deviations."""

    def forge(start: Tensor, trained: Tensor) -> Tensor:
        models = torch.stack(list(honest()))
        return models.mean(dim=0) - scale * models.std(dim=0, correction=0)

    return forge


def liars(seed: int, nodes: int, share: float) -> list[int]:
    """Which of the nodes attack: the nearest number to that share, drawn at random.

    Raises ConfigError where nobody would be left.
    """
    count = round(share * nodes)
    if count >= nodes:
        raise ConfigError(f"with {share:.0%} attackers none of {nodes} nodes is honest: take fewer")
    return sorted(Random(f"liars {seed}").sample(range(nodes), count))


def hostile(
    name: str,
    make: MakeLearner,
    simulation: Simulation,
    index: int,
    scale: float | None = None,
) -> MakeLearner:
    """The same learner, attacking in the named way; for `Simulation.add(..., hostile=True)`.

    Args:
        index: of the node.
        scale: see the head of this module; None for the default.
    """

    def models() -> list[Tensor]:
        return [node.agent.x for node in simulation.live if not node.hostile and node.agent]

    def lying() -> Learner:
        match name:
            case "sign-flip":
                return Liar(make(), sign_flip(1.0 if scale is None else scale))
            case "noise":
                generator = torch.Generator().manual_seed((simulation.seed << 20) + index)
                return Liar(make(), noise(generator, 1.0 if scale is None else scale))
            case "label-flip":
                return _mistaught(make())
            case "replay":
                return Liar(make(), replay(10 if scale is None else scale))
            case "little":
                return Liar(make(), little(models, 1.5 if scale is None else scale))
        raise ValueError(f"there is no attack {name!r}")

    return lying


def _mistaught(learner: Learner) -> Learner:
    if not isinstance(learner, TorchLearner) or learner.test is None:
        raise ConfigError(
            "label-flip needs a TorchLearner with a test set, whose classes it counts"
        )
    learner.batches = WrongLabels(learner.batches, int(learner.test[1].max()) + 1)
    return learner
