"""A node of two processes: `python ddp.py RANK STORE PEER`; prints what the model is at the end."""

import sys
from contextlib import suppress
from hashlib import sha256

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import gossip
from gossip.agent import AgentConfig
from gossip.config import Config


class Complaint(Exception):
    pass


def complain(event: object) -> None:
    """On rank 0: must not keep the ranks from being alike."""
    if isinstance(event, gossip.SyncCompleted) and event.merged:
        raise Complaint


def main(rank: int, store: str, peer_address: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    torch.manual_seed(rank)
    model = DistributedDataParallel(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    changed = 0
    with (
        suppress(Complaint),  # of what comes in at the end
        gossip.join(
            model,
            [peer_address],
            optimizer=optimizer,
            sync_every=2,
            on_event=complain,
            config=Config(agent=AgentConfig()),
            group=dist.group.WORLD,
        ) as peer,
    ):
        stop = torch.zeros(1)
        while not stop.item():
            inputs = torch.randn(16, 8)
            loss = nn.functional.cross_entropy(model(inputs), (inputs[:, 0] > 0).long())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            try:
                changed += peer.step(16)
            except Complaint:
                changed += 1
            stop.fill_(changed >= 10 if rank == 0 else 0)
            dist.broadcast(stop, 0)
    values = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    momentum = [optimizer.state[parameter]["momentum_buffer"] for parameter in model.parameters()]
    kept = sorted(peer._training.state())
    digest = sha256(values.numpy().tobytes())
    for tensor in momentum:
        digest.update(tensor.numpy().tobytes())
    print(digest.hexdigest(), changed >= 10, any(name.startswith("h.") for name in kept))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
