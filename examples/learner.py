"""A learner from scratch: gossip run examples/learner.py:learner --shard 0/2

All that a node asks of it is to read and replace the model as one vector, to train for a while, and
to say how good it is. No optimizer and no `TorchLearner`: least squares by hand.
"""

import torch
from torch import nn

from gossip.vector import flatten, layout, load


class LeastSquares:
    def __init__(self, inputs, targets, rate):
        self.model = nn.Linear(inputs.shape[1], 1)
        nn.init.zeros_(self.model.weight)  # all nodes start from the same weights
        nn.init.zeros_(self.model.bias)
        self.inputs, self.targets, self.rate = inputs, targets, rate
        self.layout = layout(self.model)

    def parameters(self):
        return flatten(self.model)

    def load(self, parameters):
        load(self.model, parameters)

    def train(self):
        for _ in range(10):
            self.loss().backward()
            with torch.no_grad():
                for parameter in self.model.parameters():
                    parameter -= self.rate * parameter.grad
                    parameter.grad = None
        return 10 * len(self.inputs)

    def evaluate(self):
        return {"loss": self.loss().item()}

    def loss(self):
        return (self.model(self.inputs) - self.targets).square().mean()


def learner(shard=0, shards=1, seed=0, rate=0.01):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(1000, 5, generator=generator)
    targets = inputs @ torch.arange(1.0, 6.0).view(5, 1) + 7
    return LeastSquares(inputs[shard::shards], targets[shard::shards], rate)
