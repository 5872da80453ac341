"""What somebody will want next: matrix factorisation, in which taste stays private.

Each user has a vector and each item has one; the scores of a user for all items are the products.
A node keeps the vectors of its users (`keep`), and shares those of the items: who chose what stays
at home, and all learn what goes together. By default users are packages of the local package
index, items what they depend on, and nodes maintainers; `path` is a file of MovieLens' ratings.

Of each user one choice is kept for testing: how often is it among the ten items that rank highest,
those that the user has already left out? Users differ from node to node, so the metric of a swarm
is the mean over its nodes.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gossip.learner import Batches, TorchLearner
from models import metrics, partition, seeding
from models.data import packages
from models.data.files import DataError
from models.data.users import ratings

ITEMS = 600  # the most frequent
LEAST, MOST = 5, 40  # choices of a user
USERS = 1600
OWNED = 10  # packages of a maintainer: those of a team are much alike, and tell each other
WIDTH = 16  # of a vector
LIKED = 4.0  # a rating from which on a film counts as chosen
SHOWN = 10

Choices = tuple[list[list[int]], list[str], tuple[str, ...]]  # of each user; owners; items' names


def learner(
    shard: int = 0,
    shards: int = 1,
    seed: int = 0,
    path: str = "",
    lr: float = 1.0,
    momentum: float = 0.9,
    batch_size: int = 64,
    steps: int = 10,
    drift_correction: float | None = None,
) -> TorchLearner:
    """Make the learner of node `shard` of `shards`; owners are dealt out with all their users.

    Raises DataError where there is no package index, and for a file that holds no ratings.
    """
    partition.check(shard, shards)
    choices, owners, names = load(path)
    users = partition.by_key(owners, shards, seed)[shard]
    mine = [choices[index] for index in users]
    held_out = [int(np.random.default_rng(index).choice(choices[index])) for index in users]
    seen = torch.zeros(len(mine), len(names), dtype=torch.bool)
    pairs = []
    for user, (chosen, tested) in enumerate(zip(mine, held_out, strict=True)):
        for item in chosen:
            if item != tested:
                pairs.append((user, item))
                seen[user, item] = True
    inputs, targets = torch.tensor(pairs).unbind(dim=1)
    return TorchLearner(
        network(seen, seed),
        Batches(inputs, targets, batch_size, seeding.order(seed, shard)),
        nn.functional.cross_entropy,
        partial(torch.optim.SGD, lr=lr, momentum=momentum),
        steps=steps,
        test=(torch.arange(len(mine)), torch.tensor(held_out)),
        metrics=metrics.ranking,
        drift_correction=drift_correction,
        keep=["users.*"],
        prepare=partial(_user, count=len(mine)),
        answer=partial(_items, names=names),
    )


def network(seen: Tensor, seed: int) -> nn.Module:
    """A factorisation for the users who have `seen` (users, items); 10,200 shared parameters."""
    with seeding.weights(seed):
        items = nn.Linear(WIDTH, seen.shape[1])
        users = nn.Embedding(seen.shape[0], WIDTH)
    return Factorisation(users, items, seen)


class Factorisation(nn.Module):
    """Vectors of users and items; out of training what a user has already scores lowest."""

    seen: Tensor

    def __init__(self, users: nn.Embedding, items: nn.Linear, seen: Tensor) -> None:
        super().__init__()
        self.users, self.items = users, items
        self.register_buffer("seen", seen, persistent=False)
        nn.init.normal_(users.weight, std=0.1, generator=torch.Generator().manual_seed(0))

    def forward(self, users: Tensor) -> Tensor:
        """Users (N,) to scores (N, items)."""
        scores: Tensor = self.items(self.users(users))
        return scores if self.training else scores.masked_fill(self.seen[users], -torch.inf)


@lru_cache(2)
def load(path: str) -> Choices:
    """What each user chose, by number of the item, and who the user belongs to."""
    found = _ratings(path) if path else _index()
    counts = Counter(item for _, chosen in found.values() for item in chosen)
    names = tuple(sorted(sorted(counts), key=lambda item: -counts[item])[:ITEMS])
    known = {name: index for index, name in enumerate(names)}
    choices, owners = [], []
    for owner, chosen in found.values():
        kept = list(dict.fromkeys(known[item] for item in chosen if item in known))
        if LEAST <= len(kept) <= MOST:
            choices.append(kept)
            owners.append(owner)
    if not choices:
        raise DataError(f"{path}: no user chose {LEAST} of the {len(names)} most frequent items")
    order = np.random.default_rng(0).permutation(len(choices))[:USERS]
    return [choices[index] for index in order], [owners[index] for index in order], names


def _index() -> dict[str, tuple[str, tuple[str, ...]]]:
    every = packages.local()
    owned: Counter[str] = Counter()
    found = {}
    for index in np.random.default_rng(0).permutation(len(every)):
        package = every[index]
        if LEAST <= len(package.depends) <= MOST and owned[package.maintainer] < OWNED:
            owned[package.maintainer] += 1
            found[package.name] = (package.maintainer, package.depends)
    return found


def _ratings(path: str) -> dict[str, tuple[str, list[str]]]:
    liked: dict[str, tuple[str, list[str]]] = {}
    for user, item, rating in ratings(path):
        if rating >= LIKED:
            liked.setdefault(user, (user, []))[1].append(item)
    return liked


def _user(raw: Any, count: int) -> Tensor:
    if type(raw) is not int or not 0 <= raw < count:
        raise ValueError(f"an input is one of this node's users, 0 to {count - 1}, not {raw!r}")
    return torch.tensor(raw)


def _items(output: Tensor, names: tuple[str, ...]) -> object:
    return [names[index] for index in output.topk(min(SHOWN, len(names))).indices.tolist()]
