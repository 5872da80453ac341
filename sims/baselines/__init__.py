"""The published algorithms, in the place of our agent: same swarm, same network, same codec."""

from sims.baselines.agent import BaselineAgent, RoundCompleted
from sims.baselines.algorithm import Algorithm, Place
from sims.baselines.pairs import ADPSGD, EdgeChoco, NoLoCo
from sims.baselines.push import ELLocal, ELOracle, PushSum
from sims.baselines.rounds import DPSGD, AllReduce, Choco

BASELINES: dict[str, type[Algorithm]] = {
    "isolated": Algorithm,
    "all-reduce": AllReduce,
    "d-psgd": DPSGD,
    "choco": Choco,
    "edge-choco": EdgeChoco,
    "ad-psgd": ADPSGD,
    "el-local": ELLocal,
    "el-oracle": ELOracle,
    "push-sum": PushSum,
    "noloco": NoLoCo,
}

__all__ = [
    "ADPSGD",
    "BASELINES",
    "DPSGD",
    "Algorithm",
    "AllReduce",
    "BaselineAgent",
    "Choco",
    "ELLocal",
    "ELOracle",
    "EdgeChoco",
    "NoLoCo",
    "Place",
    "PushSum",
    "RoundCompleted",
]
