"""What a node tells of the others."""

from math import nan

from gossip.peers import everywhere


def test_a_metric_of_the_network_is_the_mean_of_those_that_measure_it() -> None:
    found = [{"accuracy": 0.5, "loss": 2.0}, {"accuracy": 0.7, "loss": nan}, {}]
    assert everywhere(found) == {"accuracy": 0.6, "loss": 2.0}
    assert everywhere([]) == {}
