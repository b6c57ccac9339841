"""Which side rules are written: those that this host can have, and what an earlier process wrote is found."""

import asyncio
import errno
import logging
from contextlib import ExitStack

import pytest

from backends.ipvs.backend import IpvsBackend
from backends.ipvs.layout import IpvsSettings, Layout
from backends.ipvs.nft_side import NftSide
from backends.ipvs.sides import SideName, Sides
from backends.ipvs.xt_layout import TABLES, XtLayout
from backends.ipvs.xt_side import XtSide
from backends.kernel.nft import Nft
from backends.kernel.nft_messages import Table
from backends.kernel.xtables_text import Flavour
from proxy.desired import Frontend
from proxy.errors import KernelError, Unsupported
from proxy.model import FAMILIES
from tests.desired_strategies import Ports, addresses, make_desired, whole
from tests.unit.backends.ipvs.test_xt_side import Host

LAYOUT = Layout(IpvsSettings(families=FAMILIES))
WEB = make_desired(
    "default/web",
    *addresses(1, 2),
    cluster_ip="10.96.0.7",
    outer=(Frontend("LoadBalancer", "203.0.113.7", 80),),
)


@pytest.fixture
def host() -> Host:
    return Host(Flavour.LEGACY)


def sides(host: Host, only: SideName | None = None) -> Sides:
    return Sides(Nft, host.tools(), only)


def test_nftables_is_written_where_there_is_nftables(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    made = sides(host)
    with host.machine.entered():
        made.choose(LAYOUT)
        side = made.open(LAYOUT)

    assert (made.name, type(side)) == ("nftables", NftSide)
    assert type(made.layout(LAYOUT)) is Layout
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


def test_without_nftables_it_is_iptables_and_the_log_says_why(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    host.machine.netfilter.has_nft = False
    made = sides(host)
    with host.machine.entered():
        made.choose(LAYOUT)
        side = made.open(LAYOUT)

    assert (made.name, type(side)) == ("iptables", XtSide)
    assert type(made.layout(LAYOUT)) is XtLayout
    [said] = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert said.startswith("side rules are written with iptables (legacy) and ipset; nftables: ")


def test_a_host_that_has_neither_is_told_what_each_lacks(host: Host) -> None:
    host.machine.netfilter.has_nft = False

    def find(_: object) -> object:
        raise Unsupported("the iptables programs", "not installed for IPv4")

    made = Sides(Nft, host.tools()._replace(find=find))  # type: ignore[arg-type] # it only raises

    with (
        host.machine.entered(),
        pytest.raises(Unsupported, match=r"nftables: .*iptables programs"),
    ):
        made.choose(LAYOUT)


def test_where_programs_of_iptables_fail_it_is_still_told_what_nftables_lacks(host: Host) -> None:
    host.machine.netfilter.has_nft = False

    def find(_: object) -> object:
        raise KernelError("iptables-legacy-save: table nat", 0, "needs the capability NET_RAW")

    made = Sides(Nft, host.tools()._replace(find=find))  # type: ignore[arg-type] # it only raises

    with (
        host.machine.entered(),
        pytest.raises(Unsupported, match=r"nftables: .*; iptables: iptables-.*NET_RAW"),
    ):
        made.choose(LAYOUT)


def test_who_is_told_which_one_tries_no_other(host: Host) -> None:
    made = sides(host, "iptables")
    with host.machine.entered():
        made.choose(LAYOUT)

    assert made.name == "iptables"


def test_missing_rights_are_called_by_their_name(host: Host) -> None:
    class NoRights(Nft):
        def find_table(self, family: int, name: str) -> Table | None:
            raise KernelError("nftables query", errno.EPERM, "Operation not permitted")

    made = Sides(NoRights, host.tools(), "nftables")
    with host.machine.entered(), pytest.raises(Unsupported, match="capability NET_ADMIN"):
        made.choose(LAYOUT)


def test_a_moment_of_weakness_is_no_reason_for_the_other_one(host: Host) -> None:
    class Weak(Nft):
        def find_table(self, family: int, name: str) -> Table | None:
            raise KernelError("nftables query", errno.ENOBUFS, "No buffer space available")

    made = Sides(Weak, host.tools())
    with host.machine.entered(), pytest.raises(KernelError, match="No buffer space"):
        made.choose(LAYOUT)


async def _adopt(host: Host, only: SideName, desired: Ports) -> IpvsBackend:
    """Do what a process does that starts."""
    with host.machine.entered():
        backend = IpvsBackend(LAYOUT, tools=host.tools(), side=only)
        observed = await backend.observe()
        keys = list(desired)
        applied = await backend.apply(backend.plan(whole(desired), observed, keys), observed)
        assert applied.failed == {}
        await backend.apply(backend.prune(whole(desired), observed), observed)
    return backend


def _found(host: Host, backend: IpvsBackend) -> list[str]:
    with ExitStack() as closing:
        return [each.words.partition(" ")[0] for each in backend._sides.found(LAYOUT, closing)]


@pytest.mark.parametrize(("first", "second"), [("nftables", "iptables"), ("iptables", "nftables")])
def test_what_the_other_side_has_goes_once_all_is_in_this_one_and_virtual_servers_stay(
    host: Host, first: SideName, second: SideName
) -> None:
    desired = {WEB.key: WEB}
    before = asyncio.run(_adopt(host, first, desired))
    with host.machine.entered():
        assert _found(host, before) == [first]
        servers = {each.id for each in before._doors.ipvs.list_servers()}
        assert len(servers) == 2

        after = asyncio.run(_adopt(host, second, desired))

        assert _found(host, after) == [second]
        # also those that are found by mark: numbers are read from what the other side had
        assert {each.id for each in after._doors.ipvs.list_servers()} == servers


@pytest.mark.parametrize("only", ["nftables", "iptables"])
def test_cleanup_removes_both(host: Host, only: SideName) -> None:
    backends = [asyncio.run(_adopt(host, each, {})) for each in ("nftables", "iptables")]
    with host.machine.entered():
        other = IpvsBackend(LAYOUT, tools=host.tools(), side=only)

        assert asyncio.run(other.cleanup()) > 0

        assert _found(host, other) == []
    for each in backends:
        each.close()


def test_other_side_rules_that_cannot_be_read_or_removed_are_no_reason_not_to_start(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    asyncio.run(_adopt(host, "iptables", {WEB.key: WEB}))

    def find(_: object) -> object:
        raise KernelError("iptables-save: table nat", 0, "out of order")

    broken = host.tools()._replace(find=find)  # type: ignore[arg-type] # it only raises
    with host.machine.entered():
        backend = IpvsBackend(LAYOUT, tools=broken)
        observed = asyncio.run(backend.observe())
        desired = whole({WEB.key: WEB})
        applied = asyncio.run(backend.apply(backend.plan(desired, observed, [WEB.key]), observed))
        assert applied.failed == {}
        asyncio.run(backend.apply(backend.prune(desired, observed), observed))

        assert _found(host, backend) == ["nftables", "iptables"]
    assert [each for each in caplog.messages if "left for now" in each]


def test_tables_that_only_nft_can_list_hinder_neither_work_nor_a_start_nor_the_way_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    host, desired = Host(Flavour.NFT), {WEB.key: WEB}
    tables = {(family, table) for family in FAMILIES for table in TABLES}
    before = asyncio.run(_adopt(host, "iptables", desired))
    with host.machine.entered():
        observed = asyncio.run(before.observe())
        asyncio.run(before.apply(before.plan(whole(desired), observed, [WEB.key]), observed))
        host.machine.tables.only_nft |= tables

        assert asyncio.run(before.verify(observed)) == []
        assert asyncio.run(before.verify(observed)) == []
        assert len([each for each in caplog.messages if "only nft can list" in each]) == 6

        after = asyncio.run(_adopt(host, "iptables", desired))
        observed = asyncio.run(after.observe())
        assert not after.plan(whole(desired), observed, [WEB.key])
        assert asyncio.run(after.verify(observed)) == []

        assert asyncio.run(after.cleanup()) > 0

        host.machine.tables.only_nft.clear()
        assert _found(host, after) == []
        text = str([host.machine.tables.chains(Flavour.NFT, *each) for each in tables])
        assert "SLICE" not in text
    for each in (before, after):
        each.close()
