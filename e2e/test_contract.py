"""The laws of proxy/backend.py on the real kernel: the tests of tests/contract, in a namespace instead of on a fake."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from backends.ipvs.model import DEVICE
from backends.kernel import ipvs_messages
from backends.kernel.ipvs import Ipvs
from backends.kernel.links import Links
from backends.kernel.nft import Nft
from backends.nftables.model import TABLE
from e2e.namespace import Namespace
from tests.contract.host import Ground
from tests.contract.ipvs_host import IpvsHost, OtherThings
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
