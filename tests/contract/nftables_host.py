"""The host of the nftables backend: a fake of nf_tables, or the kernel's in a network namespace.

Both are reached through the same door, so everything but the replies is the same.
"""

import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Protocol

from backends.kernel import nft_elements, nft_messages
from backends.kernel.nft import Nft
from backends.kernel.nft_numbers import NFPROTO_IPV4, NFPROTO_IPV6
from backends.nftables.backend import NftablesBackend
from backends.nftables.belief import Observed
from backends.nftables.layout import Layout, NftSettings
from backends.nftables.model import SERVICES, TABLE
from backends.nftables.ranges import LENGTHS, set_of_ranges
from proxy.desired import DesiredPort
from proxy.model import FAMILIES, PortKey
from tests.contract.host import AnyBackend
from tests.contract.meters import Meter, MeteredHost, MeteredNft
from tests.contract.nftables_vandal import ACTS, vandalise
from tests.data_plane import (
    Behaviour,
    Connection,
    programmed,
    programmed_addresses,
    programmed_hairpins,
    wanted_addresses,
    wanted_hairpins,
)
from tests.fakes.nft import NftKernel
from tests.work_counter import Visits, watch

NUMBERS = (NFPROTO_IPV4, NFPROTO_IPV6)
LAYOUT = Layout(
    NftSettings(families=FAMILIES, cluster_cidrs=("10.244.0.0/16", "fd00:10:244::/48"))
)
FOREIGN = "foreign"


class Others(Protocol):
    """What somebody else has in nf_tables."""

    def plant(self, nft: Nft) -> None: ...

    def list(self, nft: Nft) -> object: ...


class NftablesHost(MeteredHost):
    """`entered` is where sockets are opened."""

    calls_at_most = 6

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
        with entered():
            self.admin = closing.enter_context(Nft())

    def start(self) -> AnyBackend:
        meter = Meter()
        with self._entered():
            backend = NftablesBackend(LAYOUT, lambda: MeteredNft(meter))
        self._count(backend, meter)
        self._closing.callback(backend.close)
        return backend

    def behaviour(
        self, observed: Observed, *, leave_out: Collection[Connection] = ()
    ) -> Behaviour:
        return programmed(observed.tables, leave_out)

    async def read_back(self, backend: AnyBackend, observed: Observed) -> Any:
        return await backend.observe()

    def state(self, observed: Observed) -> object:
        return {
            family: (
                facts.is_present,
                facts.is_dormant,
                facts.chains,
                facts.sets,
                {name: elements for name, elements in facts.elements.items() if elements},
            )
            for family, facts in observed.tables.items()
        }

    def is_noticed(self, before: object, after: object) -> bool:
        return before != after

    def watch(self, observed: Observed, visits: Visits) -> None:
        _watch_in(vars(observed), ("rendered", "references", "holders"), visits)
        for facts in observed.tables.values():
            _watch_in(facts.elements, tuple(facts.elements), visits)

    def check_extras(self, observed: Observed, desired: Mapping[PortKey, DesiredPort]) -> None:
        assert programmed_addresses(observed.tables) == wanted_addresses(desired)
        assert programmed_hairpins(observed.tables) == wanted_hairpins(desired)
        external = programmed_addresses(observed.tables, "external-ips")
        assert external == wanted_addresses(desired, are_external=True)
        for family, facts in observed.tables.items():
            assert facts.is_present
            sets = {spec.name: spec.facts for spec in LAYOUT.sets(family)}
            ranges = LENGTHS[family].keys() & facts.sets.keys()
            sets |= {name: set_of_ranges(family, name).facts for name in ranges}
            ours = {spec.name: spec.facts for spec in LAYOUT.skeleton(family, ranges)}
            assert facts.sets == sets
            picking = facts.chains.keys() - ours
            ours |= {name: LAYOUT.chain(family, name).facts for name in picking}
            assert facts.chains == ours

    @property
    def kinds_of_disturbances(self) -> int:
        return len(ACTS)

    def disturb(self, seed: int, *, kind: int | None = None) -> None:
        vandalise(self.admin, random.Random(seed), ACTS if kind is None else (ACTS[kind],))

    def plant_foreign(self) -> None:
        self._others.plant(self.admin)

    def foreign(self) -> object:
        return self._others.list(self.admin)

    def own(self) -> object:
        return [number for number in NUMBERS if self.admin.find_table(number, TABLE)]

    def occupy(self, port: DesiredPort) -> None:
        frontend = port.frontends[0]
        protocol = {"TCP": 6, "UDP": 17, "SCTP": 132}[port.key.name.protocol]
        address = bytes(map(int, str(frontend.address).split(".")))
        key = address + bytes([protocol, 0, 0, 0]) + frontend.port.to_bytes(2, "big") + bytes(2)
        element = nft_elements.pack_element(nft_elements.Element(key, (0, "")))
        self.admin.commit(nft_elements.new_elements(NFPROTO_IPV4, TABLE, SERVICES, [element]))

    def limit(self, room: int) -> None:
        listed = self.admin.list_elements(NFPROTO_IPV4, TABLE, SERVICES, is_strict=False)
        self._resize(sum(map(len, listed)) + room)

    def lift_limit(self) -> None:
        self._resize(100_000)

    def _resize(self, size: int) -> None:
        found = self.admin.find_set(NFPROTO_IPV4, TABLE, SERVICES)
        assert found is not None
        self.admin.commit(
            [
                nft_messages.new_set(
                    NFPROTO_IPV4,
                    TABLE,
                    SERVICES,
                    key_type=found.key_type,
                    key_length=found.key_length,
                    data_type=found.data_type,
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


class OtherTables:
    """A table of each family with the names we use in ours."""

    def plant(self, nft: Nft) -> None:
        for number in NUMBERS:
            nft.commit(
                [
                    nft_messages.new_table(number, FOREIGN, "somebody else's"),
                    nft_messages.new_chain(number, FOREIGN, SERVICES),
                    nft_messages.new_set(number, FOREIGN, SERVICES, key_type=13, key_length=2),
                    *nft_elements.new_elements(
                        number, FOREIGN, SERVICES, [nft_elements.pack_key_element(b"\0\x50")]
                    ),
                ]
            )

    def list(self, nft: Nft) -> object:
        """All tables but ours, with everything in them."""
        return {
            (number, table.name): (table, *_content(nft, number, table.name))
            for number in NUMBERS
            for table in nft.list_tables(number)
            if table.name != TABLE
        }


def _content(nft: Nft, number: int, name: str) -> tuple[object, ...]:
    sets = nft.list_sets(number, name)
    elements = [
        sorted(element for part in nft.list_elements(number, name, s.name) for element in part)
        for s in sets
    ]
    return nft.list_chains(number, name), nft.list_rules(number, name), sets, elements


class FakeNftablesGround:
    """Hosts on the fake of nf_tables."""

    @contextmanager
    def fresh(self) -> Iterator[NftablesHost]:
        fake = NftKernel()
        with ExitStack() as closing:
            yield NftablesHost(fake.entered, OtherTables(), closing)
