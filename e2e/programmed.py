"""The nftables data plane of a node, programmed from inside the test: no daemon, no API, one plan after the other."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Self

from backends.kernel.nft import Nft
from backends.kernel.nft_table import Data
from backends.kernel.nft_transaction import Transaction, pack
from backends.nftables.backend import NftablesBackend
from backends.nftables.layout import Layout, NftSettings
from backends.nftables.model import TABLE
from backends.nftables.names import form_of
from e2e.topology import CLUSTER_CIDRS, SERVICE_CIDRS, Family, Host, Node, World
from proxy.desired import DesiredPort
from proxy.desired_node import DesiredNode
from proxy.model import FAMILIES, Endpoint, PortKey
from proxy.netlink import codec
from proxy.netlink.socket import NetlinkSocket
from tests.desired_strategies import whole
from tests.model_builders import make_endpoint

_SLOWEST = 20.0
_ROUNDS_TO_SETTLE = 16
_DELETE_FLOWS = 1 << 8 | 2  # NFNL_SUBSYS_CTNETLINK, IPCTNL_MSG_CT_DELETE
LAYOUT = Layout(NftSettings(families=FAMILIES, cluster_cidrs=CLUSTER_CIDRS))
_STRAY_COUNTERS = """
    table inet stray {
        counter seen { }
        chain leaving {
            type filter hook postrouting priority -300
            ip daddr %s counter name seen
            ip6 daddr %s counter name seen
        }
    }
"""


class Programmed:
    """The backend at work on a node. Whatever `put` was told last for a ServicePort holds."""

    def __init__(self, node: Node, layout: Layout = LAYOUT) -> None:
        self._node = node
        self._described = DesiredNode()
        self._runner = asyncio.Runner()
        with node.entered():
            self._backend = NftablesBackend(layout)
            self._observed = self._runner.run(self._backend.observe())
            self._conntrack = NetlinkSocket(codec.NETLINK_NETFILTER)
        self._desired: dict[PortKey, DesiredPort] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._conntrack.close()
        self._backend.close()
        self._runner.close()

    def put(self, *ports: DesiredPort) -> None:
        """Bring these ServicePorts into the kernel with one plan; what was put before stays."""
        self._runner.run(self._apply(ports))

    def tell(self, described: DesiredNode) -> None:
        """Bring what concerns the whole node into the kernel, once all services of the moment are there."""
        self._described = described
        self._runner.run(self._settle())

    def take_over(self) -> None:
        """Do what a new process does that finds these tables and wants the same, one service after the other."""
        self._observed = self._runner.run(self._backend.observe())
        assert not self._observed.is_rebuild_due
        for key in self._desired:
            self._runner.run(self._carry_out([key]))
        self._runner.run(self._settle())

    def flip(
        self,
        states: Sequence[Sequence[DesiredPort]],
        seconds: float,
        *,
        at_least: int,
        is_enough: Callable[[], bool],
    ) -> int:
        """Put one state after the other, over and over, for that long; return how many transactions that were.

        On a slow machine it goes on for some times as long, until there were `at_least` so many and what they are for `is_enough`.
        Planning is much slower than the kernel. So the plans are made beforehand, by the planner itself, once round
        until everything is as it was, and then carried out again and again. The last state holds at the end.
        """
        return self._runner.run(self._flip(states, seconds, at_least, is_enough))

    def forget_flows(self) -> None:
        """Empty the node's connection tracking.

        What was translated once stays so for as long as its entry lives: a UDP client that happens on the source port
        of an earlier one would be sent where that one was.
        """
        everything = codec.Request(_DELETE_FLOWS, codec.NLM_F_ACK, bytes(4))
        assert not self._conntrack.transact([everything])

    def clear(self) -> None:
        """Withdraw every service; the fixed rules stay."""
        keys, self._desired = list(self._desired), {}
        self._runner.run(self._carry_out(keys))

    async def _settle(self) -> None:
        await self._carry_out([])
        plan = self._backend.prune(whole(self._desired, self._described), self._observed)
        await self._backend.apply(plan, self._observed)

    async def _flip(
        self,
        states: Sequence[Sequence[DesiredPort]],
        seconds: float,
        at_least: int,
        is_enough: Callable[[], bool],
    ) -> int:
        for _ in range(_ROUNDS_TO_SETTLE):
            before = self._elements()
            cycle = [transaction for ports in states for transaction in await self._apply(ports)]
            if self._elements() == before:
                break
        else:
            raise AssertionError("going round the states never comes back to where it began")
        with self._node.entered(), Nft() as nft:
            batches = [pack(transaction, TABLE, form_of).requests for transaction in cycle]
            begun_s, count = time.monotonic(), 0
            while (took_s := time.monotonic() - begun_s) < seconds or (
                took_s < _SLOWEST * seconds and (count < at_least or not is_enough())
            ):
                for batch in batches:
                    nft.commit(batch)
                count += len(batches)
        return count

    def _elements(self) -> dict[Family, dict[str, dict[bytes, Data]]]:
        """What is believed to be in our sets now."""
        tables = self._observed.tables
        return {
            family: {name: dict(elements) for name, elements in facts.elements.items()}
            for family, facts in tables.items()
        }

    async def _apply(self, ports: Sequence[DesiredPort]) -> tuple[Transaction, ...]:
        self._desired.update((port.key, port) for port in ports)
        return await self._carry_out([port.key for port in ports])

    async def _carry_out(self, keys: list[PortKey]) -> tuple[Transaction, ...]:
        plan = self._backend.plan(whole(self._desired, self._described), self._observed, keys)
        applied = await self._backend.apply(plan, self._observed)
        assert not applied.failed, applied.failed
        return plan.transactions


def endpoint(host: Host, family: Family, port: int = 80, *, is_local: bool = True) -> Endpoint:
    """A server on that host as an endpoint, on the node under test unless told otherwise."""
    address = host.addresses.of(family)
    written = f"[{address}]:{port}" if family == "IPv6" else f"{address}:{port}"
    return make_endpoint(written, is_local=is_local)


@contextmanager
def default_route(world: World) -> Iterator["Stray"]:
    """Give the node a way to the service addresses, as the default route of a real node does, and count who takes it.

    The router at its end forwards nothing. Only with such a route can the node itself connect, and only a packet that
    nothing has translated is counted: it leaves the node under the service's own address.
    """
    namespace, source = world.node.namespace, world.node.addresses
    router = world.node.add_client("router").addresses
    namespace.ip(
        *(
            f"route add {cidr} via {router.of(family)} dev to-router onlink src {source.of(family)}"
            for family, cidr in zip(FAMILIES, SERVICE_CIDRS, strict=True)
        )
    )
    namespace.run(["nft", "-f", "-"], stdin=_STRAY_COUNTERS % SERVICE_CIDRS)
    yield Stray(world)


class Stray:
    """Packets that left the node for a service address."""

    def __init__(self, world: World) -> None:
        self._world = world

    def count(self) -> int:
        """How many there were so far."""
        listed = self._world.node.namespace.run(
            ["nft", "list", "counter", "inet", "stray", "seen"]
        )
        words = listed.split()
        return int(words[words.index("packets") + 1])
