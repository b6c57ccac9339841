"""What is believed of what an earlier process left. That nothing is written then: test_plan_packets.py."""

import pytest

from backends.iptables.adopt import adopt, read_chains, read_jumps, read_state
from backends.iptables.model import ChainState, Front, make_chain
from backends.kernel.ipset_objects import IpSet, Member
from backends.kernel.xtables_text import Chain

MARKED = make_chain("SLICEPROXY-S-A", ["-p tcp -j DNAT --to-destination 10.1.0.1:80", "-j RETURN"])
JUMP = '-m comment --comment "0123456789abcdef" -j SLICEPROXY-SERVICES'


def test_a_chain_is_known_by_the_mark_of_its_first_rule_wherever_it_stands() -> None:
    first = MARKED.rules[0]
    moved = f"-p tcp {first.replace(' -p tcp', '')}"  # as programs print it
    unquoted = f"-p tcp -m comment --comment {MARKED.state.mark} -j RETURN"

    for rule in (first, moved, unquoted):
        assert read_state(Chain(None, (rule, "-j RETURN"))) == MARKED.state


@pytest.mark.parametrize(
    ("rules", "state"),
    [
        ((), ChainState("", 0)),
        (("-j RETURN",), ChainState("", 1)),
        (('-m comment --comment "of somebody else" -j RETURN',), ChainState("", 1)),
        (("-j RETURN", MARKED.rules[0]), ChainState("", 2)),
    ],
)
def test_a_chain_without_our_mark_is_none_we_know(
    rules: tuple[str, ...], state: ChainState
) -> None:
    assert read_state(Chain(None, rules)) == state


def test_chains_of_others_are_not_read() -> None:
    saved = {"PREROUTING": Chain("ACCEPT", ()), "KUBE-SERVICES": Chain(None, ("-j RETURN",))}

    assert read_chains(saved | {"SLICEPROXY-S-A": Chain(None, MARKED.rules)}) == {
        "SLICEPROXY-S-A": MARKED.state
    }


def test_jumps_are_found_in_built_in_chains_among_rules_of_others() -> None:
    saved = {
        "PREROUTING": Chain("ACCEPT", ("-j KUBE-SERVICES", JUMP)),
        "OUTPUT": Chain("ACCEPT", ("-j SLICEPROXY-OLD",)),
        "INPUT": Chain("ACCEPT", ('-m comment --comment "not -j SLICEPROXY-X" -j ACCEPT',)),
        "THEIRS": Chain(None, ("-j SLICEPROXY-SERVICES",)),
    }

    found = read_jumps(saved)

    assert [(jump.chain, jump.mark, jump.rule) for jump in found] == [
        ("PREROUTING", "0123456789abcdef", JUMP),
        ("OUTPUT", "", "-j SLICEPROXY-OLD"),
    ]


def test_of_two_jumps_that_are_the_same_one_is_too_many() -> None:
    found = read_jumps({"PREROUTING": Chain("ACCEPT", (JUMP, JUMP, JUMP))})

    assert [jump.mark for jump in found] == [
        "0123456789abcdef",
        "0123456789abcdef?",
        "0123456789abcdef??",
    ]


def test_trees_hold_what_their_chains_say() -> None:
    saved = {
        "SLICEPROXY-CLUSTER": Chain(
            None,
            (
                f'! -s 10.0.0.0/8 -m comment --comment "{MARKED.state.mark}" -j MARK --set-xmark 0x4000/0x4000',
                "-d 10.96.0.1/32 -p tcp -m tcp --dport 443 -g SLICEPROXY-S-A",
                "-d 0.0.0.1/0.0.0.3 -g SLICEPROXY-C-2-1",
            ),
        ),
        "SLICEPROXY-C-2-1": Chain(
            None,
            (
                '-d 10.96.0.5/32 -p udp -m comment --comment "x" -m udp --dport 53 -g SLICEPROXY-S-B',
            ),
        ),
        "SLICEPROXY-NODEPORT": Chain(
            None,
            (
                "-p tcp -m tcp --dport 30080 -g SLICEPROXY-E-A",
                "-d 10.96.0.1/32 -p tcp -m tcp --dport 1 -g SLICEPROXY-E-A",  # does not belong here
            ),
        ),
        "SLICEPROXY-S-A": Chain(None, MARKED.rules),
        "OTHERS": Chain(None, ("-d 10.96.0.9/32 -p tcp -m tcp --dport 443 -g SLICEPROXY-S-A",)),
    }

    observed = adopt({"IPv4": {"nat": saved, "filter": {}}}, {})

    assert {
        (name, front): target
        for (_, name), tree in observed.trees.items()
        for front, target in tree.fronts().items()
    } == {
        ("C", Front("10.96.0.1", "TCP", 443)): "SLICEPROXY-S-A",
        ("C", Front("10.96.0.5", "UDP", 53)): "SLICEPROXY-S-B",
        ("N", Front("", "TCP", 30080)): "SLICEPROXY-E-A",
    }
    assert not any(tree.dirty for tree in observed.trees.values())


def test_sets_and_members_are_believed_as_listed() -> None:
    made = IpSet("sliceproxy4-cluster-ips", "hash:ip", "IPv4", None, 1 << 20)
    member = Member("10.96.0.1")

    observed = adopt({"IPv4": {}, "IPv6": {}}, {"IPv4": {made.name: (made, iter([member]))}})

    assert observed.facts["IPv4"].sets == {made.name: made}
    assert observed.facts["IPv4"].members == {made.name: {member}}
    assert observed.facts["IPv6"].sets == {}
    assert observed.facts["IPv6"].chains == {"nat": {}, "filter": {}}
    assert not observed.is_rebuild_due
