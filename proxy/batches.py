"""In which order ServicePorts are programmed, and how many in one step. Pure."""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Final

from proxy.backend import Observed
from proxy.desired import DesiredPort
from proxy.model import PortKey

ENDPOINTS_AT_ONCE: Final = 2000
"""Endpoints programmed in one step: bounds how long the event loop is held, and how often the kernel looks at everything."""
_GOING: Final = 4
_REVERSED: Final = [int(f"{byte:08b}"[::-1], 2) for byte in range(256)]


def most_urgent_first(
    keys: Collection[PortKey], ports: Mapping[PortKey, DesiredPort]
) -> list[PortKey]:
    """Order everything: services that everything else needs come first, each with all its ports, and what goes comes last.

    Services that are as urgent as each other come by the lowest bits of their addresses: who finds them by these
    (`backends/iptables/tree.py`) writes each branch of a tree in few of the steps, not in all.
    """
    urgency: dict[tuple[str, str], int] = {}
    branches: dict[tuple[str, str], int] = {}
    for key in keys:
        service, port = key.name[:2], ports.get(key)
        found = _GOING if port is None else _urgency(service, port)
        if found < urgency.get(service, _GOING + 1):
            urgency[service] = found
        if port is not None and service not in branches:
            branches[service] = _branch(port)
    in_order = sorted(urgency, key=lambda each: (urgency[each], branches.get(each, 0)))
    places = {service: place for place, service in enumerate(in_order)}
    return sorted(keys, key=lambda key: places[key.name[:2]])


def at_once(observed: Observed) -> float:
    """Return how many endpoints the next step is to have, by what is believed of the kernel."""
    if observed.is_rebuild_due:
        return math.inf
    return float(max(ENDPOINTS_AT_ONCE, observed.worth_a_commit))


def divide(
    keys: Iterable[PortKey], ports: Mapping[PortKey, DesiredPort], at_once: Callable[[], float]
) -> Iterator[list[PortKey]]:
    """Divide keys so that each step has some of them, begun with fewer endpoints than is said when it begins.

    Keys of one service that follow each other stay together: its other ports are refused as soon as its address is known,
    while another data plane may still serve them.
    """
    step: list[PortKey] = []
    weight, most = 0, at_once()
    for key in keys:
        if weight >= most and step[-1].name.service != key.name.service:
            yield step
            step, weight, most = [], 0, at_once()
        port = ports.get(key)
        step.append(key)
        weight += 1 + (len(port.reachable) if port else 0)
    if step:
        yield step


def _urgency(service: tuple[str, str], port: DesiredPort) -> int:
    """Tell the API server, DNS, what pods on this node serve, and the rest apart: lower comes first."""
    if service == ("default", "kubernetes"):
        return 0
    for frontend in port.frontends:
        if frontend.port == 53:
            return 1
    return 2 if any(endpoint.is_local for endpoint in port.reachable) else 3


def _branch(port: DesiredPort) -> int:
    """Return the last eight bits of a service's address, the last one first. Read from its text: there are many."""
    address = next((each.address for each in port.frontends if each.address), "")
    last = address.rpartition(":")[2].rpartition(".")[2] or "0"
    return _REVERSED[int(last, 10 if "." in address else 16) & 255]
