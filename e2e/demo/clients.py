"""The load: each client asks over IPv4 and IPv6, from a process each, until the end."""

import contextlib
import time
from collections.abc import Mapping

from e2e.client import Answer, Conversation, Outcome, Timed, failure_of
from e2e.demo.slices import Pod
from e2e.demo.tally import Tally
from e2e.namespace import TopologyError
from e2e.topology import FAMILIES, Addresses, Family, Host

VIRTUAL = Addresses("10.96.0.80", "fd00:10:96::50")  # examples/demo/service.yaml
PORT = 80
RATE = 100.0  # connections begun per second, for each client and family
TIMEOUT_S = 10.0
_ATTEMPTS = 100


class Clients:
    """Four loads: two hosts, two families."""

    def __init__(self, hosts: Mapping[str, Host], tally: Tally) -> None:
        self._tally = tally
        self._loads = {
            client_name(name, family): host.load(
                VIRTUAL.of(family), PORT, rate=RATE, timeout_s=TIMEOUT_S
            )
            for name, host in hosts.items()
            for family in FAMILIES
        }
        self._counted = dict.fromkeys(self._loads, 0)

    @property
    def names(self) -> frozenset[str]:
        """Who asks, as the tally knows them."""
        return frozenset(self._loads)

    def count(self) -> None:
        """Take what has ended since the last time into the tally."""
        for name, load in self._loads.items():
            outcomes = load.outcomes()
            for timed in outcomes[self._counted[name] :]:
                self._tally.add(name, timed)
            self._counted[name] = len(outcomes)

    def stop(self) -> None:
        """Let the connections in flight end, and count them. Raises TopologyError if a load broke."""
        with contextlib.ExitStack() as ending:
            ending.callback(self.count)
            for load in self._loads.values():
                ending.callback(load.stop)


def converse_with(pod: Pod, hosts: Mapping[str, Host], tally: Tally) -> Conversation:
    """A connection through the service that is kept open and happens to have reached this pod.

    All that were needed for it are counted like any other. Raises TopologyError if none reached the pod.
    """
    name, host = next(iter(hosts.items()))
    for _ in range(_ATTEMPTS):
        started_s = time.monotonic()
        conversation: Conversation | None = None
        try:
            conversation = host.converse(VIRTUAL.v4, PORT, timeout_s=TIMEOUT_S)
            outcome: Outcome = conversation.ask()
        except OSError as error:
            outcome = failure_of(error)
        took_s = time.monotonic() - started_s
        tally.add(client_name(name, "IPv4"), Timed(started_s, took_s, outcome))
        if conversation is not None:
            if isinstance(outcome, Answer) and outcome.name == pod.name:
                return conversation
            conversation.close()
    raise TopologyError(f"{_ATTEMPTS} connections, and none reached {pod.name}")


def client_name(host: str, family: Family) -> str:
    """Who asks, as the tally knows it."""
    return f"{host} {family}"
