"""Where time goes, for whoever wants to know.

What takes long says what it is, `with span("encode"):`, and needs neither a clock nor a file for
that; so machines can say it as well. Mostly nobody listens. A span then costs 0.3 µs, measured
with `python -m timeit -s "from gossip.spans import unwatched" "with unwatched('x'): pass"`; an
exchange says four, and takes about a millisecond.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

Span = Callable[[str], AbstractContextManager[None]]

_NOTHING = nullcontext()


def unwatched(_: str) -> AbstractContextManager[None]:
    """Nobody wants to know."""
    return _NOTHING
