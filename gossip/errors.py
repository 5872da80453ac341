"""What can go wrong in `gossip` that a caller may want to catch.

GossipError
├── CodecError        bytes that are not a compressed difference; never leaves `receive`
├── LayoutError       a model that cannot be a vector, or bytes that are not a layout
├── NotFinite         NaN or infinity in the model
├── NetworkLost       the network beside a training loop broke; never leaves `step`
├── ConfigError       settings that make no sense
├── AuditBroken       an audit log that is not as it was written
├── TargetError       a learner that cannot be found or made
├── ModelError        a file that is no model, or of another one
├── PredictionRefused  an input that cannot be answered
└── CheckpointError   a checkpoint that cannot be used
"""


class GossipError(Exception):
    """The root of this package's errors."""


class CodecError(GossipError, ValueError):
    """Bytes that do not decode to a difference; the text says which rule they broke."""


class LayoutError(GossipError, ValueError):
    """A model that cannot be one float32 vector, or bytes that are not a layout."""


class NotFinite(GossipError, ValueError):
    """NaN or infinity in a model; the text names the layer."""


class NetworkLost(GossipError):
    """The network beside a training loop broke; `__cause__` is what its thread raised."""


class ConfigError(GossipError, ValueError):
    """Settings that make no sense; the text names the value and the remedy."""


class AuditBroken(GossipError):
    """An audit log that is not as it was written; the text names the file and the line."""


class TargetError(GossipError):
    """A learner that cannot be found or made; the text names the target and the remedy."""


class CheckpointError(GossipError):
    """A checkpoint that cannot be used; the text names the file and the remedy."""


class ModelError(GossipError, ValueError):
    """A file that is no model, or not of the layout that is asked for; the text says which."""


class PredictionRefused(GossipError, ValueError):
    """An input that cannot be answered; the text says why."""
