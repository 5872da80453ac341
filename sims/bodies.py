"""Both ends of every link are here, so what one end has written need not be decoded by the other.

The patch that `write` returns is what `read` makes of the bytes, which the codec's tests hold for
all vectors; so it is kept until the bytes arrive, as the same bytes, and nothing else changes.
"""

from __future__ import annotations

from torch import Tensor

from gossip.body import Bodies
from gossip.codec import CodecConfig, Patch
from gossip.vector import Layout

HELD = 64 << 20  # bytes of patches whose bodies have not arrived; the oldest, probably lost, go

Key = tuple[bytes, int, bytes]  # layout, exchange, body


class RememberedBodies(Bodies):
    """Reads what it has written without decoding it."""

    def __init__(self) -> None:
        self._patches: dict[Key, Patch] = {}
        self._bytes = 0

    def write(
        self,
        layout: Layout,
        n: int,
        vector: Tensor,
        reference: Tensor | None,
        config: CodecConfig,
    ) -> tuple[bytes, Patch]:
        """Write, and remember the patch. Not a dense one: links make their references of those."""
        body, patch = super().write(layout, n, vector, reference, config)
        if patch.indices is not None:
            self._forget((layout.hash, n, body))
            self._patches[layout.hash, n, body] = patch
            self._bytes += _size(patch)
            while self._bytes > HELD:
                self._forget(next(iter(self._patches)))
        return body, patch

    def read(self, layout: Layout, n: int, body: bytes) -> Patch:
        """Remember, or decode. Remembered once: a body that arrives twice is decoded."""
        patch = self._patches.get((layout.hash, n, body))
        if patch is None:
            return super().read(layout, n, body)
        self._forget((layout.hash, n, body))
        return patch

    def _forget(self, key: Key) -> None:
        patch = self._patches.pop(key, None)
        if patch is not None:
            self._bytes -= _size(patch)


def _size(patch: Patch) -> int:
    """Bytes; (k,) indices and values of four each."""
    return 8 * patch.values.numel()
