"""A small cluster network out of namespaces: a node with pods behind it, a client outside, another node with its pods.

    client ── node ── pods            every line is a veth pair straight from one namespace to the other,
                └──── remote ── pods  so the host never sees a link of ours

Every host has one address per family with the longest prefix and a default route to the node it hangs on, as cluster
networks do it; so a service address (10.96.0.0/16, fd00:10:96::/112), for which nobody has a route, always comes to the
node. The node has no default route: an address that nothing programs is unreachable, at once.

Plain context managers, no pytest in here: the demo uses the same module.
"""

import contextlib
import itertools
import string
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, Self

from e2e import client
from e2e.client import ANSWER_S, Conversation, Outcome
from e2e.namespace import Namespace, TopologyError
from e2e.processes import Load, Server

CLUSTER_CIDRS = ("10.244.0.0/16", "fd00:10:244::/48")
SERVICE_CIDRS = ("10.96.0.0/16", "fd00:10:96::/112")

Family = Literal["IPv4", "IPv6"]
FAMILIES: tuple[Family, ...] = ("IPv4", "IPv6")


class Addresses(NamedTuple):
    """One address of each family."""

    v4: str
    v6: str

    def of(self, family: Family) -> str:
        """The address of that family."""
        return self.v4 if family == "IPv4" else self.v6


class Veth:
    """A link between two namespaces, up on both sides, as long as its `with` block."""

    def __init__(self, one: Namespace, one_name: str, other: Namespace, other_name: str) -> None:
        self._one, self._one_name = one, one_name
        self._other, self._other_name = other, other_name

    def __enter__(self) -> Self:
        self._one.ip(
            f"link add {self._one_name} type veth peer name {self._other_name} netns {self._other.name}",
            f"link set {self._one_name} up",
        )
        self._other.ip(f"link set {self._other_name} up")
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the link; the routes over it are gone when this returns."""
        self._one.ip(f"link delete {self._one_name}")


class Host:
    """Anything with an address: a pod, a client, a node. It lives as long as its `with` block."""

    def __init__(self, name: str, addresses: Addresses) -> None:
        self.name = name
        self.addresses = addresses
        self.namespace = Namespace(name)
        self._lifetime = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._lifetime.enter_context(self.namespace)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all that runs here, then the host itself."""
        self._lifetime.close()

    def entered(self) -> contextlib.AbstractContextManager[None]:
        """The calling thread is on this host for the length of a `with` block."""
        return self.namespace.entered()

    def serve(self, *ports: str) -> Server:
        """Start answering on ports such as `tcp:80`, with this host's name; ready when this returns.

        It ends with the `with` block of the server or, without one, of the host.
        """
        return Server(self.namespace, self.name, ports).wait_until_ready()

    def ask(
        self,
        address: str,
        port: int,
        *,
        protocol: str = "tcp",
        timeout_s: float = ANSWER_S,
        source: str = "",
    ) -> Outcome:
        """Who answers a new connection from here."""
        with self.entered():
            return client.ask(protocol, address, port, timeout_s=timeout_s, source=source)

    def ask_often(
        self,
        count: int,
        address: str,
        port: int,
        *,
        protocol: str = "tcp",
        timeout_s: float = ANSWER_S,
    ) -> list[Outcome]:
        """Who answers each of `count` new connections, one after the other."""
        with self.entered():
            return [client.ask(protocol, address, port, timeout_s=timeout_s) for _ in range(count)]

    def converse(
        self, address: str, port: int, *, protocol: str = "tcp", timeout_s: float = ANSWER_S
    ) -> Conversation:
        """A connection from here that is kept open. Raises OSError as `connect` does."""
        with self.entered():
            return Conversation(protocol, address, port, timeout_s=timeout_s)

    def load(
        self,
        address: str,
        port: int,
        *,
        protocol: str = "tcp",
        rate: float = 0,
        workers: int = 4,
        timeout_s: float = ANSWER_S,
    ) -> Load:
        """New connections from here, `rate` per second or as fast as they are answered, until its `with` block ends."""
        question = {"protocol": protocol, "address": address, "port": port, "timeout_s": timeout_s}
        return Load(self.namespace, question, rate=rate, workers=workers)


class Node(Host):
    """A host that forwards. `index` numbers it in the cluster, from 1: its pods are 10.244.<index>.2 and on."""

    def __init__(self, name: str, index: int) -> None:
        super().__init__(name, Addresses(f"172.18.0.{index}", f"fd00:172:18::{index:x}"))
        self._index = index
        self._pods: dict[str, Host] = {}
        self._attached: dict[str, tuple[Host, Veth]] = {}
        self._pod_numbers = itertools.count(2)
        self._client_numbers = itertools.count(100)

    def __enter__(self) -> Self:
        super().__enter__()
        try:
            self.namespace.write_settings(_FORWARDING)
        except BaseException:
            self.close()
            raise
        return self

    @property
    def pods(self) -> Mapping[str, Host]:
        """The pods that live here now, by name."""
        return self._pods

    @property
    def pod_cidrs(self) -> Addresses:
        """The addresses that belong to this node's pods."""
        return Addresses(f"10.244.{self._index}.0/24", f"fd00:10:244:{self._index:x}::/64")

    def add_pod(self, name: str) -> Host:
        """A new pod on this node, under the next address; none is given twice."""
        pod = Host(name, self._pod_addresses(next(self._pod_numbers)))
        self._attach(pod, gateway=self._pod_addresses(1))
        self._pods[name] = pod
        return pod

    def remove_pod(self, name: str) -> None:
        """End the pod with all that runs in it. Its address is unreachable when this returns."""
        del self._pods[name]
        pod, link = self._attached.pop(name)
        # the namespace goes with its last reference, which a test may hold in a socket; the link goes at once
        link.close()
        pod.close()

    def add_client(self, name: str) -> Host:
        """A new host outside the cluster, which knows no other way than through this node."""
        number = next(self._client_numbers)
        host = Host(name, Addresses(f"172.18.0.{number}", f"fd00:172:18::{number:x}"))
        self._attach(host, gateway=self.addresses)
        return host

    def add_node(self, name: str, index: int) -> "Node":
        """Another node of the cluster; each knows the way to the other's pods."""
        node = Node(name, index)
        self._attach(node, gateway=self.addresses)
        self.namespace.ip(
            *(
                f"route add {node.pod_cidrs.of(family)} via {node.addresses.of(family)}"
                f" dev {_link_to(node)} onlink"
                for family in FAMILIES
            )
        )
        return node

    def _pod_addresses(self, number: int) -> Addresses:
        return Addresses(
            f"10.244.{self._index}.{number}", f"fd00:10:244:{self._index:x}::{number:x}"
        )

    def _attach(self, host: Host, *, gateway: Addresses) -> None:
        """Start the host and connect it: to this side's `gateway` address it sends all that is not its own."""
        if host.name in self._attached:
            raise TopologyError(f"{self.name} has a {host.name} already")
        with contextlib.ExitStack() as undo:
            undo.enter_context(host)
            name = _link_to(host)
            link = undo.enter_context(Veth(self.namespace, name, host.namespace, "eth0"))
            self.namespace.ip(
                f"address add {gateway.v4}/32 dev {name}",
                f"address add {gateway.v6}/128 dev {name} nodad",
                f"route add {host.addresses.v4}/32 dev {name}",
                f"route add {host.addresses.v6}/128 dev {name}",
            )
            host.namespace.ip(
                f"address add {host.addresses.v4}/32 dev eth0",
                f"address add {host.addresses.v6}/128 dev eth0 nodad",
                f"route add default via {gateway.v4} dev eth0 onlink",
                f"route add default via {gateway.v6} dev eth0 onlink",
            )
            undo.pop_all()
        self._attached[host.name] = host, link
        self._lifetime.callback(self._end, host.name)

    def _end(self, name: str) -> None:
        # no need to remove the links one by one, which costs 40 ms each: both ends are about to go
        if name in self._attached:
            host, _ = self._attached.pop(name)
            host.close()


def _link_to(host: Host) -> str:
    """The node's side of the link to a host. Names of links are cut at 15 characters by the kernel."""
    return f"to-{host.name}"[:15]


def serve_on(hosts: Iterable[Host], *ports: str) -> list[Server]:
    """`Host.serve` on many hosts at a time: programs start beside each other."""
    servers = [Server(host.namespace, host.name, ports) for host in hosts]
    return [server.wait_until_ready() for server in servers]


# Written before the first link exists: an interface takes its own value from `default`.
_FORWARDING = [
    (f"{family}/conf/{which}/forwarding", "1")
    for family in ("ipv4", "ipv6")
    for which in ("all", "default")
]


@dataclass(frozen=True)
class World:
    """The cluster of the drawing above."""

    node: Node
    client: Host
    remote: Node | None

    @property
    def pods(self) -> list[Host]:
        """The pods on the node under test, oldest first."""
        return list(self.node.pods.values())


@contextlib.contextmanager
def world(*, pods: int = 6, remote_pods: int = 0) -> Iterator[World]:
    """A node with pods `a`, `b`, … and a client; with `remote_pods`, also a second node with pods `r1`, `r2`, …"""
    with Node("node", 1) as node:
        outside = node.add_client("client")
        for letter in string.ascii_lowercase[:pods]:
            node.add_pod(letter)
        remote = node.add_node("remote", 2) if remote_pods else None
        if remote is not None:
            for number in range(1, remote_pods + 1):
                remote.add_pod(f"r{number}")
        yield World(node, outside, remote)
