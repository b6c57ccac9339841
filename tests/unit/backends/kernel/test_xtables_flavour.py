"""Which flavour is used where both are installed, or one of them."""

import re

import pytest

from backends.kernel import xtables
from backends.kernel import xtables_flavour as flavour
from backends.kernel.xtables import Programs, Xtables
from backends.kernel.xtables_flavour import Sight, choose, find, look
from backends.kernel.xtables_text import Chain, Flavour
from proxy.errors import KernelError, Unsupported
from proxy.model import FAMILIES, Family
from tests.fakes.xtables import XtablesKernel, programs

LEGACY, NFT = Flavour
OURS = "SLICEPROXY-"


class Installed:
    """Programs on top of fakes; `missing` ones are not installed."""

    def __init__(self) -> None:
        self.kernel = XtablesKernel()
        self.missing: set[tuple[Family, Flavour]] = set()
        self.usual: Flavour | None = NFT

    def find_programs(self, family: Family) -> dict[Flavour, Programs]:
        there = [each for each in Flavour if (family, each) not in self.missing]
        return {each: programs(each, family) for each in there}

    def open(self, of: Programs) -> Xtables:
        return self.kernel.door(of.version.flavour, of.family)

    def put(self, which: Flavour, table: str, *lines: str, family: Family = "IPv4") -> None:
        self.kernel.door(which, family).restore(table, lines)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Installed:
    made = Installed()
    monkeypatch.setattr(xtables, "find_programs", made.find_programs)
    monkeypatch.setattr(xtables, "usual_flavour", lambda _: made.usual)
    return made


@pytest.mark.parametrize(
    ("legacy", "nft", "usual", "chosen"),
    [
        (Sight(has_hints=True), Sight(rules=9), NFT, LEGACY),
        (Sight(rules=9), Sight(has_hints=True), LEGACY, NFT),
        (Sight(has_hints=True, rules=1), Sight(has_hints=True, rules=2), LEGACY, NFT),
        (Sight(rules=2), Sight(rules=1), NFT, LEGACY),
        (Sight(has_ours=True), Sight(), NFT, NFT),
        (Sight(), Sight(), LEGACY, LEGACY),
        (Sight(), Sight(), None, NFT),
    ],
)
def test_kubelets_comes_first_then_more_rules_then_the_usual_one(
    legacy: Sight, nft: Sight, usual: Flavour | None, chosen: Flavour
) -> None:
    assert choose({LEGACY: legacy, NFT: nft}, usual)[0] is chosen


def test_the_only_one_there_is_is_taken_whatever_is_usual() -> None:
    assert choose({LEGACY: Sight()}, NFT)[0] is LEGACY


def test_kubelets_chains_count_in_table_mangle_only(host: Installed) -> None:
    host.put(LEGACY, "mangle", ":KUBE-KUBELET-CANARY - [0:0]", family="IPv6")
    host.put(NFT, "nat", ":KUBE-KUBELET-CANARY - [0:0]", "-A KUBE-KUBELET-CANARY -j RETURN")

    choice = find(FAMILIES, OURS, host.open)

    assert choice.flavour is LEGACY
    assert {door.programs for door in choice.tables.values()} == {
        programs(LEGACY, family) for family in FAMILIES
    }
    assert choice.left == {}


def test_our_own_rules_do_not_count_but_are_found_where_they_were_left(host: Installed) -> None:
    ours = ["-A SLICEPROXY-A -j RETURN", "-I PREROUTING 1 -j SLICEPROXY-A"]
    host.put(LEGACY, "nat", ":SLICEPROXY-A - [0:0]", *ours, family="IPv6")

    choice = find(FAMILIES, OURS, host.open)

    assert choice.flavour is NFT
    assert [door.programs for door in choice.left.values()] == [
        programs(LEGACY, family) for family in FAMILIES
    ]
    assert look(choice.left.values(), OURS) == Sight(has_ours=True)


def test_what_is_ours_is_found_in_a_table_that_cannot_be_read(host: Installed) -> None:
    host.put(LEGACY, "mangle", ":KUBE-KUBELET-CANARY - [0:0]")
    host.put(NFT, "nat", ":SLICEPROXY-A - [0:0]")
    host.kernel.only_nft.add(("IPv4", "nat"))

    choice = find(FAMILIES, OURS, host.open)

    assert choice.flavour is LEGACY
    assert choice.left.keys() == set(FAMILIES)


def test_a_flavour_that_is_installed_for_one_family_only_is_not_used_for_two(
    host: Installed,
) -> None:
    host.missing = {("IPv6", NFT)}

    assert find(FAMILIES, OURS, host.open).flavour is LEGACY
    assert find(("IPv4",), OURS, host.open).flavour is NFT


def test_without_programs_the_family_is_named(host: Installed) -> None:
    host.missing = {("IPv6", each) for each in Flavour}

    with pytest.raises(Unsupported, match=r"IPv6$"):
        find(FAMILIES, OURS, host.open)


def test_why_it_was_chosen_is_logged_unless_it_is_only_asked_again(
    host: Installed, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger=flavour.__name__)
    find(FAMILIES, OURS, host.open, is_loud=False)
    assert caplog.messages == []

    find(FAMILIES, OURS, host.open)
    assert caplog.messages == ["iptables flavour nft: it is the usual one of this host"]


class Unreadable(Xtables):
    """Its programs are installed, and the kernel has no such engine."""

    def save(self, table: str) -> dict[str, Chain]:
        raise KernelError(f"save {table}", 0, "Failed to initialize nft: Protocol not supported")


@pytest.mark.parametrize(
    ("lacks", "words"), [(False, "^((?!NET_RAW).)*$"), (True, "NET_RAW.*Protocol not supported")]
)
def test_an_engine_that_cannot_be_read_is_not_to_be_had(
    host: Installed, monkeypatch: pytest.MonkeyPatch, words: str, *, lacks: bool
) -> None:
    monkeypatch.setattr(xtables, "lacks_net_raw", lambda: lacks)

    def opened(of: Programs) -> Xtables:
        return Unreadable(of) if of.version.flavour is NFT else host.open(of)

    assert find(FAMILIES, OURS, opened).flavour is LEGACY
    with pytest.raises(KernelError, match="Protocol not supported") as caught:
        find(FAMILIES, OURS, Unreadable)
    assert re.search(words, str(caught.value))
