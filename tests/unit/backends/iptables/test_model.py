"""What steps say: lines, messages, words; and how a chain is told from another."""

import re

import pytest

from backends.iptables.model import (
    ChainWrite,
    Front,
    IptablesPlan,
    Lead,
    Line,
    Rendered,
    SetChange,
    SetStep,
    TableStep,
    make_chain,
    make_jump,
    parse_mark,
)
from backends.kernel import ipset_messages
from backends.kernel.ipset_objects import IpSet, Member
from tests.model_builders import make_key

WEB = make_key("default/web")
TO_A = make_chain("SLICEPROXY-S-A", ["-p tcp -j DNAT --to-destination 10.1.0.1:80"])
TO_B = make_chain("SLICEPROXY-S-B", ["-g SLICEPROXY-S-A", "-j RETURN"])
JUMP = make_jump("PREROUTING", "-j SLICEPROXY-SERVICES")


def comment_of(rule: str) -> str:
    found = re.match(r'-m comment --comment "([^"]*)"', rule)
    assert found is not None
    return found[1]


# --- chains


def test_the_first_rule_bears_the_mark_of_all() -> None:
    first, second = TO_B.rules

    assert parse_mark(comment_of(first)) == TO_B.state.mark
    assert first.endswith('" -g SLICEPROXY-S-A')
    assert second == "-j RETURN"
    assert TO_B.state.rules == 2


def test_other_rules_have_another_mark_and_the_same_ones_the_same() -> None:
    rules = ["-j RETURN", "-j ACCEPT"]

    assert make_chain("A", rules).state == make_chain("B", rules).state
    assert make_chain("A", rules).state != make_chain("A", rules[::-1]).state
    assert make_chain("A", rules).state != make_chain("A", rules[:1]).state


def test_a_chain_that_does_nothing_has_a_rule_to_bear_the_mark() -> None:
    (rule,) = make_chain("SLICEPROXY-S-A", []).rules

    assert rule == f'-m comment --comment "{comment_of(rule)}"'
    assert make_chain("SLICEPROXY-S-A", []).state.rules == 1


@pytest.mark.parametrize("about", ["default/web:http", 'a"b\nc', "x" * 300])
def test_a_comment_may_say_what_the_chain_is_about(about: str) -> None:
    chain = make_chain("A", ["-j RETURN"], about)
    comment = comment_of(chain.rules[0])

    assert parse_mark(comment) == chain.state.mark
    assert comment.startswith(about[:1])
    assert len(comment) <= 255
    assert "\n" not in comment
    assert chain.state == make_chain("A", ["-j RETURN"]).state


@pytest.mark.parametrize("comment", ["", "default/web", "0123456789ABCDEF", "0123456789abcdef no"])
def test_a_comment_of_somebody_else_has_no_mark(comment: str) -> None:
    assert parse_mark(comment) == ""


# --- steps


def test_chains_are_declared_before_rules_name_them_and_gone_ones_emptied_first() -> None:
    gone_jump = make_jump("OUTPUT", "-j SLICEPROXY-OLD")
    step = TableStep(
        "IPv4",
        "nat",
        writes=(ChainWrite(TO_A, WEB), ChainWrite(TO_B)),
        jumps=(JUMP,),
        gone_jumps=(gone_jump,),
        removes=("SLICEPROXY-OLD",),
    )

    assert step.lines() == [
        Line(f"-D OUTPUT {gone_jump.rule}"),
        Line(":SLICEPROXY-S-A - [0:0]", WEB),
        Line(":SLICEPROXY-S-B - [0:0]"),
        Line(":SLICEPROXY-OLD - [0:0]"),
        Line(f"-A SLICEPROXY-S-A {TO_A.rules[0]}", WEB),
        Line(f"-A SLICEPROXY-S-B {TO_B.rules[0]}"),
        Line(f"-A SLICEPROXY-S-B {TO_B.rules[1]}"),
        Line("-X SLICEPROXY-OLD"),
        Line(f"-I PREROUTING 1 {JUMP.rule}"),
    ]
    assert step.size == 2 + 3 + 1 + 1 + 1


def test_a_chain_that_cannot_go_is_emptied_instead() -> None:
    step = TableStep("IPv4", "nat", removes=("A", "B"))
    assert [line.text for line in step.lines()][3] == "-X B"

    less = step.keeping(3)

    assert less is not None
    assert [line.text for line in less.lines()] == [":B - [0:0]", ":A - [0:0]", "-X A"]
    assert step.keeping(0) is None
    assert step.keeping(None) is None


def test_parts_of_a_step_are_the_step() -> None:
    lead = Lead("C", Front("10.96.0.1", "TCP", 80), TO_A.name)
    step = TableStep(
        "IPv4",
        "nat",
        writes=tuple([ChainWrite(chain) for chain in (TO_A, TO_B, TO_A)]),
        jumps=(JUMP,),
        removes=("SLICEPROXY-OLD",),
        leads=(lead,),
        keys=(WEB,),
    )

    first, last = step.parts(2)

    assert [write.chain for write in first.writes] == [TO_A, TO_B]
    assert first == TableStep("IPv4", "nat", writes=first.writes, keys=(WEB,))
    assert last == step._replace(writes=(ChainWrite(TO_A),))
    assert step.parts(4) == [step]
    assert [len(part.writes) for part in step.parts(1)] == [1, 1, 1]
    assert TableStep("IPv4", "nat").parts(1) == [TableStep("IPv4", "nat")]


def test_set_changes_are_messages_of_the_kernel() -> None:
    made, member = IpSet("sliceproxy4-x", "hash:ip", "IPv4"), Member("10.96.0.1")
    changes = (
        SetChange("create", made.name, made),
        SetChange("add", made.name, member, WEB),
        SetChange("delete", made.name, member),
        SetChange("destroy", made.name),
    )

    requests = SetStep("IPv4", changes).requests()

    assert requests == [
        ipset_messages.create(made),
        ipset_messages.add(made.name, member),
        ipset_messages.delete(made.name, member),
        ipset_messages.destroy(made.name),
    ]


def test_a_plan_says_what_it_does() -> None:
    member = SetChange("add", "sliceproxy4-frontends", Member("10.96.0.1", 6, 80), WEB)
    plan = IptablesPlan(
        (
            SetStep("IPv4", (member,)),
            TableStep(
                "IPv4",
                "nat",
                writes=(ChainWrite(TO_A, WEB), ChainWrite(TO_B)),
                jumps=(JUMP,),
                gone_jumps=(JUMP,),
                removes=("SLICEPROXY-OLD",),
            ),
        ),
        {},
    )

    assert plan
    assert plan.describe() == [
        "1 IPv4 add 10.96.0.1,tcp:80 to set sliceproxy4-frontends  # default/web (TCP, IPv4)",
        "2 IPv4 nat: write SLICEPROXY-S-A, 1 rule  # default/web (TCP, IPv4)",
        "2 IPv4 nat: write SLICEPROXY-S-B, 2 rules",
        f"2 IPv4 nat: insert in PREROUTING: {JUMP.rule}",
        f"2 IPv4 nat: delete in PREROUTING: {JUMP.rule}",
        "2 IPv4 nat: remove SLICEPROXY-OLD",
    ]
    assert not IptablesPlan((), {WEB: None})


def test_between_two_states_both_are_occupied() -> None:
    old_lead, new_lead = (
        Lead("C", Front(f"10.96.0.{number}", "TCP", 80), TO_A.name) for number in (1, 2)
    )
    member = ("sliceproxy4-cluster-ips", Member("10.96.0.1"))
    old = Rendered(leads=(old_lead,), chains=frozenset("A"), members=frozenset([member]))
    new = Rendered(leads=(new_lead,), chains=frozenset("B"), sets=frozenset("a"))

    assert old.joined(new) == Rendered(
        leads=(old_lead, new_lead),
        chains=frozenset("AB"),
        sets=frozenset("a"),
        members=frozenset([member]),
    )
    assert old.joined(Rendered(asks_for_pods=True)).asks_for_pods
