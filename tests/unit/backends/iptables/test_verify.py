"""Differences count once they were seen twice and belief is corrected; what is our own doing does not count."""

import asyncio

import pytest

from backends.iptables import verify as module
from backends.iptables.layout import POSTROUTING
from backends.iptables.model import ChainState, TableStep
from backends.iptables.names import list_chain
from backends.iptables.plan import plan
from backends.iptables.tree import ROOTS
from backends.iptables.verify import (
    ChainPlace,
    JumpPlace,
    MemberPlace,
    Seen,
    SetPlace,
    part_of,
    verify,
)
from backends.kernel import ipset_messages
from backends.kernel.ipset_objects import IpSet, Member, SetKind
from backends.kernel.xtables_text import Flavour
from proxy.backend import Drift
from proxy.model import PortKey
from proxy.netlink.codec import Request
from tests.desired_strategies import desired_state, make_desired, whole
from tests.unit.backends.iptables.machine import Bench, bench, run
from tests.unit.backends.iptables.planning import BOTH, WEB

FRONTENDS = "sliceproxy4-frontends"
PLACE = Member("10.96.0.10", 6, 80)


def programmed(at: Bench) -> None:
    """Have one service programmed."""
    desired = desired_state(make_desired("default/web", "10.0.0.1:80", "10.0.0.2:80"))
    planned = plan(whole(desired), at.observed, list(desired), BOTH)

    async def carry_out() -> None:
        for step in planned.steps:
            assert await at.writer.take(step, at.observed, at.stamp) == {}

    run(carry_out())
    at.observed.occupy(planned)


def verified(at: Bench) -> list[Drift]:
    return run(verify(at.doors, at.doors, at.canary, asyncio.Lock(), at.observed, at.stamp))


def owners(drifts: list[Drift]) -> list[PortKey | None]:
    return [drift.key for drift in drifts]


def tell(at: Bench, *requests: Request) -> None:
    assert at.doors.ipset.carry_out(requests) == []


@pytest.mark.parametrize("flavour", Flavour)
def test_what_is_as_believed_is_no_drift(flavour: Flavour) -> None:
    with bench(flavour) as at:
        programmed(at)

        assert verified(at) == []
        assert at.canary.look() == at.stamp


@pytest.mark.parametrize("flavour", Flavour)
def test_a_chain_that_lost_its_rules_is_its_owners(flavour: Flavour) -> None:
    with bench(flavour) as at:
        programmed(at)
        at.restore(f"-F {list_chain(WEB)}")
        assert at.canary.look() != at.stamp

        (drift,) = verified(at)

        assert drift == Drift(key=WEB, what=f"changed chain {list_chain(WEB)} of nat (IPv4)")
        assert at.observed.facts["IPv4"].chains["nat"][list_chain(WEB)] == ChainState("", 0)
        assert at.canary.look() == at.stamp
        assert verified(at) == []


def test_of_a_table_that_cannot_be_read_belief_is_kept_and_that_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with bench() as at:
        programmed(at)
        at.machine.tables.only_nft.add(("IPv4", "nat"))
        at.restore(f"-F {list_chain(WEB)}")
        tell(at, ipset_messages.delete(FRONTENDS, PLACE))
        believed = dict(at.observed.facts["IPv4"].chains["nat"])

        assert [drift.what for drift in verified(at)] == [
            f"missing member {PLACE} of set {FRONTENDS}"
        ]
        assert verified(at) == []
        assert at.observed.facts["IPv4"].chains["nat"] == believed
        assert caplog.text.count("nft -a list table ip nat") == 1

        at.machine.tables.only_nft.clear()
        assert owners(verified(at)) == [WEB]


def test_a_chain_of_a_tree_is_written_again_with_the_next_plan() -> None:
    with bench() as at:
        programmed(at)
        at.restore(f"-F {ROOTS['C']}")

        assert owners(verified(at)) == [WEB]
        planned = plan(
            whole(desired_state(make_desired("default/web", "10.0.0.1:80", "10.0.0.2:80"))),
            at.observed,
            [WEB],
            BOTH,
        )
        written = [
            w.chain.name for s in planned.steps if isinstance(s, TableStep) for w in s.writes
        ]
        assert written == [ROOTS["C"]]


@pytest.mark.parametrize(
    "lines",
    [
        (f"-F {POSTROUTING}",),
        (f"-A {POSTROUTING} -j RETURN",),
        (":SLICEPROXY-FOREIGN - [0:0]",),
        ("-A OUTPUT -j SLICEPROXY-SERVICES",),
    ],
)
def test_what_is_nobodys_has_everything_observed_anew(lines: tuple[str, ...]) -> None:
    with bench() as at:
        programmed(at)
        at.restore(*lines)

        assert owners(verified(at)) == [None]
        assert verified(at) == []


def test_members_are_theirs_who_need_them() -> None:
    with bench() as at:
        programmed(at)
        stranger = Member("10.96.0.99", 6, 80)
        tell(at, ipset_messages.delete(FRONTENDS, PLACE), ipset_messages.add(FRONTENDS, stranger))

        drifts = {drift.key: drift.what for drift in verified(at)}

        assert drifts == {
            WEB: f"missing member {PLACE} of set {FRONTENDS}",
            None: f"foreign member {stranger} of set {FRONTENDS}",
        }
        assert at.observed.facts["IPv4"].members[FRONTENDS] == {stranger}


def test_a_set_that_came_is_nobodys_and_known_from_then_on_with_its_members() -> None:
    with bench() as at:
        programmed(at)
        made = IpSet("sliceproxy4-old", SetKind.PORT, None)
        tell(at, ipset_messages.create(made), ipset_messages.add(made.name, Member(port=7)))

        assert verified(at) == [Drift(key=None, what="foreign set sliceproxy4-old")]
        assert at.observed.facts["IPv4"].members[made.name] == {Member(port=7)}
        assert verified(at) == []


def test_a_set_of_ours_that_was_swapped_for_one_of_another_shape_has_everything_planned() -> None:
    """A part of the rebuild would be no better than nothing: it begins with the removal of all."""
    with bench() as at:
        port = make_desired("default/web", "10.0.0.1:80", affinity_timeout_s=9)
        planned = plan(whole(desired_state(port)), at.observed, [WEB], BOTH)
        for step in planned.steps:
            assert run(at.writer.take(step, at.observed, at.stamp)) == {}
        at.observed.occupy(planned)
        (name,) = at.observed.rendered[WEB].sets
        other = IpSet("other", SetKind.ADDRESS, "IPv4", timeout_s=60)
        tell(at, ipset_messages.create(other), ipset_messages.swap(other.name, name))

        assert verified(at) == [Drift(key=None, what=f"changed set {name}")]
        assert not at.observed.is_rebuild_due
        assert at.there().is_rebuild_due


def test_with_too_many_differences_everything_is_observed_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "SINGLE_CORRECTIONS", 2)
    with bench() as at:
        programmed(at)
        members = [Member(f"10.9.0.{number}", 6, 80) for number in range(3)]
        tell(at, *[ipset_messages.add(FRONTENDS, member) for member in members])

        assert verified(at) == [Drift(key=None, what="3 objects")]


@pytest.mark.parametrize("reading", [1, 2])
def test_what_we_write_meanwhile_is_no_drift(
    reading: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process removes a chain's rules, and we write it again, before it was seen twice or confirmed."""
    with bench() as at:
        programmed(at)
        desired = desired_state(make_desired("default/web", "10.0.0.1:80", "10.0.0.2:80"))
        at.restore(f"-F {list_chain(WEB)}")
        find, calls = module.find, list[int]()

        def found(*arguments: object) -> object:
            calls.append(1)
            result = find(*arguments)  # type: ignore[arg-type] # as they came
            if len(calls) == reading:
                at.observed.correct_chain("IPv4", "nat", list_chain(WEB), None)
                again = plan(whole(desired), at.observed, [WEB], BOTH)
                for step in again.steps:
                    asyncio.run(at.writer.take(step, at.observed, at.stamp))
            return result

        monkeypatch.setattr(module, "find", found)

        assert verified(at) == []
        assert (
            len(calls) == reading + 1
        )  # what was seen once only is not read while we have to wait
        assert at.observed.facts["IPv4"].chains == at.there().facts["IPv4"].chains


def test_places_say_where_they_are_and_what_has_to_be_read() -> None:
    places = (
        ChainPlace("IPv4", "nat", "C"),
        JumpPlace("IPv6", "filter", ("INPUT", "mark")),
        SetPlace("IPv4", "s"),
        MemberPlace("IPv4", "s", PLACE),
    )

    assert [part_of(place) for place in places] == [
        ("IPv4", "nat"),
        ("IPv6", "filter"),
        ("IPv4", None),
        ("IPv4", None),
    ]
    assert str(places[1]) == "rule that leads from INPUT of filter to us (IPv6)"
    assert [Seen(*each).how for each in ((None, 1), (1, None), (1, 2))] == [
        "missing",
        "foreign",
        "changed",
    ]
