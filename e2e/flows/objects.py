"""The objects of one scenario, from its manifests to what an API server would hold. Pure.

A manifest is written as for `kubectl apply`. Filled in is what the API server would: namespace, uid, creation time,
cluster IPs and node ports, which stay with a service for as long as the scenario lasts. Placeholders stand for
addresses: `$a4` and `$a6` for those of pod a, and for those given to the scenario `$vip4`, `$externalIP6`. An
EndpointSlice of `addressType: $family` stands for one of each family; in it `$a` is the address of that family.
"""

import copy
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from e2e.flows.scenario import ScenarioError, Step
from e2e.topology import FAMILIES, Addresses, Family

Wire = dict[str, Any]

NAMESPACE: Final = "flows"
_PLACEHOLDER: Final = re.compile(r"\$([A-Za-z][A-Za-z0-9-]*?)([46]?)(?![A-Za-z0-9-])")
_VERSION: Final = {"4": FAMILIES[0], "6": FAMILIES[1], "": None}
_FIRST_NODE_PORT, _NODE_PORTS = 30001, 2000


class Frontend(NamedTuple):
    """Where a service can be reached; a node port has no address."""

    port_name: str
    protocol: str
    address: str
    port: int


class Allocator:
    """Gives out addresses and ports that nothing else in this run has."""

    def __init__(self) -> None:
        self._services = itertools.count(257)
        self._outside = itertools.count(1)
        self._node_ports = itertools.cycle(range(_NODE_PORTS))
        self._versions = itertools.count(1)

    def cluster_ips(self) -> Addresses:
        number = next(self._services)
        return Addresses(f"10.96.{number // 256}.{number % 256}", f"fd00:10:96::{number:x}")

    def outside(self) -> Addresses:
        """An address outside the cluster, for a load balancer or an external IP."""
        number = next(self._outside)
        return Addresses(f"198.18.{number // 256}.{number % 256}", f"2001:db8:18::{number:x}")

    def node_port(self) -> int:
        """A port of the node, for a frontend or for health checks."""
        return _FIRST_NODE_PORT + next(self._node_ports)

    def version(self) -> str:
        return str(next(self._versions))


class Objects:
    """What there is just now, and where the services of the scenario are or were reached."""

    def __init__(
        self, allocator: Allocator, hosts: Mapping[str, Addresses], manifests: Iterable[Wire]
    ) -> None:
        self._allocator = allocator
        self._addresses = dict(hosts)
        self._templates: dict[str, Wire] = {}
        self._cluster_ips: dict[str, Addresses] = {}
        self._node_ports: dict[tuple[str, str, str], int] = {}
        self._health_check_node_ports: dict[str, int] = {}
        self._created: dict[str, str] = {}
        self._known: dict[tuple[str, str, Family], dict[tuple[str, str], Frontend]] = {}
        self._ports: dict[str, list[tuple[str, str]]] = {}
        self._apply(manifests)

    def change(self, step: Step) -> None:
        """Take a step's changes in. Raises ScenarioError where they name what is not there."""
        self._apply(step.apply)
        for reference, patch in step.patch.items():
            self._templates[reference] = _patched(self._existing(reference), patch)
        for reference in step.delete:
            self._existing(reference)
            del self._templates[reference]

    def render(self) -> list[Wire]:
        """Everything as the API server would return it now."""
        return [
            rendered
            for template in self._templates.values()
            for rendered in self._rendered(template)
        ]

    @property
    def services(self) -> list[str]:
        """The names of all services there are or were, oldest first."""
        return list(self._ports)

    def ports(self, service: str) -> list[tuple[str, str]]:
        """The ports a service has or had last, each by name and protocol."""
        return self._ports[service]

    def frontends(self, service: str, kind: str, family: Family) -> list[Frontend]:
        """Where a service is or was reached."""
        return list(self._known.get((service, kind, family), {}).values())

    @property
    def health_check_node_ports(self) -> list[int]:
        """Those of all services there are or were."""
        return list(self._health_check_node_ports.values())

    def health_check_node_port(self, service: str) -> int:
        """Where a service is or was health checked. Raises ScenarioError if it never was."""
        if service not in self._health_check_node_ports:
            raise ScenarioError(f"{service} never had a health check node port")
        return self._health_check_node_ports[service]

    def address(self, text: str, family: Family) -> str:
        """What a placeholder without a version, or an address, stands for in that family."""
        return str(self._filled(text, family))

    def _apply(self, manifests: Iterable[Wire]) -> None:
        for manifest in manifests:
            reference = f"{manifest.get('kind')}/{manifest.get('metadata', {}).get('name')}"
            self._templates[reference] = manifest

    def _existing(self, reference: str) -> Wire:
        if reference not in self._templates:
            known = ", ".join(self._templates) or "nothing"
            raise ScenarioError(f"there is no {reference}; there is {known}")
        return self._templates[reference]

    def _rendered(self, template: Wire) -> Iterator[Wire]:
        manifest = copy.deepcopy(template)
        metadata = manifest["metadata"]
        if manifest["kind"] != "Node":
            metadata.setdefault("namespace", NAMESPACE)
        reference = f"{manifest['kind']}/{metadata['name']}"
        number = int(self._created.setdefault(reference, self._allocator.version()))
        metadata.setdefault(
            "creationTimestamp",
            f"2026-01-{1 + number // 1440 % 28:02d}T{number // 60 % 24:02d}:{number % 60:02d}:00Z",
        )
        metadata.setdefault("uid", f"uid-{number}")
        metadata["resourceVersion"] = self._allocator.version()
        if manifest["kind"] == "Service":
            self._allocate(manifest)
            filled = self._filled(manifest, None)
            self._learn(filled)
            yield filled
        elif manifest.get("addressType") == "$family":
            for family in FAMILIES:
                each = self._filled(manifest, family)
                each["metadata"]["name"] += f"-{family.lower()}"
                yield each
        else:
            yield self._filled(manifest, None)

    def _allocate(self, service: Wire) -> None:
        """Give a service what it does not bring along."""
        name, spec = service["metadata"]["name"], service["spec"]
        kind = spec.setdefault("type", "ClusterIP")
        if kind != "ExternalName" and "clusterIP" not in spec and "clusterIPs" not in spec:
            given = self._cluster_ips.setdefault(name, self._allocator.cluster_ips())
            families = spec.setdefault("ipFamilies", list(FAMILIES))
            spec["clusterIPs"] = [given.of(family) for family in families]
        if "clusterIPs" in spec:
            spec.setdefault("clusterIP", spec["clusterIPs"][0])
            if spec["clusterIP"] != "None":
                written = [":" in ip or ip.endswith("6") for ip in spec["clusterIPs"]]
                spec.setdefault("ipFamilies", [FAMILIES[is_ipv6] for is_ipv6 in written])
        has_node_ports = kind == "NodePort" or (
            kind == "LoadBalancer" and spec.get("allocateLoadBalancerNodePorts", True)
        )
        if kind == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local":
            if name not in self._health_check_node_ports:
                self._health_check_node_ports[name] = self._allocator.node_port()
            spec.setdefault("healthCheckNodePort", self._health_check_node_ports[name])
            self._health_check_node_ports[name] = spec["healthCheckNodePort"]
        for port in spec.get("ports", ()):
            port.setdefault("protocol", "TCP")
            if has_node_ports and "nodePort" not in port:
                key = name, port.get("name", ""), port["protocol"]
                if key not in self._node_ports:
                    self._node_ports[key] = self._allocator.node_port()
                port["nodePort"] = self._node_ports[key]

    def _learn(self, service: Wire) -> None:
        name, spec = service["metadata"]["name"], service["spec"]
        if spec.get("ports"):
            self._ports[name] = [(p.get("name", ""), p["protocol"]) for p in spec["ports"]]
        status = service.get("status", {}).get("loadBalancer", {}).get("ingress", ())
        addresses = {
            "clusterIP": [
                ip
                for ip in spec.get("clusterIPs") or [spec.get("clusterIP", "None")]
                if ip != "None"
            ],
            "externalIP": spec.get("externalIPs", ()),
            "vip": [ingress["ip"] for ingress in status if "ip" in ingress],
        }
        for port in spec.get("ports", ()):
            key = port.get("name", ""), port["protocol"]
            for kind, listed in addresses.items():
                for address in listed:
                    family: Family = "IPv6" if ":" in address else "IPv4"
                    self._put(name, kind, family, Frontend(*key, address.strip(), port["port"]))
            if port.get("nodePort"):
                for family in FAMILIES:
                    self._put(name, "nodePort", family, Frontend(*key, "", port["nodePort"]))

    def _put(self, service: str, kind: str, family: Family, frontend: Frontend) -> None:
        known = self._known.setdefault((service, kind, family), {})
        # of several addresses the first one is asked
        first = known.setdefault((frontend.port_name, frontend.protocol), frontend)
        if first.port != frontend.port:
            known[frontend.port_name, frontend.protocol] = frontend

    def _filled(self, value: Any, family: Family | None) -> Any:
        if isinstance(value, dict):
            return {key: self._filled(each, family) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [self._filled(each, family) for each in value]
        if isinstance(value, str):
            return _PLACEHOLDER.sub(lambda match: self._placeholder(match, family), value)
        return value

    def _placeholder(self, match: re.Match[str], family: Family | None) -> str:
        name, version = match.groups()
        wanted = _VERSION[version] or family
        if wanted is None:
            raise ScenarioError(f"{match[0]} needs a 4 or 6 here")
        if name == "family":
            return wanted
        if name.startswith(("vip", "externalIP")):
            return self._addresses.setdefault(name, self._allocator.outside()).of(wanted)
        if name == "unallocated":
            return self._addresses.setdefault(name, self._allocator.cluster_ips()).of(wanted)
        if name not in self._addresses:
            raise ScenarioError(f"{match[0]}: nobody is called {name}")
        return self._addresses[name].of(wanted)


def _patched(document: Any, patch: Any) -> Any:
    """Apply a JSON merge patch (RFC 7386)."""
    if not isinstance(patch, dict):
        return patch
    result = dict(document) if isinstance(document, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _patched(result.get(key), value)
    return result
