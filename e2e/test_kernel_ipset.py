"""The door to ipset on a real kernel, the fake beside it, and what the installed programs make of our sets.

The kernel lists by hash, so lists are compared without their order.
"""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backends.kernel import ipset_messages
from backends.kernel.ipset import Ipset
from backends.kernel.ipset_objects import IpSet, Member, SetKind, SetState
from e2e.namespace import Namespace
from proxy.errors import KernelError
from proxy.model import IPV4, IPV6
from proxy.netlink.codec import Request
from tests.effort import examples
from tests.fakes.ipset import BUSY, IpsetKernel
from tests.ipset_strategies import MESSAGES, SETS

pytestmark = pytest.mark.requires("ipset")

CLIENTS = IpSet("clients", SetKind.ADDRESS, IPV4, timeout_s=600)
FRONTENDS = IpSet("frontends", SetKind.ADDRESS_PORT, IPV4)


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    with Namespace("ipset") as made:
        yield made


@pytest.fixture
def ipset(namespace: Namespace) -> Iterator[Ipset]:
    """The kernel's sets; there are none."""
    with namespace.entered():
        door = Ipset()
    with door:
        clear(door)
        yield door


def clear(ipset: Ipset) -> None:
    names = [state.set.name for state in ipset.list_sets()]
    assert not ipset.carry_out([ipset_messages.destroy(name) for name in names])


def members(ipset: Ipset, name: str) -> list[Member]:
    return sorted(member for piece in ipset.members(name) for member in piece)


def outcome(ipset: Ipset, requests: list[Request]) -> list[tuple[int, int]]:
    return [(refusal.index, refusal.errno) for refusal in ipset.carry_out(requests)]


def content(ipset: Ipset) -> list[tuple[SetState, list[Member]]]:
    states = sorted(ipset.list_sets(), key=lambda state: state.set.name)
    assert [ipset.find_set(state.set.name) for state in states] == states
    return [(state, members(ipset, state.set.name)) for state in states]


# --- what the kernel and the programs make of our messages


def test_the_program_lists_what_was_sent(namespace: Namespace, ipset: Ipset) -> None:
    sets = [
        CLIENTS,
        FRONTENDS,
        IpSet("hairpin", SetKind.ADDRESS_PORT_ADDRESS, IPV6, max_members=1000),
        IpSet("allowed", SetKind.ADDRESS_PORT_NETWORK, IPV4),
        IpSet("cidrs", SetKind.NETWORK, IPV6),
        IpSet("node-ports", SetKind.PORT, None),
    ]

    refused = ipset.carry_out(
        [
            *[ipset_messages.create(each) for each in sets],
            ipset_messages.add("clients", Member("192.0.2.1"), timeout_s=0),
            ipset_messages.add("frontends", Member("10.96.0.1", 6, 80)),
            ipset_messages.add("frontends", Member("10.96.0.1", 132, 80)),
            ipset_messages.add("hairpin", Member("fd00::1", 17, 53, "fd00::1")),
            ipset_messages.add("allowed", Member("203.0.113.1", 6, 443, "198.51.100.0/24")),
            ipset_messages.add("cidrs", Member("fd00:10:96::/112")),
            ipset_messages.add("node-ports", Member(port=30080)),
        ]
    )

    assert refused == []
    lines = namespace.run(["ipset", "list", "-o", "save"]).splitlines()
    # the kernel chooses a seed for each hash
    made = sorted(line.partition(" bucketsize")[0].partition(" initval")[0] for line in lines)
    assert made == sorted(
        [
            "create clients hash:ip family inet hashsize 1024 maxelem 65536 timeout 600",
            "create frontends hash:ip,port family inet hashsize 1024 maxelem 65536",
            "create hairpin hash:ip,port,ip family inet6 hashsize 1024 maxelem 1000",
            "create allowed hash:ip,port,net family inet hashsize 1024 maxelem 65536",
            "create cidrs hash:net family inet6 hashsize 1024 maxelem 65536",
            "create node-ports bitmap:port range 0-65535",
            "add clients 192.0.2.1 timeout 0",
            "add frontends 10.96.0.1,tcp:80",
            "add frontends 10.96.0.1,sctp:80",
            "add hairpin fd00::1,udp:53,fd00::1",
            "add allowed 203.0.113.1,tcp:443,198.51.100.0/24",
            "add cidrs fd00:10:96::/112",
            "add node-ports 30080",
        ]
    )


def test_what_the_program_makes_is_read(namespace: Namespace, ipset: Ipset) -> None:
    namespace.run(
        ["ipset", "restore"],
        stdin="create ours hash:ip,port family inet6\nadd ours ::ffff:10.0.0.1,icmpv6:128/0\n"
        "create theirs list:set size 4\nadd theirs ours\n",
    )

    ours, theirs = sorted(ipset.list_sets(), key=lambda state: state.set.name)

    assert ours == SetState(IpSet("ours", SetKind.ADDRESS_PORT, IPV6), members=1, references=1)
    assert (theirs.set.name, theirs.set.kind, theirs.references) == ("theirs", "list:set", 0)
    (found,) = members(ipset, "ours")
    assert found == Member("::ffff:10.0.0.1", 58, 128 << 8)
    # and can be removed as it was read
    assert outcome(ipset, [ipset_messages.delete("ours", found)]) == []
    assert members(ipset, "ours") == []
    # a set goes before those it names
    assert outcome(ipset, [ipset_messages.destroy(name) for name in ("theirs", "ours")]) == []


def test_a_refused_member_is_named_and_the_others_are_in(ipset: Ipset) -> None:
    wrong = Member("2001:db8::1", 6, 80)
    right = [Member(f"10.96.0.{number}", 6, 80) for number in range(1, 251)]
    requests = [ipset_messages.add("frontends", each) for each in (*right, wrong, *right[:5])]

    refused = ipset.carry_out([ipset_messages.create(FRONTENDS), *requests])

    assert [refusal.index for refusal in refused] == [251]
    assert str(refused[0]).startswith("add 2001:db8::1,tcp:80 to set frontends: ")
    assert members(ipset, "frontends") == sorted(right)


def test_many_members_are_added_and_listed_in_pieces(ipset: Ipset) -> None:
    wanted = [Member(f"10.{n >> 8}.{n & 255}.1", 17, 53) for n in range(5000)]

    made = [ipset_messages.create(FRONTENDS)]
    assert outcome(ipset, made + [ipset_messages.add("frontends", each) for each in wanted]) == []

    pieces = list(ipset.members("frontends"))
    assert len(pieces) > 3
    assert sorted(member for piece in pieces for member in piece) == sorted(wanted)
    state = ipset.find_set("frontends")
    assert state == SetState(FRONTENDS, members=5000, references=0)


@pytest.mark.parametrize(
    ("made", "there", "missing"),
    [
        (FRONTENDS, Member("10.0.0.1", 6, 80), Member("10.0.0.1", 17, 80)),
        (
            IpSet("ranges", SetKind.ADDRESS_PORT_NETWORK, IPV6),
            Member("fd00::1", 6, 80, "fd00::/48"),
            Member("fd00::1", 6, 80, "fd00::/64"),
        ),
        (IpSet("ports", SetKind.PORT, None), Member(port=80), Member(port=81)),
    ],
    ids=lambda value: value.kind if isinstance(value, IpSet) else "",
)
def test_single_members_are_asked_for(
    ipset: Ipset, made: IpSet, there: Member, missing: Member
) -> None:
    requests = [ipset_messages.create(made), ipset_messages.add(made.name, there)]
    assert outcome(ipset, requests) == []

    asked = [(made.name, there), (made.name, missing), ("none", there)]
    assert ipset.has(asked) == [True, False, False]


def test_changes_go_on_while_members_are_listed(ipset: Ipset) -> None:
    wanted = [Member(f"10.{n >> 8}.{n & 255}.1", 17, 53) for n in range(5000)]
    ipset.carry_out([ipset_messages.create(FRONTENDS)])
    ipset.carry_out([ipset_messages.add("frontends", each) for each in wanted])
    late = Member("10.96.0.1", 6, 80)

    listing = ipset.members("frontends")
    first = next(listing)
    assert outcome(ipset, [ipset_messages.add("frontends", late)]) == []
    assert outcome(ipset, [ipset_messages.destroy("frontends")]) == [(0, BUSY)]

    rest = [member for piece in listing for member in piece]
    assert {*first, *rest} - {late} == set(wanted)
    assert outcome(ipset, [ipset_messages.destroy("frontends")]) == []


@pytest.mark.requires("iptables")
def test_a_set_that_a_rule_names_stays_until_the_rule_goes(
    namespace: Namespace, ipset: Ipset
) -> None:
    ipset.carry_out([ipset_messages.create(CLIENTS)])
    rule = ["-m", "set", "--match-set", "clients", "src", "-j", "ACCEPT"]
    namespace.run(["iptables", "-A", "INPUT", *rule])
    try:
        assert outcome(ipset, [ipset_messages.destroy("clients")]) == [(0, BUSY)]
        assert ipset.find_set("clients") == SetState(CLIENTS, members=0, references=1)
    finally:
        namespace.run(["iptables", "-D", "INPUT", *rule])

    assert outcome(ipset, [ipset_messages.destroy("clients")]) == []
    assert ipset.find_set("clients") is None


def test_members_of_no_set_are_an_error(ipset: Ipset) -> None:
    with pytest.raises(KernelError, match="No such file"):
        list(ipset.members("clients"))


# --- the fake beside the kernel


@pytest.mark.timeout(300)
@settings(
    max_examples=examples(60),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(st.sampled_from(MESSAGES), min_size=20, max_size=120))
def test_the_fake_refuses_and_keeps_what_the_kernel_does(
    ipset: Ipset, requests: list[Request]
) -> None:
    clear(ipset)
    requests = [ipset_messages.create(each) for each in SETS] + requests
    with IpsetKernel().entered(), Ipset() as imitation:
        assert outcome(imitation, requests) == outcome(ipset, requests)
        assert content(imitation) == content(ipset)
