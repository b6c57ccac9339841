"""Health check node ports asked as load balancers ask, and whether each says what kube-proxy would say.

Answers follow what is programmed, so each is asked for until it is right, for a while. Headers and body are compared
in full: load balancers read the weight, people the rest.
"""

import contextlib
import http.client
import socket
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from e2e.flows.ground import NODE_ADDRESSES, Ground
from e2e.flows.objects import NAMESPACE, Objects
from e2e.flows.scenario import Check, ScenarioError
from e2e.flows.stage import Stage
from e2e.namespace import TopologyError
from e2e.topology import Family
from tests.effort import patience_s

_LIMIT_S: Final = patience_s(30.0)
"""Longer than until a port that was taken is tried again."""
_ANSWER_S: Final = patience_s(10.0)
_POLL_S: Final = patience_s(0.02)
_LAST_LINES: Final = 50
_BODY: Final = """{
\t"service": {
\t\t"namespace": "%s",
\t\t"name": "%s"
\t},
\t"localEndpoints": %d,
\t"serviceProxyHealthy": true
}"""


@dataclass(frozen=True)
class Asked:
    """One client asks one address of the node."""

    check: Check
    asker: str
    service: str
    address: str
    port: int
    family: Family

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{self.asker} asks the health check node port {host}:{self.port}"

    @property
    def wanted(self) -> str:
        """What must come back, as `said` writes it."""
        if self.check.status == "refused":
            return "refused"
        return _written(
            self.check.status,
            "application/json",
            "nosniff",
            str(self.check.endpoints),
            _BODY % (NAMESPACE, self.service, self.check.endpoints),
        )


def questions(check: Check, objects: Objects, known: frozenset[str]) -> list[Asked]:
    """All that a check asks; `known` are the names of hosts. Raises ScenarioError for what is not there."""
    service = check.service or objects.services[0]
    for name in {*check.askers} - known:
        raise ScenarioError(f"nobody is called {name}; there are {', '.join(sorted(known))}")
    for place in {*check.places} - NODE_ADDRESSES.keys():
        raise ScenarioError(f"the node has no address {place!r}")
    port = objects.health_check_node_port(service)
    return [
        Asked(check, asker, service, NODE_ADDRESSES[place].of(family), port, family)
        for asker in check.askers
        for place in check.places
        for family in check.families
    ]


def complaint(ground: Ground, asked: Asked) -> str:
    """Ask until what is said is right. Return what is wrong; nothing if all is well."""
    deadline_s = time.monotonic() + _LIMIT_S
    while (heard := said(ground, asked)) != asked.wanted:
        if time.monotonic() > deadline_s:
            return f"{asked}: must be {asked.wanted}, is {heard}"
        time.sleep(_POLL_S)
    return ""


def said(ground: Ground, asked: Asked) -> str:
    """What comes back, on one line."""
    with ground.hosts[asked.asker].entered():
        asking = http.client.HTTPConnection(asked.address, asked.port, timeout=_ANSWER_S)
        with contextlib.closing(asking):
            try:
                # load balancers send what they like, as a rule the address they were given
                asking.request("GET", "/healthz", headers={"Host": "lb.example.org"})
                answer = asking.getresponse()
                body = answer.read().decode()
            except ConnectionRefusedError:
                return "refused"
            except (OSError, http.client.HTTPException) as error:
                return repr(error)
    names = ("Content-Type", "X-Content-Type-Options", "X-Load-Balancing-Endpoint-Weight")
    return _written(answer.status, *[answer.headers.get(name, "") for name in names], body)


def _written(status: int, *parts: str) -> str:
    return " ".join([str(status), *parts]).translate({10: " ", 9: None})


@contextlib.contextmanager
def taken(stage: Stage, ports: Iterable[int]) -> Iterator[None]:
    """Another program on the node listens on these ports, until the daemon has noticed. Raises TopologyError."""
    with contextlib.ExitStack() as sockets:
        with stage.ground.node.entered():
            for port in ports:
                listening = socket.create_server(
                    ("::", port), family=socket.AF_INET6, dualstack_ipv6=True
                )
                sockets.enter_context(listening)
        yield
        for port in ports:
            _await_complaint(stage, port)


def _await_complaint(stage: Stage, port: int) -> None:
    """Wait until the daemon says that it cannot have a port. Raises TopologyError."""
    deadline_s = time.monotonic() + _LIMIT_S
    while not any(
        "cannot be answered" in line and f":{port}" in line for line in stage.log(_LAST_LINES)
    ):
        if time.monotonic() > deadline_s:
            raise TopologyError(f"the daemon does not mind that port {port} is taken")
        time.sleep(_POLL_S)
