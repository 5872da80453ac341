"""Which settings can change while a node runs, and which did.

What the others would need, links made anew or a port opened, is a restart.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from gossip.config import Config, dotted
from gossip.config_text import settings, toml
from gossip.origins import Keys

TOP = ("checkpoint_every", "evaluate_every", "log_level", "quiet")
AGENT = ("budget",)
ACCESS = ("mode", "allow", "admins")
LIVE: frozenset[Keys] = frozenset(
    [(name,) for name in TOP]
    + [("agent", name) for name in AGENT]
    + [("access", name) for name in ACCESS]
)


@dataclass(frozen=True, slots=True)
class Change:
    """A setting that is another one now."""

    keys: Keys
    before: Any
    after: Any

    @property
    def live(self) -> bool:
        """Whether it can change while the node runs."""
        return self.keys in LIVE

    def __str__(self) -> str:
        before, after = ("none" if it is None else toml(it) for it in (self.before, self.after))
        return f"{dotted(self.keys)}: {before} -> {after}"


def changes(before: Config, after: Config) -> list[Change]:
    """What differs, in the order of the settings."""
    old, new = dict(settings(before)), dict(settings(after))
    return [
        Change(keys, old.get(keys), new.get(keys))
        for keys in old | new  # a section that may be missing is in one of them only
        if old.get(keys) != new.get(keys)
    ]


def merged(running: Config, read: Config) -> Config:
    """What a running node has, with those of the settings that were read that can change."""
    return replace(
        running,
        agent=replace(running.agent, **_of(read.agent, AGENT)),
        access=replace(running.access, **_of(read.access, ACCESS)),
        **_of(read, TOP),
    )


def _of(config: Any, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(config, name) for name in names}
