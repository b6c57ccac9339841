"""The cluster the questions are asked in. Built once, used with every backend and every proxy setting.

Pods a, b and c serve on the node; d serves too, but is an endpoint only where a scenario says so: it is the `local-pod`
that asks. Pods r1 and r2 serve on another node, r3 asks there; unless it is masqueraded, r1 and r2 would answer it past
the node under test, which real clusters do not let happen: each node has a proxy. Both nodes serve themselves, for endpoints on the host
network. Outside are two clients and the router at the end of the node's default route, which forwards nothing.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from e2e import topology
from e2e.flows.scenario import Source
from e2e.topology import Addresses, Family, Host, World

PORTS: Final = (8080, 8081)
"""What every host serves on, by TCP and UDP."""
SECOND: Final = Addresses("172.18.1.1", "fd00:172:18:1::1")
"""Another address of the node."""
SPARE: Final = Addresses("172.18.1.9", "fd00:172:18:1::9")
"""An address that the node has for some steps only."""
LOOPBACK: Final = Addresses("127.0.0.1", "::1")
_GATEWAY: Final = Addresses("10.244.1.1", "fd00:10:244:1::1")
NODE_ADDRESSES: Final[Mapping[str, Addresses]] = {
    "": Addresses("172.18.0.1", "fd00:172:18::1"),
    "second": SECOND,
    "spare": SPARE,
    "gateway": _GATEWAY,
    "loopback": LOOPBACK,
}
"""The node's addresses as a flow names them: `nodePort@second`; without a word its InternalIP."""
_Role = Literal["external", "local-pod", "remote-pod"]
_ROLES: Final[Mapping[_Role, str]] = {"external": "client", "local-pod": "d", "remote-pod": "r3"}


@dataclass(frozen=True)
class Ground:
    """All hosts by name."""

    world: World
    hosts: Mapping[str, Host]

    @property
    def node(self) -> Host:
        return self.hosts["node"]

    @property
    def addresses(self) -> dict[str, Addresses]:
        """The addresses of all hosts, by name, and further ones of the node."""
        return {name: host.addresses for name, host in self.hosts.items()} | {"second": SECOND}

    def is_local(self, name: str) -> bool:
        """Whether that is a pod of the node under test."""
        return name in self.world.node.pods

    def change_addresses(self, gained: Iterable[str], lost: Iterable[str]) -> None:
        """Let addresses of the node come and go, by the names that flows have for them."""
        for verb, names in (("add", gained), ("delete", lost)):
            for each in map(NODE_ADDRESSES.__getitem__, names):
                nodad = " nodad" if verb == "add" else ""
                self.node.namespace.ip(
                    f"address {verb} {each.v4}/32 dev lo",
                    f"address {verb} {each.v6}/128 dev lo{nodad}",
                )

    def seen_as(self, source: Source, asker: str, endpoint: str, family: Family) -> str:
        """The address under which an endpoint sees a client whose address is kept or masqueraded.

        Masqueraded is to the node's address on the link the packet leaves by.
        """
        if source == "kept":
            return self.hosts[asker].addresses.of(family)
        leaves_by = _GATEWAY if self.is_local(endpoint) else NODE_ADDRESSES[""]
        return leaves_by.of(family)


@contextlib.contextmanager
def ground() -> Iterator[Ground]:
    """A fresh one."""
    with topology.world(pods=4, remote_pods=3) as world:
        assert world.remote is not None
        other = world.node.add_client("other")
        router = world.node.add_client("router")
        world.node.namespace.ip(
            *(
                f"route add default via {router.addresses.of(family)} dev to-router onlink"
                f" src {world.node.addresses.of(family)}"
                for family in topology.FAMILIES
            ),
            f"address add {SECOND.v4}/32 dev lo",
            f"address add {SECOND.v6}/128 dev lo nodad",
        )
        pods = {**world.node.pods, **world.remote.pods}
        hosts: dict[str, Host] = {**pods, "node": world.node, "remote": world.remote}
        topology.serve_on(
            hosts.values(),
            *[f"{protocol}:{port}" for protocol in ("tcp", "udp") for port in PORTS],
        )
        hosts["other"] = other
        hosts.update({role: _host(world, pods, role) for role in _ROLES})
        yield Ground(world, hosts)


def _host(world: World, pods: Mapping[str, Host], role: _Role) -> Host:
    return world.client if role == "external" else pods[_ROLES[role]]
