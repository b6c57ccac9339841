"""The backend on fakes: what the laws of tests/contract do not say."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from msgspec import structs

from backends.iptables import backend as module
from backends.iptables import names, node_settings, restoring, writer
from backends.iptables.backend import PLANNED_AT_ONCE, SWEEP_S, IptablesBackend, Tools
from backends.iptables.belief import Observed
from backends.iptables.layout import JUMPS, IptablesSettings, Layout
from backends.iptables.model import TABLES, TableStep
from backends.iptables.plan import plan
from backends.iptables.restoring import LOCK_TRIES
from backends.iptables.sets import fixed_sets
from backends.kernel import ipset_messages
from backends.kernel.ipset import Ipset
from backends.kernel.ipset_objects import IpSet, Member, SetKind
from backends.kernel.xtables_flavour import Choice
from backends.kernel.xtables_text import Flavour
from proxy.backend import Retired
from proxy.desired import Frontend
from proxy.desired_node import DesiredNode
from proxy.errors import Busy, KernelError, Unsupported
from proxy.model import FAMILIES
from proxy.schedule import Backoff
from tests.contract.driving import adopt, program
from tests.contract.iptables_machine import FakeMachine
from tests.desired_strategies import Ports, desired_state, make_desired, many_services, whole
from tests.fakes.xtables import done, killed, locked
from tests.unit.proxy.config.loading import settings_of

LAYOUT = Layout(IptablesSettings(families=FAMILIES, cluster_cidrs=("10.244.0.0/16",)))
LEGACY, NFT = Flavour
FRONTENDS = "sliceproxy4-frontends"


class Host:
    """A machine on which backends are started; `left` is whether the other flavour has something of ours."""

    def __init__(self, stack: ExitStack) -> None:
        self.machine = FakeMachine()
        self.flavour = NFT
        self.left = False
        self.is_proven = False
        self.has_programs = True
        self.tried: list[Choice] = []
        self.routed: list[list[str]] = []
        self.looked = 0
        self._stack = stack
        stack.enter_context(self.machine.entered())
        self.ipset = stack.enter_context(Ipset())

    def find(self, _: object) -> Choice:
        self.looked += 1
        if not self.has_programs:
            raise Unsupported("the iptables programs", "not installed")
        other = LEGACY if self.flavour is NFT else NFT
        doors, others = (
            {family: self.machine.tables.door(flavour, family) for family in FAMILIES}
            for flavour in (self.flavour, other)
        )
        return Choice(self.flavour, doors, others if self.left else {}, self.is_proven)

    def start(self, layout: Layout = LAYOUT) -> IptablesBackend:
        backend = IptablesBackend(
            layout,
            Tools(
                find=self.find,
                open_canary=lambda flavour, _: self.machine.open_canary(flavour),
                probe=self.tried.append,
                route_localhost=lambda: self.routed.append(self.own(self.flavour)),
            ),
        )
        self._stack.callback(backend.close)
        return backend

    def own(self, flavour: Flavour) -> list[str]:
        chains = [self.machine.tables.chains(flavour, family, "nat") for family in FAMILIES]
        return [name for each in chains for name in each if name.startswith("SLICEPROXY-")]


@pytest.fixture
def host() -> Iterator[Host]:
    with ExitStack() as stack:
        yield Host(stack)


def started(host: Host, desired: Ports) -> tuple[IptablesBackend, Observed]:
    backend = host.start()
    return backend, asyncio.run(adopt(backend, desired))


# --- settings


def test_settings_become_rules() -> None:
    settings = settings_of(
        "--proxy-mode=iptables",
        "--iptables-masquerade-bit=7",
        "--masquerade-all",
        "--iptables-localhost-nodeports=false",
    )

    made = IptablesBackend.from_settings(settings).layout.settings

    assert (made.masquerade_mark, made.masquerade_all, made.serves_localhost) == (
        0x80,
        True,
        False,
    )


def test_where_tracking_is_liberal_invalid_packets_are_not_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = settings_of("--proxy-mode=iptables")

    for is_liberal in (True, False):
        monkeypatch.setattr(node_settings, "is_liberal", [is_liberal].pop)
        made = IptablesBackend.from_settings(settings).layout.settings
        assert made.drops_invalid is not is_liberal


# --- flavour


def test_the_flavour_is_chosen_at_the_first_use_and_once(host: Host) -> None:
    backend = host.start()
    assert host.looked == 0

    asyncio.run(backend.probe())
    asyncio.run(backend.observe())

    assert host.looked == 1
    assert [choice.flavour for choice in host.tried] == [NFT]


def test_what_has_been_accepted_before_is_not_tried_again(host: Host) -> None:
    host.is_proven = True

    asyncio.run(host.start().probe())

    assert host.tried == []


def test_rules_in_the_other_flavour_stay_until_everything_is_in_this_one(host: Host) -> None:
    desired = many_services(3)
    host.flavour = LEGACY
    started(host, desired)
    host.flavour, host.left = NFT, True
    backend = host.start()

    async def move() -> None:
        observed = await backend.observe()
        keys = sorted(desired)
        await program(backend, observed, desired, keys[:1])
        await program(backend, observed, desired, keys[1:])
        assert host.own(LEGACY)
        await backend.apply(backend.prune(whole(desired), observed), observed)

    asyncio.run(move())

    assert host.own(LEGACY) == []
    assert len(host.own(NFT)) > 6
    assert [state.set.name for state in host.ipset.list_sets()]


def test_a_set_of_another_shape_is_replaced_though_rules_in_the_other_flavour_ask_it(
    host: Host,
) -> None:
    desired = many_services(3)
    host.flavour = LEGACY
    started(host, desired)
    host.flavour, host.left = NFT, True
    other = fixed_sets("IPv4")[FRONTENDS]._replace(name="other", max_members=7)
    swap = [ipset_messages.create(other), ipset_messages.swap(other.name, FRONTENDS)]
    assert host.ipset.carry_out(swap) == []

    _, observed = started(host, desired)

    assert not observed.is_rebuild_due
    assert host.own(LEGACY) == []
    assert len(host.own(NFT)) > 6


@pytest.mark.parametrize("at_once", [2, 2000])
def test_with_another_secret_everything_gets_other_names_and_the_old_ones_go(
    host: Host, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "RULES_AT_ONCE", at_once)
    desired = many_services(3)
    started(host, desired)
    before = set(host.own(NFT))
    backend = host.start(Layout(structs.replace(LAYOUT.settings, secret="another")))

    observed = asyncio.run(adopt(backend, desired))

    assert asyncio.run(backend.verify(observed)) == []
    after = set(host.own(NFT))
    assert len(after) == len(before)
    assert len(after - before) == len(desired)


# --- what others change


@pytest.mark.parametrize("flavour", Flavour)
def test_writes_of_ours_are_no_foreign_change(host: Host, flavour: Flavour) -> None:
    host.flavour = flavour
    backend, observed = started(host, many_services(3))
    assert not backend.has_foreign_change(observed)

    asyncio.run(program(backend, observed, many_services(1), sorted(many_services(3))))

    assert not backend.has_foreign_change(observed)


def test_members_that_came_or_went_and_sets_that_went_are_noticed(host: Host) -> None:
    backend, observed = started(host, many_services(3))
    member, other = Member("10.96.0.1", 6, 80), Member("10.9.9.9", 6, 80)
    add, delete = (
        act(FRONTENDS, each)
        for act, each in ((ipset_messages.add, other), (ipset_messages.delete, member))
    )

    host.ipset.carry_out([add])
    assert backend.has_foreign_change(observed)
    host.ipset.carry_out([delete])
    assert not backend.has_foreign_change(observed)  # as many as before: only reading tells
    host.ipset.carry_out([delete, ipset_messages.delete(FRONTENDS, other)])
    assert backend.has_foreign_change(observed)


@pytest.mark.parametrize("flavour", Flavour)
def test_a_flush_of_everything_is_noticed(host: Host, flavour: Flavour) -> None:
    host.flavour = flavour
    backend, observed = started(host, many_services(3))

    chains = host.machine.tables.chains(flavour, "IPv6", "filter")
    host.machine.tables.door(flavour, "IPv6").restore("filter", [f"-F {name}" for name in chains])

    assert backend.has_foreign_change(observed)


def test_while_something_is_being_written_nothing_is_said(host: Host) -> None:
    backend, observed = started(host, many_services(1))

    async def look() -> bool:
        async with backend._lock:
            host.ipset.carry_out([ipset_messages.flush(FRONTENDS)])
            return backend.has_foreign_change(observed)

    assert not asyncio.run(look())


# --- applying


def test_what_is_left_for_packets_on_their_way_is_due_after_a_while(host: Host) -> None:
    desired = many_services(2)
    backend, observed = started(host, desired)
    gone = min(desired)
    del desired[gone]

    applied = asyncio.run(backend.apply(backend.plan(whole(desired), observed, [gone]), observed))

    assert applied.again_s == SWEEP_S


def test_many_are_planned_beside_the_event_loop_while_nobody_else_corrects_belief(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = host.start()
    where: list[tuple[bool, bool]] = []

    def planned(*arguments: object) -> object:
        is_main = threading.current_thread() is threading.main_thread()
        where.append((is_main, backend._lock.locked()))
        return plan(*arguments)  # type: ignore[arg-type] # as they came

    monkeypatch.setattr(module, "plan", planned)
    few, many = many_services(PLANNED_AT_ONCE), many_services(PLANNED_AT_ONCE + 1)

    async def life() -> None:
        observed = await backend.observe()
        await program(backend, observed, few, list(few))
        late = backend.plan(whole(many), observed, list(many))
        assert len(where) == 1
        assert (await backend.apply(late, observed)).failed == {}
        assert observed.rendered.keys() == many.keys()

    asyncio.run(life())
    assert where == [(True, False), (False, True)]


def test_who_is_refused_by_the_plan_alone_is_named_and_all_others_are_served(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "identity", lambda key, _: key.family)
    desired = many_services(3)
    backend = host.start()
    observed = asyncio.run(backend.observe())

    keys = sorted(desired)
    applied = asyncio.run(backend.apply(backend.plan(whole(desired), observed, keys), observed))

    assert list(applied.failed) == keys[1:]
    assert list(observed.rendered) == keys[:1]
    assert "SLICEPROXY-S-IPv4" in host.own(NFT)


def test_a_refusal_in_a_plan_for_nobody_has_everything_read_and_planned_anew(host: Host) -> None:
    vip = Frontend("LoadBalancer", "203.0.113.1", 80)
    port = make_desired("default/web", "10.0.0.1:80", outer=(vip,), external_local=True)
    layout = Layout(structs.replace(LAYOUT.settings, local_mode="NodeCIDR"))
    backend = host.start(layout)
    desired, node = desired_state(port), DesiredNode(pod_cidrs=("10.244.1.0/24",))
    observed = asyncio.run(adopt(backend, desired))
    assert backend._opened is not None
    vars(backend._opened.doors.tables["IPv4"])["ends"] = [lambda _: (1, "no")]

    with pytest.raises(KernelError, match="pods"):
        asyncio.run(backend.apply(backend.plan(whole(desired, node), observed, []), observed))


def test_loopback_is_routed_once_and_not_before_the_rule_that_guards_it_is_there(
    host: Host,
) -> None:
    backend, observed = started(host, many_services(2))
    asyncio.run(program(backend, observed, many_services(1), sorted(many_services(2))))

    (there,) = host.routed
    assert there


def test_a_killed_program_ends_the_round_and_is_counted(host: Host) -> None:
    backend = host.start()
    observed = asyncio.run(backend.observe())
    opened = backend._opened
    assert opened is not None
    for door in opened.doors.tables.values():
        vars(door)["ends"] = [killed]
    desired = many_services(1)

    with pytest.raises(KernelError, match="killed"):
        asyncio.run(program(backend, observed, desired, sorted(desired)))

    assert observed.rendered.keys() <= desired.keys()
    (calls, _) = backend.figures()
    assert calls.values["done"] == 0


def test_what_came_before_the_lock_was_not_to_be_had_is_known_and_goes_again(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is looked for who is refused, and what was written meanwhile is nobody's yet."""
    monkeypatch.setattr(restoring, "_PAUSE", Backoff(first_s=0.0, last_s=0.0))
    host.flavour = LEGACY
    small, large = many_services(4), many_services(4, endpoints=20)
    keys = sorted(small)
    backend, observed = started(host, small)
    before = host.own(LEGACY)
    assert backend._opened is not None
    door = backend._opened.doors.tables["IPv4"]
    (step,) = plan(whole(large), observed, keys, LAYOUT).steps
    assert isinstance(step, TableStep)
    refused = next(write.chain.name for write in step.writes if write.owner == keys[-1])
    door.restore("nat", [f":{refused} - [0:0]", f"-A POSTROUTING -j {refused}"])
    vars(door)["ends"] = [done, done, done, *[locked] * LOCK_TRIES]

    with pytest.raises(Busy):
        asyncio.run(program(backend, observed, large, keys))
    assert len(host.own(LEGACY)) > len(before) + 1
    asyncio.run(program(backend, observed, small, keys))

    # a rule of others leads to the one that is left
    assert sorted(host.own(LEGACY)) == sorted([*before, refused])


def test_a_process_that_starts_where_tables_cannot_be_read_writes_what_it_would_write_anyway(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    before, after = many_services(40), dict(list(many_services(50).items())[20:])
    started(host, before)
    host.machine.tables.only_nft |= {(family, t) for family in FAMILIES for t in TABLES}

    backend, observed = started(host, after)

    assert "only nft can list" in caplog.text
    assert asyncio.run(backend.verify(observed)) == []
    assert not observed.is_rebuild_due
    host.machine.tables.only_nft.clear()
    assert asyncio.run(backend.verify(observed)) == []
    for family in FAMILIES:
        chains = host.machine.tables.chains(NFT, family, "nat")
        assert [len(chains[jump.chain]) for jump in JUMPS["nat"]] == [1, 1, 1]
    assert asyncio.run(backend.cleanup()) > 40
    assert host.own(NFT) == []


def test_a_set_of_another_shape_is_replaced_where_tables_cannot_be_read_either(host: Host) -> None:
    desired = many_services(3)
    started(host, desired)
    other = fixed_sets("IPv4")[FRONTENDS]._replace(name="other", max_members=7)
    swap = [ipset_messages.create(other), ipset_messages.swap(other.name, FRONTENDS)]
    assert host.ipset.carry_out(swap) == []
    host.machine.tables.only_nft |= {(family, t) for family in FAMILIES for t in TABLES}

    backend, observed = started(host, desired)

    assert not observed.is_rebuild_due
    host.machine.tables.only_nft.clear()
    assert asyncio.run(backend.verify(observed)) == []
    chains = host.machine.tables.chains(NFT, "IPv4", "nat")
    assert [len(chains[jump.chain]) for jump in JUMPS["nat"]] == [1, 1, 1]


def test_who_looks_is_told_that_a_table_cannot_be_read(host: Host) -> None:
    desired = many_services(1)
    backend, observed = started(host, desired)
    host.machine.tables.only_nft.add(("IPv4", "nat"))

    async def look() -> None:
        async for _ in backend.read_back(whole(desired), observed, list(desired)):
            raise AssertionError

    with pytest.raises(KernelError, match="only nft can list"):
        asyncio.run(look())


# --- leaving


def test_giving_way_reads_no_table_where_there_are_no_sets_of_ours(host: Host) -> None:
    host.ipset.carry_out([ipset_messages.create(IpSet("theirs", SetKind.PORT, None))])

    assert asyncio.run(host.start().retire()) == Retired()
    assert host.looked == 0


def test_giving_way_removes_everything_in_both_flavours(host: Host) -> None:
    started(host, many_services(3))
    host.flavour = LEGACY
    started(host, many_services(3))
    host.left = True

    retired = asyncio.run(host.start().retire())

    (removed,) = retired.removed
    assert removed.endswith("iptables chains, rules and sets")
    assert retired.again_s is None
    assert host.own(LEGACY) == host.own(NFT) == []
    assert host.ipset.list_sets() == []


def test_without_programs_there_can_be_no_rules_but_sets(host: Host) -> None:
    started(host, many_services(1))
    for family in FAMILIES:
        door = host.machine.tables.door(NFT, family)
        for table in ("nat", "filter"):
            chains = list(host.machine.tables.chains(NFT, family, table))
            own = [name for name in chains if name.startswith("SLICEPROXY-")]
            door.restore(table, [*[f"-F {n}" for n in chains], *[f"-X {n}" for n in own]])
    host.has_programs = False

    count = len(host.ipset.list_sets())
    assert asyncio.run(host.start().cleanup()) == count > 0
    assert host.ipset.list_sets() == []


def test_without_sets_in_the_kernel_there_is_nothing_to_give_way(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Ipset) -> object:
        raise KernelError("list sets", 22, "Invalid argument")

    monkeypatch.setattr(Ipset, "list_sets", refuse)

    with pytest.raises(Unsupported):
        asyncio.run(host.start().retire())
    assert asyncio.run(host.start().cleanup()) == 0


def test_closing_twice_is_fine(host: Host) -> None:
    backend, _ = started(host, many_services(1))
    backend.close()
    backend.close()
