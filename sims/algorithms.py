"""What nodes run, by name: our own agent or a published algorithm, each with its settings."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from functools import partial
from random import Random
from typing import Any

import torch

from gossip.codec import CodecConfig
from gossip.density import DensityConfig
from gossip.errors import ConfigError
from p2p import PeerId
from sims.baselines import BASELINES, Algorithm, Place
from sims.simulation import SimulationConfig

OURS = "shared-reference"


def with_algorithm(
    config: SimulationConfig, name: str, settings: Mapping[str, str]
) -> SimulationConfig:
    """The same simulation with another algorithm; `settings` are of the algorithm; ours takes those
    of a fixed codec (`density`, `bits`) or of the control law (`lag`, `least`, ...).

    Raises ConfigError: an unknown name or setting, or a value that is no number or out of range.
    """
    if name == OURS:
        exchange = config.agent.exchange
        kinds = (CodecConfig, DensityConfig)
        known = {field.name: type(field.default) for kind in kinds for field in fields(kind)}
        values = _numbers(name, known, settings)
        fixed = {key: values.pop(key) for key in ("density", "bits") if key in values}
        try:
            exchange = replace(
                exchange,
                codec=CodecConfig(**fixed) if fixed else None,
                density=replace(exchange.density, **values),
            )
        except ValueError as error:
            raise ConfigError(f"{name}: {error}") from None
        agent = replace(config.agent, exchange=exchange)
        return replace(config, agent=agent, baseline=None)
    if name not in BASELINES:
        raise ConfigError(f"there is no algorithm {name}; there are {OURS}, {', '.join(BASELINES)}")
    parameters = inspect.signature(BASELINES[name]).parameters.values()
    known = {each.name: type(each.default) for each in parameters if each.name != "place"}
    baseline: Callable[[Place], Algorithm] = partial(
        BASELINES[name], **_numbers(name, known, settings)
    )
    try:
        baseline(Place(PeerId(bytes(32)), torch.zeros(1), Random(0), list))
    except ValueError as error:
        raise ConfigError(f"{name}: {error}") from None
    return replace(config, baseline=baseline)


def _numbers(name: str, known: Mapping[str, type], settings: Mapping[str, str]) -> dict[str, Any]:
    values = {}
    for key, text in settings.items():
        if key not in known:
            there = f"there are {', '.join(known)}" if known else "it has none"
            raise ConfigError(f"{name} has no setting {key}; {there}")
        try:
            values[key] = known[key](text)
        except ValueError:
            raise ConfigError(f"{key}={text!r} of {name} is not a number") from None
    return values
