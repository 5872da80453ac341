"""What a half carries: the difference of the parameters, and now and then that of the buffers.

Top-k compares magnitudes, and a running variance of 40 beside weights of 0.03 would always win. So
the codec chooses among the parameters only, and the half of every `BUFFERS_EVERY`-th exchange holds
the buffers as well, densely at 8 bits:

    n not a multiple    the parameters' message
    n a multiple        varint, its length; the parameters' message; the buffers' message

A model without buffers has only the first kind. Both ends know n and the layout, so nothing needs
to be said; and exchange 0, the snapshot, covers everything.
"""

from __future__ import annotations

from torch import Tensor

from gossip.codec import CodecConfig, Patch, decode, encode
from gossip.integers import Reader, varint
from gossip.vector import Layout

BUFFERS = CodecConfig(density=1.0, bits=8)
# Exchanges; both ends must agree, so it is no setting. Running statistics follow their own node's
# data within a round or two, whatever they were set to, so precision is wasted on them. Measured on
# digits with two BatchNorms (6,186 parameters, 4 nodes, Dirichlet 0.3, one seed): accuracy 0.986
# with 8 and with 1, which needs 54 % more bytes; the nodes' statistics differ by 4.5 % and by 2 %.
BUFFERS_EVERY = 8


class Bodies:
    """How links write and read bodies. One object for whoever runs both ends may remember."""

    def write(
        self,
        layout: Layout,
        n: int,
        vector: Tensor,
        reference: Tensor | None,
        config: CodecConfig,
    ) -> tuple[bytes, Patch]:
        """The body of the n-th half: `vector - reference`; the patch is what `read` makes of it."""
        cut = layout.parameters

        def part(where: slice, config: CodecConfig) -> tuple[bytes, Patch]:
            return encode(vector[where], config, None if reference is None else reference[where])

        parameters, patch = part(slice(0, cut), config)
        if not _has_buffers(layout, n):
            return parameters, patch.padded(layout.size)
        buffers, rest = part(slice(cut, None), BUFFERS)
        return varint(len(parameters)) + parameters + buffers, patch.followed_by(rest)

    def read(self, layout: Layout, n: int, body: bytes) -> Patch:
        """Read the body of the n-th half; the patch is not to be written to.

        Raises only CodecError, whatever the bytes.
        """
        cut = layout.parameters
        if not _has_buffers(layout, n):
            return decode(body, cut).padded(layout.size)
        reader = Reader(body)
        parameters = decode(reader.take(reader.varint()), cut)
        return parameters.followed_by(decode(reader.rest(), layout.size - cut))


def _has_buffers(layout: Layout, n: int) -> bool:
    return layout.parameters < layout.size and n % BUFFERS_EVERY == 0
