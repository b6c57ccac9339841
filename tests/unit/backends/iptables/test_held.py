"""What is told of the kernel to somebody who looks."""

import asyncio

import pytest

from backends.iptables.held import Look
from backends.iptables.names import list_chain
from backends.iptables.tree import ROOTS
from backends.kernel import ipset_messages
from backends.kernel.ipset_objects import Member
from proxy.backend import Held
from proxy.model import PortKey
from tests.model_builders import make_key
from tests.unit.backends.iptables.machine import Bench, bench, run
from tests.unit.backends.iptables.planning import WEB
from tests.unit.backends.iptables.test_verify import FRONTENDS, PLACE, programmed


def look(at: Bench, keys: list[PortKey] | None) -> Look:
    made = Look(at.observed, keys)
    run(made.read(at.doors, asyncio.Lock()))
    return made


@pytest.mark.parametrize("keys", [[WEB], None])
def test_rules_and_members_of_a_service_are_told_from_the_frontend_on(
    keys: list[PortKey] | None,
) -> None:
    with bench() as at:
        programmed(at)

        held = look(at, keys).at_port(WEB)

        assert held.differences == ()
        lead, first, second, *members = held.lines
        assert lead.endswith(f"-d 10.96.0.10/32 -p tcp --dport 80 -g {list_chain(WEB)}")
        assert lead.startswith(f"{ROOTS['C']}: ")
        assert first.endswith("--to-destination 10.0.0.1:80")
        assert second == f"{list_chain(WEB)}: -p tcp -j DNAT --to-destination 10.0.0.2:80"
        assert members == ["sliceproxy4-cluster-ips: 10.96.0.10", f"{FRONTENDS}: {PLACE}"]


def test_of_a_stranger_there_is_nothing_to_tell() -> None:
    with bench() as at:
        programmed(at)
        stranger = make_key("default/nobody")

        assert look(at, [stranger]).at_port(stranger) == Held(key=stranger)


@pytest.mark.parametrize("keys", [[WEB], None])
def test_what_is_missing_is_told_and_neither_belief_nor_kernel_changed(
    keys: list[PortKey] | None,
) -> None:
    with bench() as at:
        programmed(at)
        at.restore(f"-F {list_chain(WEB)}", f"-F {ROOTS['C']}")
        at.doors.ipset.carry_out([ipset_messages.delete(FRONTENDS, PLACE)])
        before = dict(at.observed.facts["IPv4"].chains["nat"])

        held = look(at, keys).at_port(WEB)

        assert f"changed: chain {list_chain(WEB)} of nat (IPv4)" in held.differences
        assert f"missing: member {PLACE} of set {FRONTENDS}" in held.differences
        assert any(each.startswith("missing: the rule of Front") for each in held.differences)
        assert held.lines == ("sliceproxy4-cluster-ips: 10.96.0.10",)
        assert at.observed.facts["IPv4"].chains["nat"] == before
        assert at.there().facts["IPv4"].members[FRONTENDS] == set()


def test_what_is_nobodys_is_told_last() -> None:
    with bench() as at:
        programmed(at)
        at.doors.ipset.carry_out([ipset_messages.add(FRONTENDS, Member("10.9.9.9", 6, 80))])

        held = look(at, None).at_strangers()

        assert held.key is None
        assert held.differences == (f"foreign: member 10.9.9.9,tcp:80 of set {FRONTENDS}",)
        assert f"IPv4: 2 members in {FRONTENDS}" in held.lines
        assert any("chains with" in line and "in filter" in line for line in held.lines)


def test_of_very_many_strangers_some_are_told_and_the_others_counted() -> None:
    with bench() as at:
        programmed(at)
        members = [Member(f"10.9.{number >> 8}.{number & 255}", 6, 80) for number in range(130)]
        at.doors.ipset.carry_out([ipset_messages.add(FRONTENDS, each) for each in members])

        held = look(at, None).at_strangers()

        assert len(held.differences) == 101
        assert held.differences[-1] == "30 more"


def test_what_we_are_just_writing_is_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """What differs is read again while nothing of ours is written."""
    with bench() as at:
        programmed(at)
        wrong = Member("10.9.9.9", 6, 80)
        at.doors.ipset.carry_out([ipset_messages.add(FRONTENDS, wrong)])
        made, lock = Look(at.observed, None), asyncio.Lock()
        read, seen = made._read, list[bool]()

        def noted(doors: object) -> object:
            seen.append(lock.locked())
            found = read(at.doors)
            at.observed.correct_members("IPv4", FRONTENDS, (wrong,))  # now it is believed
            return found

        monkeypatch.setattr(made, "_read", noted)
        run(made.read(at.doors, lock))

        assert seen == [False, True]
        assert made.at_strangers().differences == ()
