"""Our sets of ipset: what is refused, replaced, destroyed and read, apart from rules that ask them."""

from collections.abc import Iterator

import pytest

from backends.ipvs.layout import fixed_sets
from backends.ipvs.model import BOUND, EXTERNALS, SERVICES
from backends.ipvs.xt_members import ip_set
from backends.ipvs.xt_sets import MISSHAPEN, RefusedMembers, XtSets
from backends.ipvs.xt_writes import Message
from backends.kernel import ipset_messages
from backends.kernel.ipset import Ipset
from backends.kernel.ipset_objects import IpSet, Member, SetKind
from backends.kernel.nft_phrases import word
from proxy.errors import KernelError
from tests.fakes.ipset import IpsetKernel
from tests.model_builders import make_key

KEY = make_key("default/web")
HTTP = bytes([10, 0, 0, 1, 6, 0, 0, 0, 0, 80, 0, 0])
WEB = Member("10.0.0.1", 6, 80)
BOUND_NAME, SERVICES_NAME, EXTERNALS_NAME = (
    ip_set("IPv4", name).name for name in (BOUND, SERVICES, EXTERNALS)
)


@pytest.fixture
def kernel() -> IpsetKernel:
    return IpsetKernel()


@pytest.fixture
def sets(kernel: IpsetKernel) -> Iterator[XtSets]:
    """Ours of one family, and one of somebody else's."""
    with kernel.entered(), Ipset() as ipset:
        theirs = IpSet("theirs", SetKind.ADDRESS, "IPv4")
        made = [theirs, *[ip_set("IPv4", spec.name) for spec in fixed_sets("IPv4")]]
        assert ipset.carry_out([ipset_messages.create(each) for each in made]) == []
        yield XtSets(ipset)


def replace(sets: XtSets, name: str, made: IpSet) -> None:
    sets.destroy([name])
    sets.carry_out([Message(ipset_messages.create(made._replace(name=name)))])


def no_rules() -> None:
    raise AssertionError("rules stay")


def test_those_of_others_are_not_among_ours(sets: XtSets) -> None:
    assert len(sets.states()) == len(sets.counts()) == len(fixed_sets("IPv4"))
    assert sets.shapes("IPv4") == {spec.name: spec.facts for spec in fixed_sets("IPv4")}
    assert sets.shapes("IPv6") == {}
    sets.destroy([each.set.name for each in sets.states()])
    assert not sets.are_there()


def test_who_is_to_blame_is_named_unless_it_is_nobody(sets: XtSets) -> None:
    wrong = ipset_messages.add(BOUND_NAME, Member("0.0.0.0"))

    with pytest.raises(RefusedMembers) as caught:
        sets.carry_out([Message(wrong, KEY), Message(ipset_messages.add(SERVICES_NAME, WEB), KEY)])
    assert caught.value.owners == {KEY}
    assert sets.members(SERVICES_NAME) == [WEB]

    with pytest.raises(KernelError) as nobodys:
        sets.carry_out([Message(wrong, KEY), Message(wrong)])
    assert not isinstance(nobodys.value, RefusedMembers)


def test_one_of_another_size_is_replaced_with_what_is_in_it_while_rules_ask_it(
    sets: XtSets, kernel: IpsetKernel
) -> None:
    small = IpSet(SERVICES_NAME, SetKind.ADDRESS_PORT, "IPv4", max_members=7)
    replace(sets, SERVICES_NAME, small)
    sets.carry_out([Message(ipset_messages.add(SERVICES_NAME, WEB))])
    stranger = small._replace(name=f"{SERVICES_NAME}-old")
    sets.carry_out([Message(ipset_messages.create(stranger))])
    kernel.references[SERVICES_NAME] = 1
    assert sets.shapes("IPv4")[SERVICES] is MISSHAPEN

    assert sets.make_way("IPv4", no_rules) == [stranger.name]

    facts = {spec.name: spec.facts for spec in fixed_sets("IPv4")}
    assert sets.shapes("IPv4") == facts | {"services-old": MISSHAPEN}
    assert sets.members(SERVICES_NAME) == [WEB]
    sets.destroy_unasked([SERVICES_NAME, stranger.name])
    assert stranger.name not in sets.counts()
    assert SERVICES_NAME in sets.counts()


def test_one_of_another_kind_goes_once_no_rule_asks_it(sets: XtSets, kernel: IpsetKernel) -> None:
    replace(sets, BOUND_NAME, IpSet(BOUND_NAME, SetKind.NETWORK, "IPv4"))
    kernel.references[BOUND_NAME] = 1

    assert sets.make_way("IPv4", kernel.references.clear) == []

    assert BOUND_NAME not in sets.counts()


def test_elements_are_read_with_their_marks_and_what_is_not_there_is_left_out(
    sets: XtSets,
) -> None:
    marked = WEB._replace(mark=7)
    sets.carry_out(
        [
            Message(ipset_messages.add(SERVICES_NAME, WEB)),
            Message(ipset_messages.add(EXTERNALS_NAME, marked)),
        ]
    )
    shapes = sets.shapes("IPv4")
    other = bytes([10, 0, 0, 2, 17, 0, 0, 0, 0, 53, 0, 0])

    assert sets.read_elements("IPv4", SERVICES, [HTTP, other]) == {HTTP: None}
    assert sets.read_elements("IPv4", EXTERNALS, [HTTP, other]) == {HTTP: word(7)}
    assert sets.elements("IPv4", {**shapes, SERVICES: MISSHAPEN}) == {
        **{name: {} for name in shapes if name != SERVICES},
        EXTERNALS: {HTTP: word(7)},
    }
    assert sets.members("slice-ipvs6-bound") == []
