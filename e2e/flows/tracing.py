"""The way of one packet through the node's rules, for a question that failed: nft's own trace, switched on for it alone."""

import contextlib
import os
import select
import time
from collections.abc import Iterator
from typing import Final

from e2e.flows.ground import Ground
from e2e.flows.questions import Question
from e2e.namespace import TopologyError, reap
from tests.effort import patience_s

_TABLE: Final = "flows-trace"
_LIMIT_S: Final = patience_s(20.0)
_QUIET_S: Final = 0.2
_LINES: Final = 40


def path(ground: Ground, question: Question) -> list[str]:
    """Ask once more and return what the rules did with the first packet, at most so many lines."""
    try:
        with _traced(ground, question):
            return _heard(ground, question)
    except TopologyError as error:
        return [f"no trace: {error}"]


@contextlib.contextmanager
def _traced(ground: Ground, question: Question) -> Iterator[None]:
    node = ground.node.namespace
    family = "ip6" if question.family == "IPv6" else "ip"
    rule = (
        f"{family} daddr {question.address} meta l4proto {question.protocol.lower()}"
        f" th dport {question.port} meta nftrace set 1"
    )
    rules = f"""
        table inet {_TABLE} {{
            chain entering {{ type filter hook prerouting priority -350; policy accept; {rule}; }}
            chain sending {{ type filter hook output priority -350; policy accept; {rule}; }}
        }}
    """
    node.run(["nft", "-f", "-"], stdin=rules)
    try:
        yield
    finally:
        node.run(["nft", "delete", "table", "inet", _TABLE])


def _heard(ground: Ground, question: Question) -> list[str]:
    monitor = ground.node.namespace.popen(["nft", "monitor", "trace"])
    try:
        assert monitor.stdout is not None
        descriptor = monitor.stdout.fileno()
        text, deadline_s = b"", time.monotonic() + _LIMIT_S
        while time.monotonic() < deadline_s:
            # the monitor does not say when it begins to listen: ask until it has heard something
            if not text:
                _ask(ground, question)
            if select.select([descriptor], [], [], _QUIET_S)[0]:
                text += os.read(descriptor, 65536)
            elif text:
                break
    finally:
        reap(monitor)
    return _of_first_packet(text.decode(errors="replace").splitlines())


def _ask(ground: Ground, question: Question) -> None:
    if question.protocol == "SCTP":
        return
    with contextlib.suppress(OSError):
        ground.hosts[question.asker].ask(
            question.address, question.port, protocol=question.protocol.lower(), timeout_s=0.05
        )


def _of_first_packet(lines: list[str]) -> list[str]:
    """The lines of the packet that was traced first; each begins with `trace id NUMBER`."""
    ours = [line for line in lines if line.startswith("trace id") and " inet flows-" not in line]
    if not ours:
        return ["no trace: no rule of any table saw the packet"]
    first = ours[0].split()[2]
    path = [line.removeprefix(f"trace id {first} ") for line in ours if line.split()[2] == first]
    return path[:_LINES] + ([f"and {len(path) - _LINES} more"] if len(path) > _LINES else [])
