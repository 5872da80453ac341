"""I/O: tells systemd how the node is, where that is who started it (Type=notify; sd_notify(3)).

A datagram to the socket that $NOTIFY_SOCKET names; a leading @ stands for the abstract namespace.
"""

from __future__ import annotations

import logging
import os
import socket

log = logging.getLogger(__name__)
VARIABLE = "NOTIFY_SOCKET"


def tell(state: str) -> None:
    """Send `READY=1` or the like, if anybody has asked to be told; a failure is logged."""
    path = os.environ.get(VARIABLE, "")
    if not path:
        return
    address = f"\0{path[1:]}" if path.startswith("@") else path
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.setblocking(False)  # whoever does not listen holds nobody up
            sender.sendto(state.encode(), address)
    except OSError as error:
        log.warning("cannot tell %s=%s that %s: %s", VARIABLE, path, state, error.strerror)
