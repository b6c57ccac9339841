"""The table of who is masqueraded, as scenarios: two for each pair of policies and each proxy setting. Pure.

The node itself has one of its own: under which address it asks is not up to every mode.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from e2e.flows.scenario import Feature, Flow, Scenario, ScenarioError, Source, Step
from e2e.flows.settings import SETTINGS

_POLICIES: Final[Mapping[str, tuple[str, str]]] = {
    "both Cluster": ("Cluster", "Cluster"),
    "external Local": ("Cluster", "Local"),
    "internal Local": ("Local", "Cluster"),
    "both Local": ("Local", "Local"),
}
"""By the table's word: internal and external traffic policy."""
_REACHED: Final = {"all": ("a", "r1"), "here": ("a",)}
_SOURCES: Final[Mapping[str, Source]] = {"kept": "kept", "masq": "masqueraded"}
_PORTS: Final = [("http", "TCP", 80), ("dns", "UDP", 53)]
_WIDTH: Final = 3
_BY_THE_NODE: Final = ", the node itself"


def parse(text: str) -> Feature:
    """Read the table. Raises ScenarioError."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    head, *rows = [_cells(line) for line in lines]
    settings = head[_WIDTH:]
    if unknown := {*settings} - SETTINGS.keys():
        raise ScenarioError(f"masquerade: no such settings: {', '.join(sorted(unknown))}")
    flows: dict[tuple[str, str], list[Flow]] = {}
    for row in rows:
        if len(row) != len(head) or row[0] not in _POLICIES:
            raise ScenarioError(f"masquerade: not a row: {' | '.join(row)}")
        for setting, cell in zip(settings, row[_WIDTH:], strict=True):
            for policy, flow in _flows(row, cell):
                flows.setdefault((policy, setting), []).append(flow)
    return Feature(
        feature="Masquerading",
        objects=_objects(),
        scenarios=tuple(
            Scenario(
                name=policy,
                setting=setting,
                steps=(Step(patch=_patch(policy), flows=tuple(listed)),),
            )
            for (policy, setting), listed in flows.items()
        ),
    )


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("|")]


def _flows(row: list[str], cell: str) -> Iterator[tuple[str, Flow]]:
    """What a cell says, by the names of the scenarios it is for."""
    reached, _, source = cell.partition(" ")
    if reached not in _REACHED or source not in _SOURCES:
        raise ScenarioError(f"masquerade: {cell!r} is not all or here, kept or masq")
    clients, frontends = ([one.strip() for one in words.split(",")] for words in row[1:_WIDTH])
    for name, is_node in ((row[0], False), (row[0] + _BY_THE_NODE, True)):
        if asking := tuple(client for client in clients if (client == "node") == is_node):
            yield (
                name,
                Flow(
                    clients=asking,
                    to=tuple(frontends),
                    answers=_REACHED[reached],
                    source=_SOURCES[source],
                ),
            )


def _patch(scenario: str) -> dict[str, dict[str, Any]]:
    internal, external = _POLICIES[scenario.removesuffix(_BY_THE_NODE)]
    policies = {"internalTrafficPolicy": internal, "externalTrafficPolicy": external}
    return {"Service/web": {"spec": policies}}


def _objects() -> tuple[dict[str, Any], ...]:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {
            "type": "LoadBalancer",
            "externalIPs": ["$externalIP4", "$externalIP6"],
            "ports": [{"name": n, "protocol": p, "port": number} for n, p, number in _PORTS],
        },
        "status": {"loadBalancer": {"ingress": [{"ip": "$vip4"}, {"ip": "$vip6"}]}},
    }
    endpoints = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "$family",
        "ports": [
            {"name": name, "protocol": protocol, "port": 8080} for name, protocol, _ in _PORTS
        ],
        "endpoints": [
            {"addresses": ["$a"], "nodeName": "node"},
            {"addresses": ["$r1"], "nodeName": "remote"},
        ],
    }
    return service, endpoints
