"""Ports for servers that have to be told theirs before they start."""

import socket
from random import SystemRandom
from typing import Final

# Below those that a system hands out itself (Linux: from 32,768; IANA: from 49,152): such a one may
# be somebody's connection or server before ours has started.
_FROM: Final = 10_000
_BELOW: Final = 30_000
_RANDOM: Final = SystemRandom()


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody has now, and that nobody gets who asks for any."""
    while True:
        port = _RANDOM.randrange(_FROM, _BELOW)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
