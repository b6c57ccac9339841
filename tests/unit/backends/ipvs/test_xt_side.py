"""The side rules in iptables and ipset: what is written when, what is read, what is noticed."""

from collections.abc import Iterator, Sequence
from typing import Final

import pytest

from backends.ipvs.layout import IpvsSettings, fixed_sets
from backends.ipvs.model import ALLOWED, BOUND, EXTERNALS, GUARDED, REFUSED, SERVICES
from backends.ipvs.xt_layout import TABLES, XtLayout
from backends.ipvs.xt_sets import RefusedMembers
from backends.ipvs.xt_side import Tools, XtSide
from backends.kernel import ipset_messages
from backends.kernel.ipset import Ipset, Refusal
from backends.kernel.ipset_objects import IpSet, Member, SetKind
from backends.kernel.nft_node import SERVICE_CIDRS
from backends.kernel.nft_phrases import word
from backends.kernel.nft_table import Data
from backends.kernel.nft_transaction import Batch, Element, Transaction
from backends.kernel.xtables_flavour import Choice
from backends.kernel.xtables_text import Flavour
from proxy.errors import KernelError, Unsupported
from proxy.model import FAMILIES, Family
from proxy.netlink.codec import Request
from tests.contract.ipvs_xt_host import FakeMachine
from tests.model_builders import make_key

LAYOUT: Final = XtLayout(IpvsSettings(families=FAMILIES))
HTTP = bytes([10, 0, 0, 1, 6, 0, 0, 0, 0, 80, 0, 0])
DNS = bytes([10, 0, 0, 2, 17, 0, 0, 0, 0, 53, 0, 0])
KEY = make_key("default/web")
STRUCTURE = Transaction(
    tables=FAMILIES,
    sets=tuple([(family, spec) for family in FAMILIES for spec in fixed_sets(family)]),
    chains=tuple([(family, spec) for family in FAMILIES for spec in LAYOUT.chains(family)]),
)


def batch(name: str, *keys: bytes, data: Data = None, family: Family = "IPv4") -> Batch:
    return Batch(family, name, tuple([Element(key, data, KEY) for key in keys]))


class Told(Ipset):
    """What it was told, in words."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []

    def carry_out(self, requests: Sequence[Request]) -> list[Refusal]:
        self.words += [ipset_messages.describe(each) for each in requests]
        return super().carry_out(requests)


class Host:
    """A machine on paper, and a side that is whole."""

    def __init__(self, flavour: Flavour) -> None:
        self.machine = FakeMachine()
        self.flavour = flavour
        self.left: dict[Family, Flavour] = {}
        self.told: list[Told] = []

    def side(self) -> XtSide:
        with self.machine.entered():
            return XtSide(FAMILIES, self.tools())

    def tools(self) -> Tools:
        return Tools(
            find=self.find,
            open_ipset=self.open,
            open_numbers=lambda flavour, _: self.machine.numbers(flavour),
            probe=self.machine.probe,
        )

    def find(self, families: Sequence[Family]) -> Choice:
        left = {f: self.machine.door(flavour, f) for f, flavour in self.left.items()}
        return Choice(
            self.flavour, {f: self.machine.door(self.flavour, f) for f in families}, left
        )

    def open(self) -> Ipset:
        self.told.append(Told())
        return self.told[-1]

    def restored(self) -> int:
        return len(self.machine.tables.calls)


@pytest.fixture(params=Flavour)
def host(request: pytest.FixtureRequest) -> Host:
    return Host(request.param)


@pytest.fixture
def side(host: Host) -> Iterator[XtSide]:
    made = host.side()
    made.read_tables(FAMILIES)
    made.commit(STRUCTURE)
    with host.machine.entered():
        yield made
    made.close()


def test_what_is_written_is_read_and_elements_need_no_program(host: Host, side: XtSide) -> None:
    calls = host.restored()
    step = Transaction(
        adds=(batch(BOUND, HTTP[:4]), batch(SERVICES, HTTP), batch(EXTERNALS, DNS, data=word(7)))
    )
    assert not side.is_slow(step)
    assert side.is_slow(STRUCTURE)
    side.commit(step)

    tables, generation = side.read_tables(FAMILIES)

    facts = tables["IPv4"]
    assert facts.is_present
    assert facts.chains == LAYOUT.chain_facts["IPv4"]
    assert facts.sets == LAYOUT.set_facts["IPv4"]
    assert facts.elements[SERVICES] == {HTTP: None}
    assert facts.elements[EXTERNALS] == {DNS: word(7)}
    assert tables["IPv6"].elements[SERVICES] == {}
    assert generation == side.generation()
    assert host.restored() == calls == len(FAMILIES) * len(TABLES)


def test_who_may_come_in_is_known_before_anybody_is_asked_and_forgotten_after(
    host: Host, side: XtSide
) -> None:
    allowed = bytes([192, 0, 2, 0]) + HTTP + bytes([192, 0, 2, 255]) + HTTP
    both = (batch(GUARDED, HTTP), batch(ALLOWED, allowed))
    host.told[0].words.clear()

    side.commit(Transaction(adds=both))
    side.commit(Transaction(deletes=both))

    assert host.told[0].words == [
        "add 10.0.0.1,tcp:80,192.0.2.0/24 to set slice-ipvs4-allowed",
        "add 10.0.0.1,tcp:80 to set slice-ipvs4-guarded",
        "delete 10.0.0.1,tcp:80 from set slice-ipvs4-guarded",
        "delete 10.0.0.1,tcp:80,192.0.2.0/24 from set slice-ipvs4-allowed",
    ]


def test_a_frontend_that_is_served_again_is_so_before_it_is_not_refused_any_more(
    host: Host, side: XtSide
) -> None:
    side.commit(Transaction(adds=(batch(REFUSED, HTTP),)))
    host.told[0].words.clear()

    side.commit(Transaction(deletes=(batch(REFUSED, HTTP),), adds=(batch(SERVICES, HTTP),)))

    assert [word.split()[0] for word in host.told[0].words] == ["add", "delete"]


def test_a_mark_is_changed_in_place(host: Host, side: XtSide) -> None:
    side.commit(Transaction(adds=(batch(EXTERNALS, HTTP, data=word(7)),)))
    host.told[0].words.clear()

    side.commit(
        Transaction(
            deletes=(batch(EXTERNALS, HTTP, data=word(7)),),
            adds=(batch(EXTERNALS, HTTP, data=word(8)),),
        )
    )

    assert [word.split()[0] for word in host.told[0].words] == ["add"]
    assert side.read_elements("IPv4", EXTERNALS, [HTTP, DNS]) == {HTTP: word(8)}


def test_ranges_are_replaced_without_a_moment_in_which_what_stays_is_not_there(
    host: Host, side: XtSide
) -> None:
    old = [bytes([10, 96, 0, 0, 0]), bytes([10, 97, 0, 0, 1])]
    new = [bytes([10, 96, 0, 0, 0]), bytes([10, 98, 0, 0, 1])]
    side.commit(Transaction(adds=(batch(SERVICE_CIDRS, *old),)))
    with Ipset() as admin:
        admin.carry_out([ipset_messages.add("slice-ipvs4-service-cidrs", Member("10.112.0.0/12"))])
    host.told[0].words.clear()

    side.commit(
        Transaction(deletes=(batch(SERVICE_CIDRS, *old),), adds=(batch(SERVICE_CIDRS, *new),))
    )

    words = [" ".join(word.split()[:2]) for word in host.told[0].words]
    assert words == ["add 10.96.0.0/15", "delete 10.96.0.0/16", "delete 10.112.0.0/12"]


def test_own_commits_are_no_news_and_those_of_others_are(host: Host, side: XtSide) -> None:
    before = side.generation()
    side.commit(Transaction(adds=(batch(SERVICES, HTTP), batch(EXTERNALS, DNS, data=word(7)))))
    side.commit(Transaction(deletes=(batch(SERVICES, HTTP),)))
    assert side.generation() == before + 2

    with Ipset() as admin:
        admin.carry_out([ipset_messages.add("slice-ipvs4-bound", Member("192.0.2.1"))])
        assert side.generation() == before + 3
        assert side.generation() == before + 3
        admin.carry_out([ipset_messages.create(IpSet("theirs", SetKind.ADDRESS, "IPv4"))])
        assert side.generation() == before + 3
    host.machine.door(host.flavour, "IPv4").restore("mangle", ["-A SLICE-IPVS-BOUND -j RETURN"])
    assert side.generation() == before + 4


def test_who_changes_a_set_while_we_do_is_noticed(side: XtSide) -> None:
    before = side.generation()
    with Ipset() as admin:
        admin.carry_out([ipset_messages.add("slice-ipvs4-bound", Member("192.0.2.1"))])

    side.commit(Transaction(adds=(batch(SERVICES, HTTP),)))

    assert side.generation() == before + 2


def test_a_member_that_is_refused_is_its_service_ports_and_others_are_there(
    host: Host, side: XtSide
) -> None:
    small = IpSet("small", SetKind.ADDRESS_PORT, "IPv4", max_members=1)
    with Ipset() as admin:
        swapped = [
            ipset_messages.create(small),
            ipset_messages.swap("small", "slice-ipvs4-services"),
        ]
        assert admin.carry_out(swapped) == []

    with pytest.raises(RefusedMembers, match="full") as caught:
        side.commit(Transaction(adds=(batch(SERVICES, HTTP, DNS),)))

    assert caught.value.owners == {KEY}
    assert side.read_elements("IPv4", SERVICES, [HTTP, DNS]) == {HTTP: None}


def test_what_is_nobodys_and_refused_is_an_error(side: XtSide) -> None:
    nobodys = Batch("IPv4", "services", (Element(bytes(4), None, None),))
    with pytest.raises(KernelError):
        side.commit(Transaction(adds=(nobodys,)))


def test_a_rebuild_replaces_sets_of_another_shape_and_removes_strangers(
    host: Host, side: XtSide
) -> None:
    side.commit(Transaction(adds=(batch(SERVICES, HTTP), batch(BOUND, HTTP[:4]))))
    door = host.machine.door(host.flavour, "IPv4")
    door.restore("nat", [":SLICE-IPVS-OLD - [0:0]", "-A SLICE-IPVS-OLD -j RETURN"])
    other = IpSet("other", SetKind.ADDRESS_PORT, "IPv4", max_members=9)
    with Ipset() as admin:
        requests = [
            ipset_messages.create(IpSet("slice-ipvs4-crowd", SetKind.ADDRESS, "IPv4")),
            ipset_messages.create(other),
            ipset_messages.swap("other", "slice-ipvs4-services"),
            ipset_messages.add("slice-ipvs4-services", Member("10.9.9.9", 6, 9)),
        ]
        assert admin.carry_out(requests) == []
    found, _ = side.read_tables(FAMILIES)
    assert found["IPv4"].sets[SERVICES] != LAYOUT.set_facts["IPv4"][SERVICES]
    assert "nat/SLICE-IPVS-OLD" in found["IPv4"].chains

    whole = STRUCTURE._replace(
        rebuild=FAMILIES, adds=(batch(SERVICES, DNS), batch(BOUND, DNS[:4]))
    )
    side.commit(whole)

    facts = side.read_tables(FAMILIES)[0]["IPv4"]
    assert (facts.sets, facts.chains) == (LAYOUT.set_facts["IPv4"], LAYOUT.chain_facts["IPv4"])
    assert facts.elements[SERVICES] == {DNS: None}
    assert facts.elements[BOUND] == {DNS[:4]: None}


def test_a_set_of_another_kind_is_replaced_too(host: Host) -> None:
    made = host.side()
    with host.machine.entered(), Ipset() as admin:
        wrong = IpSet("slice-ipvs4-bound", SetKind.NETWORK, "IPv4")
        assert admin.carry_out([ipset_messages.create(wrong)]) == []

        made.commit(STRUCTURE._replace(rebuild=FAMILIES))

        assert made.read_structure("IPv4").sets == LAYOUT.set_facts["IPv4"]


def test_everything_goes_rules_first_and_that_of_others_stays(host: Host, side: XtSide) -> None:
    door = host.machine.door(host.flavour, "IPv4")
    door.restore("mangle", ["-A OUTPUT -j RETURN"])
    assert side.is_there()

    assert side.delete() > len(fixed_sets("IPv4"))

    assert not side.is_there()
    assert side.delete() == 0
    saved = door.save("mangle")
    assert saved["OUTPUT"].rules == ("-j RETURN",)
    assert not [name for name in saved if name.startswith("SLICE")]


def test_sets_go_once_the_kernel_has_noticed_that_no_rule_asks_them(
    host: Host, side: XtSide
) -> None:
    uses = host.machine.netfilter.ipset.references
    uses["slice-ipvs4-bound"] += 1  # of a rule that is gone, but not quite

    class Late(Told):
        def carry_out(self, requests: Sequence[Request]) -> list[Refusal]:
            refusals = super().carry_out(requests)
            if refusals:
                uses["slice-ipvs4-bound"] -= 1
            return refusals

    late = XtSide(FAMILIES, host.tools()._replace(open_ipset=Late))

    assert late.delete() > 0
    assert not side.is_there()


def test_tables_that_only_nft_can_list_are_no_drift_and_nothing_of_ours_stays_in_them(
    host: Host, side: XtSide
) -> None:
    host.machine.tables.only_nft |= {(family, table) for family in FAMILIES for table in TABLES}

    found = side.read_structure("IPv4")
    assert found.sets == LAYOUT.set_facts["IPv4"]
    assert found.chains == LAYOUT.chain_facts["IPv4"]
    side.commit(STRUCTURE)
    assert side.delete() > len(fixed_sets("IPv4"))

    host.machine.tables.only_nft.clear()
    assert not side.is_there()
    assert side.delete() == 0


def test_what_is_left_in_the_other_flavour_goes_when_told(host: Host, side: XtSide) -> None:
    other = Flavour.NFT if host.flavour is Flavour.LEGACY else Flavour.LEGACY
    for flavour in (host.flavour, other):
        host.machine.door(flavour, "IPv4").restore("nat", [":SLICE-IPVS-TRANSLATE - [0:0]"])
    host.left = {"IPv4": other}
    again = host.side()

    assert again.sweep() == 1
    assert again.sweep() == 0

    assert "SLICE-IPVS-TRANSLATE" not in host.machine.door(other, "IPv4").save("nat")
    assert "SLICE-IPVS-TRANSLATE" in host.machine.door(host.flavour, "IPv4").save("nat")
    assert side.is_there()


def test_without_programs_sets_that_somebody_left_are_found_and_removed(host: Host) -> None:
    def find(_: object) -> Choice:
        raise Unsupported("the iptables programs", "not installed for IPv4")

    with host.machine.entered(), Ipset() as admin:
        left = IpSet("slice-ipvs4-bound", SetKind.ADDRESS, "IPv4", max_members=1 << 20)
        assert admin.carry_out([ipset_messages.create(left)]) == []
        side = XtSide(FAMILIES, host.tools()._replace(find=find))

        assert side.is_there()
        assert side.read_tables(FAMILIES)[0]["IPv4"].sets.keys() == {BOUND}
        assert side.delete() == 1
        assert not side.is_there()
