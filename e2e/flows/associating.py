"""Questions by SCTP. Most kernels have no sockets of it loaded, so the first packet of an association has to do.

It is made by hand, and every host listens for it. Asked one after the other: what is heard is whose question it was.
"""

import contextlib
import select
import socket
import time
from collections.abc import Iterator
from typing import Final

from e2e import sctp
from e2e.flows.answering import mismatch
from e2e.flows.ground import Ground
from e2e.flows.questions import Question
from e2e.flows.watching import Watch
from tests.effort import patience_s

_PACKETS: Final = 24
_LIMIT_S: Final = patience_s(4.0)
_HEARERS: Final = ("a", "b", "c", "d", "r1", "r2", "r3", "node", "remote")


def answered(ground: Ground, watch: Watch, question: Question) -> list[str]:
    """Send packets until every endpoint must have got one. Return what is wrong."""
    asker = ground.hosts[question.asker]
    with _listening(ground, question) as listeners:
        for _ in range(_PACKETS):
            sctp.send(asker, question.address, sctp.association(watch.port(), question.port))
        heard: set[str] = set()
        count, deadline_s = 0, time.monotonic() + _LIMIT_S
        while count < _PACKETS and time.monotonic() < deadline_s:
            ready, _, _ = select.select(list(listeners), [], [], deadline_s - time.monotonic())
            for listener in ready:
                name = listeners[listener]
                packet = sctp.hear(listener, within_s=1)
                count += 1
                heard.add(name)
                if complaint := mismatch(ground, question, name, packet.source):
                    return [f"{question}: {complaint}"]
    if count < _PACKETS:
        return [f"{question}: {_PACKETS - count} of {_PACKETS} packets reached nobody"]
    if silent := {*question.flow.endpoints} - heard:
        return [f"{question}: {', '.join(sorted(silent))} never got any of {_PACKETS} packets"]
    return []


def unanswered(ground: Ground, watch: Watch, question: Question) -> list[int]:
    """Send one packet. Return its source port, for the watch to judge."""
    port = watch.port()
    with contextlib.suppress(PermissionError):
        sctp.send(
            ground.hosts[question.asker], question.address, sctp.association(port, question.port)
        )
    return [port]


@contextlib.contextmanager
def _listening(ground: Ground, question: Question) -> Iterator[dict[socket.socket, str]]:
    family = socket.AF_INET6 if question.family == "IPv6" else socket.AF_INET
    with contextlib.ExitStack() as opened:
        yield {
            opened.enter_context(sctp.listener(ground.hosts[name], family)): name
            for name in _HEARERS
            # its own packets a host would hear on the way out, if they came back over loopback
            if ground.hosts[name] is not ground.hosts[question.asker]
            or name in question.flow.endpoints
        }
