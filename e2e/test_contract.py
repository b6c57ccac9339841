"""The laws of proxy/backend.py on the real kernel: the tests of tests/contract, in a namespace instead of on a fake."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager

import pytest

from backends.iptables.canary import Canary, open_canary
from backends.iptables.model import TABLES
from backends.iptables.probe import probe
from backends.ipvs.layout import Layout
from backends.ipvs.model import DEVICE
from backends.ipvs.xt_layout import TABLES as XT_TABLES
from backends.ipvs.xt_probing import probe as xt_probe
from backends.ipvs.xt_side import Numbers
from backends.kernel import ipvs_messages, xtables_flavour
from backends.kernel.ipset import Ipset
from backends.kernel.ipvs import Ipvs
from backends.kernel.links import Links
from backends.kernel.nft import Nft
from backends.kernel.xtables import Programs, Xtables, find_programs
from backends.kernel.xtables_flavour import Choice
from backends.kernel.xtables_numbers import TableNumbers
from backends.kernel.xtables_text import Chain, Flavour
from backends.nftables.model import TABLE
from e2e.namespace import Namespace
from proxy.model import FAMILIES, Family
from tests.contract.host import Ground
from tests.contract.iptables_host import IptablesHost
from tests.contract.iptables_laws import IptablesLaws
from tests.contract.ipvs_host import IpvsHost, OtherThings
from tests.contract.ipvs_xt_host import XtIpvsHost
from tests.contract.laws import KernelLaws
from tests.contract.nftables_host import NftablesHost, OtherTables

pytestmark = pytest.mark.requires("nftables", "iptables")


class OthersInNamespace(OtherTables):
    """Other tables, and rules of iptables, as the stock tools show them."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace

    def plant(self, nft: Nft) -> None:
        super().plant(nft)
        for command, address in (("iptables", "192.0.2.1"), ("ip6tables", "2001:db8::1")):
            rules = f"*nat\n-A PREROUTING -p tcp --dport 9 -j DNAT --to-destination {address}\n"
            self._namespace.run([f"{command}-restore"], stdin=f"{rules}COMMIT\n")

    def list(self, nft: Nft) -> object:
        """What `nft` and `iptables-save` print, but for our own tables and the time of day."""
        tables = self._namespace.run(["nft", "list", "tables"]).splitlines()
        listed = [
            self._namespace.run(["nft", "--handle", "list", *table.split()])
            for table in tables
            if table.split()[2] != TABLE
        ]
        saved = [self._namespace.run([f"{name}-save"]) for name in ("iptables", "ip6tables")]
        rules = [line for text in saved for line in text.splitlines() if not line.startswith("#")]
        return listed, rules


class NamespaceGround:
    """Hosts in one namespace, one after the other."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace

    @contextmanager
    def fresh(self) -> Iterator[NftablesHost]:
        self._namespace.run(["nft", "flush", "ruleset"])
        with ExitStack() as closing:
            others = OthersInNamespace(self._namespace)
            yield NftablesHost(self._namespace.entered, others, closing)


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    with Namespace("laws") as made:
        yield made


class RealKernelLaws(KernelLaws):
    """What not every kernel can be asked."""

    @pytest.mark.requires("set sizes")  # which is how the kernel is made to refuse
    def test_l8_who_is_refused_again_and_again_is_set_aside_and_served_when_it_can_be(
        self, ground: Ground
    ) -> None:
        super().test_l8_who_is_refused_again_and_again_is_set_aside_and_served_when_it_can_be(
            ground
        )


class TestNftables(RealKernelLaws):
    @pytest.fixture
    def ground(self, namespace: Namespace) -> Ground:
        return NamespaceGround(namespace)


class NamespacedXtables(Xtables):
    """A door whose programs run in a namespace, whatever thread asks."""

    def __init__(self, programs: Programs, namespace: Namespace) -> None:
        super().__init__(programs)
        self._namespace = namespace

    def restore(self, table: str, lines: Sequence[str]) -> None:
        with self._namespace.entered():
            super().restore(table, lines)

    def save(self, table: str) -> dict[str, Chain]:
        with self._namespace.entered():
            return super().save(table)


class Tables:
    """What tables of a namespace are reached through."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace

    def door(self, flavour: Flavour, family: Family) -> Xtables:
        return NamespacedXtables(find_programs(family)[flavour], self._namespace)

    def entered(self) -> AbstractContextManager[None]:
        return self._namespace.entered()


def empty_legacy_tables(namespace: Namespace, tables: Iterable[str]) -> None:
    for stem in ("iptables", "ip6tables"):
        empty = "".join([f"*{table}\nCOMMIT\n" for table in tables])
        namespace.run([f"{stem}-legacy-restore"], stdin=empty)


class IptablesMachine(Tables):
    """The tables of one flavour, and the sets, of a namespace."""

    def open_canary(self, flavour: Flavour) -> Canary:
        with self.entered():
            return open_canary(flavour, FAMILIES)

    def probe(self, choice: Choice, open_ipset: Callable[[], Ipset]) -> None:
        probe(choice.tables)

    def everything(self, flavour: Flavour) -> list[str]:
        programs = [find_programs(family)[flavour].stem for family in FAMILIES]
        saved = [self._namespace.run([f"{stem}-save", "-c"]) for stem in programs]
        rules = [line for text in saved for line in text.splitlines() if not line.startswith("#")]
        return [*rules, *sorted(self._namespace.run(["ipset", "save"]).splitlines())]


class IptablesGround:
    """Hosts of one flavour in one namespace, one after the other."""

    def __init__(self, namespace: Namespace, flavour: Flavour) -> None:
        self._namespace = namespace
        self._flavour = flavour

    @contextmanager
    def fresh(self) -> Iterator[IptablesHost]:
        self._namespace.run(["nft", "flush", "ruleset"])
        empty_legacy_tables(self._namespace, TABLES)
        self._namespace.run(["ipset", "destroy"])
        with ExitStack() as closing:
            yield IptablesHost(IptablesMachine(self._namespace), self._flavour, closing)


@pytest.fixture(params=Flavour)
def iptables_ground(namespace: Namespace, request: pytest.FixtureRequest) -> Ground:
    return IptablesGround(namespace, request.param)


@pytest.mark.requires("iptables-legacy", "iptables-nft", "ipset")
class TestIptables(IptablesLaws):
    @pytest.fixture
    def ground(self, iptables_ground: Ground) -> Ground:
        return iptables_ground


class IpvsGround:
    """Hosts in one namespace, one after the other."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace

    @contextmanager
    def fresh(self) -> Iterator[IpvsHost]:
        self._namespace.run(["nft", "flush", "ruleset"])
        with self._namespace.entered(), Ipvs() as ipvs, Links() as links:
            servers = [ipvs_messages.del_server(server.id) for server in ipvs.list_servers()]
            assert ipvs.carry_out(servers) == []
            links.remove_dummy(DEVICE)
        with ExitStack() as closing:
            yield IpvsHost(self._namespace.entered, OtherThings(), closing)


@pytest.mark.requires("ipvs", "dummy")
class TestIpvs(RealKernelLaws):
    @pytest.fixture
    def ground(self, namespace: Namespace) -> Ground:
        return IpvsGround(namespace)


class IpvsMachine(Tables):
    """What the side rules of one namespace are reached through."""

    def numbers(self, flavour: Flavour) -> Numbers:
        with self.entered():
            return TableNumbers(flavour, FAMILIES, XT_TABLES)

    def probe(self, choice: xtables_flavour.Choice, layout: Layout) -> None:
        xt_probe(choice, layout)


class XtIpvsGround(IpvsGround):
    """The same with side rules of one flavour of iptables."""

    def __init__(self, namespace: Namespace, flavour: Flavour) -> None:
        super().__init__(namespace)
        self._flavour = flavour

    @contextmanager
    def fresh(self) -> Iterator[IpvsHost]:
        with super().fresh():
            empty_legacy_tables(self._namespace, XT_TABLES)
            self._namespace.run(["ipset", "destroy"])
        with ExitStack() as closing:
            yield XtIpvsHost(IpvsMachine(self._namespace), self._flavour, closing)


@pytest.fixture(params=Flavour)
def beside_ground(namespace: Namespace, request: pytest.FixtureRequest) -> Ground:
    return XtIpvsGround(namespace, request.param)


@pytest.mark.requires("ipvs", "dummy", "iptables-legacy", "iptables-nft", "ipset")
class TestIpvsBesideIptables(KernelLaws):
    @pytest.fixture
    def ground(self, beside_ground: Ground) -> Ground:
        return beside_ground
