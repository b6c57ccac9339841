"""The host of the ipvs backend: fakes of IPVS, links and nf_tables, or the kernel's in a network namespace.

Both are reached through the same doors, so everything but the replies is the same.
"""

import ipaddress
import itertools
import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Protocol

from backends.ipvs.backend import IpvsBackend
from backends.ipvs.belief import Observed
from backends.ipvs.layout import IpvsSettings, Layout
from backends.ipvs.model import SERVICES, TABLE
from backends.kernel import ipvs_messages, nft_elements, nft_messages
from backends.kernel.ipvs import Ipvs, Refusal
from backends.kernel.ipvs_objects import Destination, ServerId, VirtualServer, marked
from backends.kernel.links import Links, Unbound
from backends.kernel.nft import Nft
from backends.kernel.nft_numbers import NFPROTO_IPV4, NFPROTO_IPV6
from proxy.desired import DesiredPort
from proxy.model import FAMILIES, PortKey
from proxy.netlink.codec import Request
from tests.contract.host import AnyBackend
from tests.contract.ipvs_reader import programmed, unused
from tests.contract.ipvs_vandal import ACTS, Scene, vandalise
from tests.contract.meters import Meter, MeteredHost, MeteredNft, metered
from tests.data_plane import Behaviour, Connection, wanted_addresses, wanted_hairpins
from tests.fakes.ipvs import IpvsKernel
from tests.fakes.links import LinksKernel
from tests.fakes.netfilter import NetfilterKernel
from tests.work_counter import Visits, watch

NUMBERS = (NFPROTO_IPV4, NFPROTO_IPV6)
LAYOUT = Layout(
    IpvsSettings(families=FAMILIES, cluster_cidrs=("10.244.0.0/16", "fd00:10:244::/48"))
)
FOREIGN = "foreign"
FOREIGN_SERVERS = (
    VirtualServer(ServerId("IPv4", "TCP", "192.0.2.200", 80), "rr"),
    VirtualServer(marked("IPv4", 7), "rr"),
    VirtualServer(marked("IPv6", 0x4000), "rr"),
)


class MeteredIpvs(Ipvs):
    def __init__(self, meter: Meter) -> None:
        super().__init__()
        self._meter = meter
        metered(self._socket, meter, lambda m: m.payload[0] not in {4, 8, 13, 15})

    def carry_out(self, messages: Sequence[bytes]) -> list[Refusal]:
        if not messages:
            return []
        with self._meter.writing() as is_done:
            return super().carry_out(messages) if is_done else []


class MeteredLinks(Links):
    def __init__(self, meter: Meter) -> None:
        super().__init__()
        self._meter = meter
        metered(self._socket, meter, lambda m: m.kind in {16, 17, 20, 21})

    def _carry_out(self, addresses: Any, requests: Sequence[Request]) -> list[Unbound]:
        if not requests:
            return []
        with self._meter.writing() as is_done:
            return super()._carry_out(addresses, requests) if is_done else []


class Others(Protocol):
    """What somebody else has on this host."""

    def plant(self, scene: Scene) -> None: ...

    def list(self, scene: Scene) -> object: ...


class IpvsHost(MeteredHost):
    """`entered` is where sockets are opened."""

    calls_at_most = 24

    def __init__(
        self,
        entered: Callable[[], AbstractContextManager[None]],
        others: Others,
        closing: ExitStack,
    ) -> None:
        super().__init__()
        self._entered = entered
        self._others = others
        self._closing = closing
        self._layout = LAYOUT
        with entered():
            self._admin = Scene(
                closing.enter_context(Nft()),
                closing.enter_context(Ipvs()),
                closing.enter_context(Links()),
                LAYOUT,
                random.Random(0),
            )

    def start(self) -> AnyBackend:
        meter = Meter()
        backend = IpvsBackend(
            LAYOUT,
            open_nft=lambda: self._opened(lambda: MeteredNft(meter)),
            open_ipvs=lambda: self._opened(lambda: MeteredIpvs(meter)),
            open_links=lambda: self._opened(lambda: MeteredLinks(meter)),
            now_s=self._clock(),
        )
        self._count(backend, meter)
        self._closing.callback(backend.close)
        return backend

    def _clock(self) -> Callable[[], float]:
        """It looks again at what drains some seconds later, and nobody has to wait for that."""
        return itertools.count(1.0).__next__

    def _opened(self, make: Callable[[], Any]) -> Any:
        with self._entered():
            return make()

    def behaviour(
        self, observed: Observed, *, leave_out: Collection[Connection] = ()
    ) -> Behaviour:
        return programmed(observed, leave_out)

    async def read_back(self, backend: AnyBackend, observed: Observed) -> Any:
        return await backend.observe()

    def state(self, observed: Observed) -> object:
        tables = {
            family: (
                facts.is_present,
                facts.is_dormant,
                dict(facts.chains),
                dict(facts.sets),
                {name: dict(elements) for name, elements in facts.elements.items() if elements},
            )
            for family, facts in observed.tables.items()
        }
        destinations = {server: dict(each) for server, each in observed.destinations.items()}
        servers = dict(observed.servers)
        return tables, servers, destinations, observed.device is None, sorted(observed.bound)

    def is_noticed(self, before: Any, after: Any) -> bool:
        """IPVS and interfaces count no generations: only the ruleset does."""
        return bool(before[0] != after[0])

    def watch(self, observed: Observed, visits: Visits) -> None:
        names = (
            "rendered",
            "references",
            "holders",
            "numbers",
            "servers",
            "destinations",
            "bound",
        )
        _watch_in(vars(observed), names, visits)
        for facts in observed.tables.values():
            _watch_in(facts.elements, tuple(facts.elements), visits)

    def check_extras(self, observed: Observed, desired: Mapping[PortKey, DesiredPort]) -> None:
        addresses = wanted_addresses(desired) | wanted_addresses(desired, are_external=True)
        assert {("IPv6" if ":" in a else "IPv4", a) for a in observed.bound} == addresses
        hairpins = {
            (family, key[: len(key) // 2])
            for family, facts in observed.tables.items()
            for key in facts.elements.get("hairpin", {})
        }
        assert {(family, _text(packed)) for family, packed in hairpins} == wanted_hairpins(desired)
        for family, facts in observed.tables.items():
            assert facts.is_present
            assert facts.chains == self._layout.chain_facts[family]
            assert facts.sets == self._layout.set_facts[family]
        assert not observed.draining
        assert not unused(observed)

    @property
    def kinds_of_disturbances(self) -> int:
        return len(ACTS)

    def disturb(self, seed: int, *, kind: int | None = None) -> None:
        scene = self._admin._replace(rng=random.Random(seed))
        vandalise(scene, ACTS if kind is None else (ACTS[kind],))

    def plant_foreign(self) -> None:
        self._others.plant(self._admin)

    def foreign(self) -> Any:
        return self._others.list(self._admin)

    def own(self) -> object:
        scene = self._admin
        tables = [number for number in NUMBERS if scene.nft.find_table(number, TABLE)]
        return tables or scene.servers() or scene.device() or []

    def occupy(self, port: DesiredPort) -> None:
        """A virtual server where that of the cluster IP has to go."""
        frontend = port.frontends[0]
        protocol = port.key.name.protocol
        server = ServerId(port.key.family, protocol, str(frontend.address), frontend.port)
        message = ipvs_messages.new_server(VirtualServer(server, "lc"))
        assert self._admin.ipvs.carry_out([message]) == []

    def limit(self, room: int) -> None:
        listed = self._admin.nft.list_elements(NFPROTO_IPV4, TABLE, SERVICES, is_strict=False)
        self._resize(sum(map(len, listed)) + room)

    def lift_limit(self) -> None:
        self._resize(100_000)

    def _resize(self, size: int) -> None:
        found = self._admin.nft.find_set(NFPROTO_IPV4, TABLE, SERVICES)
        assert found is not None
        self._admin.nft.commit(
            [
                nft_messages.new_set(
                    NFPROTO_IPV4,
                    TABLE,
                    SERVICES,
                    key_type=found.key_type,
                    key_length=found.key_length,
                    flags=found.flags,
                    size=size,
                )
            ]
        )


class _Watched:
    """Dictionaries as the attributes of an object."""


def _watch_in(owner: dict[str, Any], names: Sequence[str], visits: Visits) -> None:
    watched = _Watched()
    vars(watched).update({name: owner[name] for name in names})
    watch(watched, visits)
    owner.update(vars(watched))


def _text(packed: bytes) -> str:
    return str(ipaddress.ip_address(packed))


class OtherThings:
    """Virtual servers, a dummy device, and a table of each family with the names we use in ours."""

    def plant(self, scene: Scene) -> None:
        scene.ipvs.carry_out([ipvs_messages.new_server(server) for server in FOREIGN_SERVERS])
        scene.ipvs.carry_out(
            [
                ipvs_messages.new_destination(FOREIGN_SERVERS[0].id, Destination("192.0.2.9", 80)),
            ]
        )
        for number in NUMBERS:
            scene.nft.commit(
                [
                    nft_messages.new_table(number, FOREIGN, "somebody else's"),
                    nft_messages.new_chain(number, FOREIGN, SERVICES),
                    nft_messages.new_set(number, FOREIGN, SERVICES, key_type=13, key_length=2),
                    *nft_elements.new_elements(
                        number, FOREIGN, SERVICES, [nft_elements.pack_key_element(b"\0\x50")]
                    ),
                ]
            )

    def list(self, scene: Scene) -> Any:
        """Everything but ours."""
        ours = scene.servers()
        servers = {
            server.id: (server, scene.ipvs.list_destinations(server.id))
            for server in scene.ipvs.list_servers()
            if server.id not in ours
        }
        device = scene.device()
        addresses = sorted([a for a in scene.links.addresses() if a.ifindex != device])
        tables = {
            (number, table.name): _content(scene.nft, number, table.name)
            for number in NUMBERS
            for table in scene.nft.list_tables(number)
            if table.name != TABLE
        }
        return servers, addresses, tables


def _content(nft: Nft, number: int, name: str) -> tuple[object, ...]:
    sets = nft.list_sets(number, name)
    elements = [
        sorted(element for part in nft.list_elements(number, name, s.name) for element in part)
        for s in sets
    ]
    return nft.list_chains(number, name), nft.list_rules(number, name), sets, elements


class FakeIpvsGround:
    """Hosts on the fakes."""

    @contextmanager
    def fresh(self) -> Iterator[IpvsHost]:
        netfilter, links, ipvs = NetfilterKernel(), LinksKernel(), IpvsKernel()

        @contextmanager
        def entered() -> Iterator[None]:
            with netfilter.entered(), links.entered(), ipvs.entered():
                yield

        with ExitStack() as closing:
            yield IpvsHost(entered, OtherThings(), closing)
