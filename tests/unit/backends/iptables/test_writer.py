"""Steps carried out on fakes: what is confirmed is believed, and what is refused costs whom it belongs to."""

import asyncio

import pytest

from backends.iptables.model import (
    ChainState,
    ChainWrite,
    Jump,
    SetChange,
    SetStep,
    TableStep,
    make_chain,
    make_jump,
)
from backends.iptables.sets import fixed_sets
from backends.iptables.writer import RULES_AT_ONCE, entries_grown
from backends.kernel import ipset_messages
from backends.kernel.ipset import NOTICED_S
from backends.kernel.ipset_objects import IpSet, Member, SetKind
from backends.kernel.xtables_text import Flavour
from proxy.errors import KernelError
from proxy.model import PortKey
from tests.fakes.xtables import killed, killed_late
from tests.model_builders import make_key
from tests.unit.backends.iptables.machine import Bench, bench, run

FLAVOURS = pytest.mark.parametrize("flavour", Flavour)
KEYS = tuple([make_key(f"default/s{number:03}") for number in range(100)])
IPS = IpSet("sliceproxy4-ips", SetKind.ADDRESS, "IPv4", max_members=2)
DNAT = "-p tcp -j DNAT --to-destination 10.0.0.1:80"


def chain_of(key: PortKey) -> str:
    return f"SLICEPROXY-S-{key.name.name}"


def write(key: PortKey, *rules: str) -> ChainWrite:
    return ChainWrite(make_chain(chain_of(key), list(rules) or [DNAT]), key)


def step(*writes: ChainWrite, keys: tuple[PortKey, ...] = ()) -> TableStep:
    owners = tuple(dict.fromkeys([each.owner for each in writes if each.owner is not None]))
    return TableStep("IPv4", "nat", writes, keys=keys or owners)


def lead_from_postrouting(at: Bench, *keys: PortKey) -> None:
    """Nothing that comes from there may be translated, so the kernel refuses these chains."""
    for key in keys:
        at.restore(f":{chain_of(key)} - [0:0]", f"-A POSTROUTING -j {chain_of(key)}")


def take(at: Bench, taken: TableStep | SetStep) -> dict[PortKey, str]:
    return run(at.writer.take(taken, at.observed, at.stamp))


# --- tables


@FLAVOURS
def test_what_was_committed_is_believed_and_no_foreign_change(flavour: Flavour) -> None:
    with bench(flavour) as at:
        jump = make_jump("PREROUTING", f"-j {chain_of(KEYS[0])}")

        assert take(at, step(write(KEYS[0]))._replace(jumps=(jump,))) == {}

        assert at.observed.facts["IPv4"].chains == at.there().facts["IPv4"].chains
        assert at.observed.facts["IPv4"].jumps["nat"].keys() == {(jump.chain, jump.mark)}
        assert at.canary.look() == at.stamp


def test_a_step_without_lines_runs_no_program_and_is_believed() -> None:
    with bench() as at:
        assert take(at, step()) == {}

        assert at.machine.tables.calls == []
        assert (at.writer.folds, at.canary.look()) == (1, at.stamp)


@pytest.mark.parametrize(("flavour", "calls"), [(Flavour.NFT, 3), (Flavour.LEGACY, 1)])
def test_large_steps_are_cut_where_calls_grow_dear_and_not_where_each_copies_the_table(
    flavour: Flavour, calls: int
) -> None:
    with bench(flavour) as at:
        many = [write(key, *["-p tcp -j RETURN"] * (RULES_AT_ONCE // 10)) for key in KEYS[:25]]

        assert take(at, step(*many)) == {}

        assert len(at.machine.tables.calls) == calls
        assert len(at.there().facts["IPv4"].chains["nat"]) == 25
        assert at.canary.look() == at.stamp


@FLAVOURS
def test_who_is_refused_is_found_among_many_in_few_calls(flavour: Flavour) -> None:
    with bench(flavour) as at:
        lead_from_postrouting(at, KEYS[37])
        at.machine.tables.calls.clear()

        failed = take(at, step(*[write(key) for key in KEYS]))

        assert list(failed) == [KEYS[37]]
        # once for all, halved down to one, and once for what leads there
        assert len(at.machine.tables.calls) <= 2 + (7 if flavour is Flavour.LEGACY else 0) + 1
        assert at.observed.facts["IPv4"].chains == at.there().facts["IPv4"].chains
        assert at.observed.facts["IPv4"].jumps["nat"] == at.there().facts["IPv4"].jumps["nat"]


@FLAVOURS
def test_what_leads_to_the_refused_chain_is_removed_and_no_other(flavour: Flavour) -> None:
    with bench(flavour) as at:
        lead_from_postrouting(at, KEYS[1], KEYS[2])

        refused = take(at, step(write(KEYS[1])))

        assert list(refused) == [KEYS[1]]
        assert at.door.save("nat")["POSTROUTING"].rules == (f"-j {chain_of(KEYS[2])}",)
        assert take(at, step(write(KEYS[1]))) == {}


def test_where_a_shared_chain_is_refused_all_whom_the_step_is_for_are_named() -> None:
    with bench(Flavour.LEGACY) as at:
        shared = ChainWrite(make_chain("SLICEPROXY-C-1", ["-j NONE"]))

        failed = take(at, step(write(KEYS[0]), write(KEYS[1]), shared))

        assert failed.keys() == {KEYS[0], KEYS[1]}
        assert at.observed.facts["IPv4"].chains == at.there().facts["IPv4"].chains


def test_what_is_refused_whatever_it_is_costs_nobody_and_few_calls() -> None:
    with bench(Flavour.LEGACY) as at:
        calls: list[int] = []

        def refuse(_: object) -> tuple[int, str]:
            calls.append(1)
            return 4, "Fatal: can't open lock file /run/xtables.lock: Read-only file system\n"

        at.door.ends = [refuse] * 100

        with pytest.raises(KernelError, match="lock file"):
            take(at, step(*[write(key) for key in KEYS]))

        assert len(calls) == 2


def test_chains_of_a_tree_that_came_before_the_refused_part_are_written_again() -> None:
    """One service's own chain is not taken, and what of a tree was written before leads to chains that then are nobody's."""
    with bench() as at:
        shared = [
            ChainWrite(make_chain(f"SLICEPROXY-{name}", [""])) for name in ("C-2-0", "CLUSTER")
        ]
        large = write(KEYS[1], *["-p tcp -j RETURN"] * RULES_AT_ONCE)
        lead_from_postrouting(at, KEYS[2])

        failed = take(at, step(shared[0], shared[1], large, write(KEYS[2])))

        assert list(failed) == [KEYS[2]]
        assert at.observed.damaged["IPv4"] == {"SLICEPROXY-CLUSTER"}
        assert at.observed.leaving_chains["IPv4"] == {"SLICEPROXY-C-2-0"}
        assert at.observed.facts["IPv4"].chains == at.there().facts["IPv4"].chains


def test_a_refused_step_that_is_nobodys_is_an_error() -> None:
    with bench() as at, pytest.raises(KernelError):
        take(at, step(ChainWrite(make_chain("SLICEPROXY-A", ["-j NONE"]))))


@FLAVOURS
def test_of_chains_that_go_one_to_which_others_lead_stays_empty_and_no_other(
    flavour: Flavour,
) -> None:
    with bench(flavour) as at:
        names = tuple([f"SLICEPROXY-OLD-{number}" for number in range(4)])
        at.restore(*[f":{name} - [0:0]" for name in names], ":THEIRS - [0:0]")
        at.restore(f"-A {names[1]} -j {names[2]}", f"-A THEIRS -j {names[1]}")
        believed = at.there().facts["IPv4"].chains["nat"]
        at.observed.facts["IPv4"].chains["nat"] |= believed
        at.observed.leaving_chains["IPv4"].update(names)
        at.stamp.update(at.canary.look())

        assert take(at, TableStep("IPv4", "nat", removes=names)) == {}

        saved = at.door.save("nat")
        assert saved.keys() & set(names) == {names[1]}
        assert saved[names[1]].rules == ()
        assert saved["THEIRS"].rules == (f"-j {names[1]}",)
        assert not at.observed.is_sweep_due
        assert at.observed.facts["IPv4"].chains == at.there().facts["IPv4"].chains
        assert at.canary.look() == at.stamp


def test_a_removal_that_is_refused_for_another_reason_is_an_error_and_tried_again() -> None:
    with bench() as at:
        at.restore(":SLICEPROXY-OLD - [0:0]")
        at.observed.leaving_chains["IPv4"].add("SLICEPROXY-OLD")
        at.door.ends = [lambda _: (4, "no rights\n")]

        with pytest.raises(KernelError, match="no rights"):
            take(at, TableStep("IPv4", "nat", removes=("SLICEPROXY-OLD",)))

        assert at.observed.is_sweep_due


@pytest.mark.parametrize("end", [killed, killed_late])
def test_of_a_step_whose_program_was_killed_nothing_is_believed(end: object) -> None:
    with bench() as at:
        at.door.ends = [end]  # type: ignore[list-item] # one of the two

        with pytest.raises(KernelError, match="killed"):
            take(at, step(write(KEYS[0])))

        assert at.observed.facts["IPv4"].chains["nat"] == {}
        assert at.writer.folds == 0


def test_entries_are_those_that_the_kernel_will_count() -> None:
    with bench(Flavour.LEGACY) as at:
        jump = Jump("OUTPUT", "", f"-j {chain_of(KEYS[1])}")
        steps = [
            step(write(KEYS[0]), write(KEYS[1], DNAT, DNAT))._replace(jumps=(jump,)),
            step(write(KEYS[0], DNAT, DNAT, DNAT)),
            TableStep("IPv4", "nat", gone_jumps=(jump,), removes=(chain_of(KEYS[1]),)),
        ]
        for each in steps:
            before = at.machine.tables.entries(Flavour.LEGACY, "IPv4", "nat")
            grown = entries_grown(each, at.observed)
            take(at, each)
            assert at.machine.tables.entries(Flavour.LEGACY, "IPv4", "nat") == before + grown


# --- sets


def test_messages_stand_for_themselves() -> None:
    with bench() as at:
        changes = [
            SetChange("create", IPS.name, IPS),
            *[
                SetChange("add", IPS.name, Member(f"10.0.0.{number}"), KEYS[number])
                for number in range(4)
            ],
        ]

        failed = take(at, SetStep("IPv4", tuple(changes), KEYS[:4]))

        assert list(failed) == [KEYS[2], KEYS[3]]
        assert "full" in failed[KEYS[2]]
        there = at.there().facts["IPv4"]
        assert at.observed.facts["IPv4"].members == there.members
        assert there.members == {IPS.name: {Member("10.0.0.0"), Member("10.0.0.1")}}


def test_a_refused_message_that_is_for_all_costs_all_and_one_for_nobody_is_an_error() -> None:
    with bench() as at:
        wrong = SetChange("add", IPS.name, Member("10.0.0.1"))

        assert take(at, SetStep("IPv4", (wrong,), KEYS[:2])).keys() == set(KEYS[:2])
        with pytest.raises(KernelError, match="no such set"):
            take(at, SetStep("IPv4", (wrong,)))


def test_a_set_that_is_still_in_use_is_left_for_later() -> None:
    with bench() as at:
        take(at, SetStep("IPv4", (SetChange("create", IPS.name, IPS),)))
        at.machine.ipset.references[IPS.name] = 1
        destroyed = SetStep("IPv4", (SetChange("destroy", IPS.name),))

        assert take(at, destroyed) == {}
        assert IPS.name in at.observed.facts["IPv4"].sets

        at.machine.ipset.references.clear()
        assert take(at, destroyed) == {}
        assert IPS.name not in at.observed.facts["IPv4"].sets


def test_a_set_that_is_to_be_made_anew_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with bench() as at:
        made = fixed_sets("IPv4")["sliceproxy4-frontends"]
        old = SetChange("create", "sliceproxy4-old", IPS._replace(name="sliceproxy4-old"))
        take(at, SetStep("IPv4", (SetChange("create", made.name, made), old)))
        at.machine.ipset.references.update({made.name: 1, old.name: 1})
        waited: list[float] = []

        async def wait(seconds: float) -> None:
            waited.append(seconds)
            at.machine.ipset.references.pop(made.name, None)

        monkeypatch.setattr(asyncio, "sleep", wait)
        names = (made.name, old.name)

        assert take(at, SetStep("IPv4", tuple([SetChange("destroy", n) for n in names]))) == {}

        assert len(waited) == 1
        assert list(at.observed.facts["IPv4"].sets) == [old.name]
        assert at.observed.leaving_sets["IPv4"] == {old.name}


def test_a_set_that_is_never_let_go_is_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with bench() as at:
        made = fixed_sets("IPv4")["sliceproxy4-frontends"]
        take(at, SetStep("IPv4", (SetChange("create", made.name, made),)))
        at.machine.ipset.references[made.name] = 1
        waited: list[float] = []

        async def wait(seconds: float) -> None:
            waited.append(seconds)

        monkeypatch.setattr(asyncio, "sleep", wait)

        assert take(at, SetStep("IPv4", (SetChange("destroy", made.name),))) == {}

        assert NOTICED_S <= sum(waited) < NOTICED_S + 0.1
        assert made.name in at.observed.facts["IPv4"].sets


def test_many_messages_are_carried_out_as_well() -> None:
    large = IPS._replace(max_members=65536)
    with bench() as at:
        members = [Member(f"10.0.{number >> 8}.{number & 255}") for number in range(1000)]
        adds = [SetChange("add", large.name, member) for member in members]

        assert take(at, SetStep("IPv4", (SetChange("create", large.name, large), *adds))) == {}

        (state,) = at.doors.ipset.list_sets()
        assert state.members == 1000
        assert at.observed.facts["IPv4"].members[large.name] == set(members)


def test_a_set_that_another_shape_stands_in_for_is_refused() -> None:
    with bench() as at:
        other = IPS._replace(kind=SetKind.NETWORK)
        assert at.doors.ipset.carry_out([ipset_messages.create(other)]) == []

        assert list(take(at, SetStep("IPv4", (SetChange("create", IPS.name, IPS, KEYS[0]),)))) == [
            KEYS[0]
        ]


def test_a_chain_is_believed_as_it_was_written() -> None:
    with bench() as at:
        written = write(KEYS[0])
        take(at, step(written))

        assert at.observed.facts["IPv4"].chains["nat"][chain_of(KEYS[0])] == written.chain.state
        assert written.chain.state == ChainState(written.chain.state.mark, 1)
