"""A backend on fakes of nf_tables, IPVS and links, driven step by step."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from backends.ipvs.backend import IpvsBackend
from backends.ipvs.belief import DRAIN_S, Observed
from backends.ipvs.kernel import Doors
from backends.ipvs.layout import IpvsSettings, Layout
from backends.ipvs.nft_side import NftSide
from backends.kernel.ipvs import Ipvs
from backends.kernel.ipvs_objects import Destination, Load, ServerId
from backends.kernel.nft import Nft
from proxy.backend import Applied
from proxy.desired import DesiredPort
from proxy.model import FAMILIES, PortKey
from tests.desired_strategies import make_desired, whole
from tests.fakes.ipvs import IpvsKernel
from tests.fakes.links import LinksKernel
from tests.fakes.netfilter import NetfilterKernel

CIDRS = ("10.244.0.0/16", "fd00:10:244::/48")
LAYOUT = Layout(IpvsSettings(families=FAMILIES, cluster_cidrs=CIDRS))
WEB = make_desired("default/web", "10.1.0.1:80")
API = make_desired("default/api", "10.1.0.2:80", cluster_ip="10.96.0.11")


class Kernel:
    """The fakes as one."""

    def __init__(self) -> None:
        self.netfilter, self.links, self.ipvs = NetfilterKernel(), LinksKernel(), IpvsKernel()
        self.nft = self.netfilter.nft

    @contextmanager
    def entered(self) -> Iterator[None]:
        with self.netfilter.entered(), self.links.entered(), self.ipvs.entered():
            yield

    def destinations(self, server: ServerId) -> dict[str, tuple[int, Load]]:
        """Weight and connections of each destination of a virtual server, as the kernel has them."""
        with self.entered(), Ipvs() as ipvs:
            found: list[tuple[Destination, Load]] = ipvs.list_destinations(server)
        return {str(each): (each.weight, load) for each, load in found}


def nft_of(doors: Doors) -> Nft:
    """The door to nftables, where the side rules are there."""
    assert isinstance(doors.side, NftSide)
    return doors.side.nft


class Process:
    """One process after the other, on the same kernel."""

    def __init__(
        self,
        kernel: Kernel,
        *,
        settings: IpvsSettings | None = None,
        deadlines_file: Path | None = None,
        drain_s: float = DRAIN_S,
        now_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._kernel = kernel
        layout = Layout(settings or IpvsSettings(families=FAMILIES, cluster_cidrs=CIDRS))
        self.backend = IpvsBackend(
            layout, deadlines_file=deadlines_file, drain_s=drain_s, now_s=now_s
        )
        self.observed = Observed({})

    async def adopt(self, *ports: DesiredPort) -> None:
        """Do what a process does that starts."""
        with self._kernel.entered():
            self.observed = await self.backend.observe()
        await self.program(*ports)
        desired = whole(_by_key(ports))
        await self.backend.apply(self.backend.prune(desired, self.observed), self.observed)

    async def program(self, *ports: DesiredPort, gone: tuple[PortKey, ...] = ()) -> Applied:
        """Make these all ServicePorts there are."""
        desired = whole(_by_key(ports))
        keys = [*desired.ports, *gone]
        plan = self.backend.plan(desired, self.observed, keys)
        return await self.backend.apply(plan, self.observed)

    async def look(self, *ports: DesiredPort) -> Applied:
        """Do what is due some time later."""
        plan = self.backend.plan(whole(_by_key(ports)), self.observed, [])
        return await self.backend.apply(plan, self.observed)


def _by_key(ports: tuple[DesiredPort, ...]) -> Mapping[PortKey, DesiredPort]:
    return {port.key: port for port in ports}
