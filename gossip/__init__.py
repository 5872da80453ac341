"""Gossip learning: train one PyTorch model together with peers, without a server.

Names load on first use, so `import gossip` is quick and only what trains imports torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gossip.agent import Agent as Agent
    from gossip.agent import AgentConfig as AgentConfig
    from gossip.background import SyncCompleted as SyncCompleted
    from gossip.codec import CodecConfig as CodecConfig
    from gossip.config import Config as Config
    from gossip.embedding import join as join
    from gossip.errors import GossipError as GossipError
    from gossip.exchange import ExchangeConfig as ExchangeConfig
    from gossip.learner import Answering as Answering
    from gossip.learner import Batches as Batches
    from gossip.learner import Learner as Learner
    from gossip.learner import Resumable as Resumable
    from gossip.learner import TorchLearner as TorchLearner
    from gossip.member import Member as Member
    from gossip.member import NetworkEnded as NetworkEnded
    from gossip.node import Node as Node

_HOME = {
    "Agent": "agent",
    "AgentConfig": "agent",
    "Answering": "learner",
    "Batches": "learner",
    "CodecConfig": "codec",
    "Config": "config",
    "ExchangeConfig": "exchange",
    "GossipError": "errors",
    "Learner": "learner",
    "Member": "member",
    "NetworkEnded": "member",
    "Node": "node",
    "Resumable": "learner",
    "SyncCompleted": "background",
    "TorchLearner": "learner",
    "join": "embedding",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'gossip' has no attribute {name!r}")
    return getattr(import_module(f"gossip.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(_HOME)
