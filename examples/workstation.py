"""A training loop on one of several workstations: python train.py --shard I [HOST:PORT ...]"""

import argparse
import logging
import time

import torch
from torch import nn

import gossip

parser = argparse.ArgumentParser()
parser.add_argument("--shard", type=int, default=0)
parser.add_argument("--shards", type=int, default=3)
parser.add_argument("--steps", type=int, default=100)
parser.add_argument("--key", action="append", default=[])
parser.add_argument("--listen", default="")
parser.add_argument("peers", nargs="*")
here = parser.parse_args()
logging.basicConfig(format="%(message)s")  # what is wrong with the network

torch.manual_seed(0)  # the same weights everywhere ...
model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 2))
points = torch.randn(7000, 20)
labels = (points[:, :10].norm(dim=1) > points[:, 10:].norm(dim=1)).long()
inputs, targets = (all_[1000 + here.shard :: here.shards] for all_ in (points, labels))
torch.manual_seed(here.shard)  # ... but another order
optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9)


def tell(event):
    if isinstance(event, gossip.SyncCompleted) or type(event).__name__ == "ExchangeCompleted":
        return
    print(f"{time.strftime('%H:%M:%S')} {type(event).__name__}", flush=True)


with gossip.join(
    model,
    here.peers,
    optimizer=optimizer,
    network_key=here.key,
    listen=here.listen,
    state_dir=f"state{here.shard}",
    on_event=tell,
) as peer:
    print("others may join", peer.address, flush=True)
    for step in range(here.steps):
        batch = torch.randint(len(inputs), (32,))
        loss = nn.functional.cross_entropy(model(inputs[batch]), targets[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        peer.step(len(batch))
        time.sleep(0.01)  # a real model takes its time
        if step % 1000 == 999:
            with torch.no_grad():
                right = (model(points[:1000]).argmax(1) == labels[:1000]).float().mean()
            count = len(peer.status()["peers"])
            print(f"step {step + 1}: accuracy {right:.3f}, {count} neighbours", flush=True)
