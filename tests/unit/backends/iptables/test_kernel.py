"""What is read of tables and sets, and what is left aside."""

import pytest

from backends.iptables.kernel import Doors, all_parts, observe, read, read_sets
from backends.iptables.layout import JUMPS, POSTROUTING, SERVICES
from backends.iptables.model import ChainState
from backends.kernel import ipset_messages
from backends.kernel.ipset import Ipset
from backends.kernel.ipset_objects import IpSet, Member, SetKind
from backends.kernel.xtables_text import Flavour
from proxy.errors import KernelError
from proxy.model import FAMILIES
from tests.fakes.ipset import IpsetKernel
from tests.fakes.xtables import XtablesKernel

IPS = IpSet("sliceproxy4-ips", SetKind.ADDRESS, "IPv4")
PORTS = IpSet("sliceproxy4-ports", SetKind.PORT, None)
CLIENTS = IpSet("sliceproxy4-a-X", SetKind.ADDRESS, "IPv4", timeout_s=60)
OTHERS = (IpSet("sliceproxy6-ips", SetKind.ADDRESS, "IPv6"), IpSet("mine", SetKind.PORT, None))


def test_sets_of_ours_in_one_family_are_read_and_members_of_those_that_rules_do_not_write() -> (
    None
):
    with IpsetKernel().entered(), Ipset() as ipset:
        members = [Member(f"10.0.{i >> 8}.{i & 255}") for i in range(300)]
        made = [ipset_messages.create(each) for each in (IPS, PORTS, CLIENTS, *OTHERS)]
        added = [ipset_messages.add(IPS.name, each) for each in members]
        added.append(ipset_messages.add(CLIENTS.name, Member("10.1.0.1")))
        assert ipset.carry_out([*made, *added]) == []

        found = read_sets(ipset, "IPv4")

    assert found == {
        IPS.name: (IPS, set(members)),
        PORTS.name: (PORTS, set()),
        CLIENTS.name: (CLIENTS, set()),
    }


def test_a_set_that_goes_meanwhile_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with IpsetKernel().entered(), Ipset() as ipset:
        assert ipset.carry_out([ipset_messages.create(each) for each in (IPS, PORTS)]) == []
        members = ipset.members

        def go(name: str) -> object:
            if name == IPS.name:
                ipset.carry_out([ipset_messages.destroy(name)])
            return members(name)

        monkeypatch.setattr(ipset, "members", go)
        found = read_sets(ipset, "IPv4")

    assert found == {PORTS.name: (PORTS, set())}


def test_of_a_table_that_cannot_be_read_chains_are_known_by_name_and_jumps_by_asking(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tables = XtablesKernel()
    doors = {family: tables.door(Flavour.NFT, family) for family in FAMILIES}
    into, back = JUMPS["nat"][0], JUMPS["nat"][2]
    doors["IPv4"].restore(
        "nat",
        [
            *[f":{name} - [0:0]" for name in (SERVICES, POSTROUTING, "THEIRS")],
            *[f"-A {jump.chain} {jump.rule}" for jump in (into, back)],
            "-A OUTPUT -j THEIRS",
        ],
    )
    tables.only_nft.add(("IPv4", "nat"))
    with IpsetKernel().entered(), Ipset() as ipset:
        doors_of_both = Doors(ipset, doors)

        observed = observe(doors_of_both)

        tables.only_nft.clear()
        assert not observe(doors_of_both).is_rebuild_due
    known = observed.facts["IPv4"]
    assert known.chains["nat"] == dict.fromkeys([SERVICES, POSTROUTING], ChainState("", 1))
    assert known.jumps["nat"] == {(jump.chain, jump.mark): jump for jump in (into, back)}
    assert observed.unread == {("IPv4", "nat")}
    assert observed.is_rebuild_due
    assert "nft -a list table ip nat" in caplog.text


def test_another_failure_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: str) -> object:
        raise KernelError("list", 12, "no memory")

    with IpsetKernel().entered(), Ipset() as ipset:
        assert ipset.carry_out([ipset_messages.create(IPS)]) == []
        monkeypatch.setattr(ipset, "members", fail)
        with pytest.raises(KernelError, match="no memory"):
            read_sets(ipset, "IPv4")


def test_what_is_asked_for_is_read_and_taken_for_a_belief() -> None:
    tables = XtablesKernel()
    doors = {family: tables.door(Flavour.LEGACY, family) for family in FAMILIES}
    doors["IPv6"].restore("nat", [":SLICEPROXY-A - [0:0]", "-A SLICEPROXY-A -j RETURN"])
    doors["IPv6"].restore("mangle", [":SLICEPROXY-B - [0:0]"])
    with IpsetKernel().entered(), Ipset() as ipset:
        assert ipset.carry_out([ipset_messages.create(IPS)]) == []

        found = read(Doors(ipset, doors), all_parts(FAMILIES))
        less = read(Doors(ipset, doors), [("IPv6", "nat"), ("IPv4", None)])

    rules = {name: chain.rules for name, chain in found.tables["IPv6"]["nat"].items()}
    assert rules["SLICEPROXY-A"] == ("-j RETURN",)
    assert found.tables["IPv4"] == {"nat": {}, "filter": {}}
    observed = found.observed()
    assert observed.facts["IPv6"].chains["nat"] == {"SLICEPROXY-A": ChainState("", 1)}
    assert observed.facts["IPv4"].sets == {IPS.name: IPS}
    assert less.tables == {"IPv6": {"nat": found.tables["IPv6"]["nat"]}, "IPv4": {}}
    assert less.sets == {"IPv4": found.sets["IPv4"]}
