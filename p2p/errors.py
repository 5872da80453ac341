"""What can go wrong in `p2p` that a caller may want to catch.

P2PError
├── IdentityError   an identity or a state directory that cannot be used
├── InvitationError an invitation that lets nobody in
├── PortInUse       an address on which another process listens
├── UnknownPeer     you named a peer that is not a neighbour
└── WireError       bytes that are not a message; never leaves `receive`
    └── UnknownMessage  perhaps a newer version's
"""


class P2PError(Exception):
    """The root of this package's errors."""


class UnknownPeer(P2PError, LookupError):
    """The peer is not a neighbour (any more)."""


class WireError(P2PError, ValueError):
    """Bytes that do not decode to a message; the text says which rule they broke."""


class UnknownMessage(WireError):
    """A message that we do not have; one of a newer version, for all we know."""


class InvitationError(P2PError, ValueError):
    """An invitation that lets nobody in; the text says which rule it broke."""


class IdentityError(P2PError):
    """An identity or a state directory that cannot be used; the text names the remedy."""


class PortInUse(P2PError, OSError):
    """Another process listens at the address; the text names it and the remedy."""
