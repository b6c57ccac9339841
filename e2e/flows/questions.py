"""A flow written once → the questions it stands for: one for each client, frontend, port and family. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from e2e.flows.ground import NODE_ADDRESSES
from e2e.flows.objects import Frontend, Objects
from e2e.flows.scenario import FRONTENDS, Flow, ScenarioError
from e2e.topology import Family

_ANY_PROTOCOL: Final = ("TCP", "UDP")


@dataclass(frozen=True)
class Question:
    """One client asks one address and port, by one protocol; `asker` is the name of a host."""

    flow: Flow
    asker: str
    target: str
    address: str
    port: int
    protocol: str
    family: Family

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{self.asker} asks {self.target} {host}:{self.port}/{self.protocol}"

    @property
    def is_for_service(self) -> bool:
        """Whether it goes to a frontend, not to some host itself."""
        return self.target.partition("@")[0] in FRONTENDS

    @property
    def memory(self) -> tuple[str, str, str, Family]:
        """Whose memory of its endpoint a sticky flow is about."""
        return self.flow.sticky, self.asker, self.protocol, self.family


Job = Sequence[Question]
"""Questions that are asked one after the other, since the answers have to do with each other."""


def jobs(flows: Iterable[Flow], objects: Objects, known: frozenset[str]) -> list[Job]:
    """All that the flows of a step ask; `known` are the names of hosts. Raises ScenarioError if one asks nothing, or nonsense."""
    single: list[Job] = []
    together: dict[tuple[str, str, str, Family], list[Question]] = {}
    for flow in flows:
        for question in _asked(flow, objects, known):
            if flow.sticky:
                together.setdefault(question.memory, []).append(question)
            else:
                single.append([question])
    return [*single, *together.values()]


def _asked(flow: Flow, objects: Objects, known: frozenset[str]) -> list[Question]:
    for name in flow.endpoints:
        _known(name, known)
    asked = [
        question
        for asker in flow.askers
        for target in flow.targets
        for question in _of(flow, asker, target, objects, known)
    ]
    if not asked:
        raise ScenarioError(f"{flow.askers} → {flow.targets}: there is no such frontend")
    return asked


def _of(
    flow: Flow, asker: str, target: str, objects: Objects, known: frozenset[str]
) -> Iterator[Question]:
    """The questions of one client to one frontend."""
    host = _known(flow.endpoints[0] if asker == "self" else asker, known)
    for family in flow.families:
        for frontend in _frontends(flow, target, objects, family):
            if flow.protocol in ("", frontend.protocol):
                yield Question(
                    flow, host, target, frontend.address, frontend.port, frontend.protocol, family
                )


def _known(name: str, known: frozenset[str]) -> str:
    if name not in known:
        raise ScenarioError(f"nobody is called {name}; there are {', '.join(sorted(known))}")
    return name


def _frontends(flow: Flow, target: str, objects: Objects, family: Family) -> list[Frontend]:
    kind, _, where = target.partition("@")
    if kind not in FRONTENDS:
        if not isinstance(flow.port, int):
            raise ScenarioError(f"{target}: an address needs the number of a port")
        protocols = (flow.protocol,) if flow.protocol else _ANY_PROTOCOL
        address = objects.address(target, family)
        return [Frontend("", protocol, address, flow.port) for protocol in protocols]
    service = flow.service or objects.services[0]
    if where and (kind != "nodePort" or where not in NODE_ADDRESSES):
        raise ScenarioError(f"{target}: the node has no such address")
    if service not in objects.services:
        raise ScenarioError(f"there is no service {service}")
    node = NODE_ADDRESSES[where].of(family)
    reached = [
        each._replace(address=each.address or node)
        for each in objects.frontends(service, kind, family)
    ]
    if isinstance(flow.port, int) and reached:
        spoken = sorted({flow.protocol or each.protocol for each in reached})
        return [Frontend("", each, reached[0].address, flow.port) for each in spoken]
    if flow.port:
        return [each for each in reached if each.port_name == flow.port]
    ports = objects.ports(service)
    return [each for each in reached if (each.port_name, each.protocol) in ports]
