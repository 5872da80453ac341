"""What can go wrong in `p2p` that a caller may want to catch.

P2PError
├── IdentityError   an identity or a state directory that cannot be used
├── PortInUse       an address on which another process listens
├── UnknownPeer     you named a peer that is not a neighbour
└── WireError       bytes that are not a message; never leaves `receive`
"""


class P2PError(Exception):
    """The root of this package's errors."""


class UnknownPeer(P2PError, LookupError):
    """The peer is not a neighbour (any more)."""


class WireError(P2PError, ValueError):
    """Bytes that do not decode to a message; the text says which rule they broke."""


class IdentityError(P2PError):
    """An identity or a state directory that cannot be used; the text names the remedy."""


class PortInUse(P2PError, OSError):
    """Another process listens at the address; the text names it and the remedy."""
