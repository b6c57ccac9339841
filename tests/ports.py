"""Ports where a test may listen, or be sure that nobody does.

One that the kernel has chosen goes to whoever asks next, as soon as it is free again: also to a test that runs beside
this one. These lie where the kernel never chooses, and two processes hardly ever try the same one.
"""

import random
import socket
from typing import Final

_FIRST: Final = 10_300
_COUNT: Final = 20_000 - _FIRST
"""Below are the daemon's own, above those of nodes and those that the kernel chooses."""

_tried: int = random.SystemRandom().randrange(_COUNT)


def free_port(host: str = "127.0.0.1", kind: int = socket.SOCK_STREAM) -> int:
    """Return a port at which nobody listens, for no other caller in this process."""
    global _tried  # noqa: PLW0603 - the operating system's ports are as global
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    while True:
        _tried = (_tried + 1) % _COUNT
        with socket.socket(family, kind) as probe:
            try:
                probe.bind((host, _FIRST + _tried))
            except OSError:
                continue
            return _FIRST + _tried
