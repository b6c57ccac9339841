"""How belief follows what the kernel has confirmed, and what was read."""

from collections.abc import Collection, Mapping

import pytest

from backends.ipvs.belief import DRAIN_S, Observed
from backends.ipvs.model import (
    BOUND,
    AddressStep,
    Frontend,
    Operation,
    Place,
    Rendered,
    SharedMember,
    Verb,
)
from backends.ipvs.planned import IpvsPlan
from backends.kernel.ipvs_objects import Destination, ServerId, VirtualServer, marked
from backends.kernel.nft_table import Data, TableFacts
from backends.kernel.nft_transaction import Transaction
from proxy.model import Family, PortKey
from tests.unit.backends.belief_laws import BeliefLaws, Occupied
from tests.unit.backends.ipvs.planning import API, WEB, make_belief

ADDRESS = "10.96.0.10"
SERVER = ServerId("IPv4", "TCP", ADDRESS, 80)
A: Place = ("10.1.0.1", 80)
B: Place = ("10.1.0.2", 80)
NOW_S = 1000.0


def fold(
    observed: Observed, verb: Verb, place: Place, weight: int = 1, *, is_draining: bool = False
) -> None:
    """Take in a message about one destination of SERVER."""
    spec = Destination(*place, weight)
    observed.fold_operation(Operation(verb, SERVER, spec, WEB, is_draining), NOW_S + DRAIN_S)


def serving(*places: Place) -> Observed:
    """A belief in SERVER with these destinations."""
    observed = make_belief()
    observed.fold_operation(Operation("add server", SERVER, VirtualServer(SERVER, "rr"), WEB), 0.0)
    for place in places:
        fold(observed, "add destination", place)
    return observed


def occupied(
    key: PortKey,
    *frontends: bytes,
    number: int | None = None,
    shared: tuple[SharedMember, ...] = (),
) -> IpvsPlan:
    """A plan after which a ServicePort occupies this."""
    rendered = Rendered(
        frontends=tuple([Frontend("address", each, None) for each in frontends]),
        number=number,
        shared=frozenset(shared),
    )
    return IpvsPlan((), {key: rendered})


def withdrawn(key: PortKey) -> IpvsPlan:
    return IpvsPlan((), {key: None})


class TestBelief(BeliefLaws[Observed]):
    def believe(self, tables: dict[Family, TableFacts], generation: int = 0) -> Observed:
        return Observed(tables, generation=generation)

    def fold(self, observed: Observed, transaction: Transaction) -> None:
        observed.fold_nft(transaction)

    def correct(
        self,
        observed: Observed,
        set_name: str,
        keys: Collection[bytes],
        actual: Mapping[bytes, Data],
    ) -> None:
        observed.correct_elements("IPv4", set_name, keys, actual)

    def occupy(self, observed: Observed, rendered: Mapping[PortKey, Occupied | None]) -> None:
        described = {
            key: occupied(key, *each.frontends, shared=each.shared).rendered[key]
            if each is not None
            else None
            for key, each in rendered.items()
        }
        observed.occupy(IpvsPlan((), described))


# --- addresses


def test_addresses_are_bound_and_unbound_but_for_those_the_kernel_refused() -> None:
    observed = Observed({}, bound=("10.96.0.1", "10.96.0.2"))
    step = AddressStep(
        bind=(("10.96.0.3", WEB), ("10.96.0.4", WEB)),
        unbind=(("10.96.0.1", WEB), ("10.96.0.2", WEB)),
    )

    observed.fold_addresses(step, ["10.96.0.2", "10.96.0.4"])

    assert list(observed.bound) == ["10.96.0.2", "10.96.0.3"]


@pytest.mark.parametrize("is_refused", [False, True])
def test_a_virtual_server_of_others_is_ours_once_its_address_is_bound(is_refused: bool) -> None:
    observed = make_belief()
    server, there = VirtualServer(SERVER, "wlc"), {A: Destination(*A)}
    observed.strangers[ADDRESS] = {SERVER: (server, there)}

    step = AddressStep(bind=((ADDRESS, WEB),))
    observed.fold_addresses(step, [ADDRESS] if is_refused else [])

    assert observed.servers == ({} if is_refused else {SERVER: server})
    assert observed.destinations == ({} if is_refused else {SERVER: there})
    assert bool(observed.strangers) == is_refused


# --- virtual servers


def test_a_virtual_server_that_is_changed_keeps_its_destinations() -> None:
    observed = serving(A)
    changed = VirtualServer(SERVER, "sh")

    observed.fold_operation(Operation("set server", SERVER, changed, WEB), NOW_S)

    assert observed.servers == {SERVER: changed}
    assert list(observed.destinations[SERVER]) == [A]


def test_a_virtual_server_goes_with_all_that_is_known_of_it() -> None:
    observed = serving(A)
    fold(observed, "set destination", A, 0, is_draining=True)

    observed.fold_operation(Operation("del server", SERVER, None, WEB), NOW_S)

    assert (observed.servers, observed.destinations, observed.draining) == ({}, {}, {})


def test_what_drains_has_its_time_from_the_moment_it_got_weight_0() -> None:
    observed = serving(A, B)

    fold(observed, "set destination", A, 0, is_draining=True)

    assert observed.destinations[SERVER][A].weight == 0
    assert observed.draining == {SERVER: {A: NOW_S + DRAIN_S}}
    observed.drain(SERVER, A, NOW_S + 2 * DRAIN_S)
    assert observed.draining == {SERVER: {A: NOW_S + DRAIN_S}}


def test_what_an_earlier_process_said_counts_if_it_is_sooner() -> None:
    observed = serving(A, B)
    observed.deadlines = {(SERVER, A): NOW_S + 5, (SERVER, B): NOW_S + 2 * DRAIN_S}
    assert observed.all_deadlines == {SERVER: {A: NOW_S + 5, B: NOW_S + 2 * DRAIN_S}}

    for place in (A, B):
        observed.drain(SERVER, place, NOW_S + DRAIN_S)

    assert observed.draining == {SERVER: {A: NOW_S + 5, B: NOW_S + DRAIN_S}}
    assert observed.deadlines == {}


def test_who_took_connections_until_now_has_all_the_time_whatever_was_said_before() -> None:
    observed = serving(A)
    observed.deadlines = {(SERVER, A): NOW_S + 5}

    fold(observed, "set destination", A, 0, is_draining=True)

    assert observed.draining == {SERVER: {A: NOW_S + DRAIN_S}}
    assert observed.deadlines == {}


def test_deadlines_of_what_is_not_there_are_not_kept() -> None:
    observed = serving(A)
    observed.deadlines = {(SERVER, B): 5.0, (marked("IPv4", 1), A): 5.0}
    observed.drain(SERVER, A, 6.0)

    assert observed.all_deadlines == {SERVER: {A: 6.0}}


@pytest.mark.parametrize("verb", ["set destination", "del destination"])
def test_what_is_wanted_again_or_gone_drains_no_longer(verb: Verb) -> None:
    observed = serving(A, B)
    fold(observed, "set destination", A, 0, is_draining=True)
    fold(observed, "set destination", B, 0, is_draining=True)

    fold(observed, verb, A)
    assert list(observed.draining[SERVER]) == [B]
    fold(observed, verb, B)

    assert observed.draining == {}
    assert len(observed.destinations[SERVER]) == (2 if verb == "set destination" else 0)


# --- who occupies what


def test_a_number_in_marks_stands_for_who_has_it_now() -> None:
    observed = make_belief()

    observed.occupy(occupied(WEB, number=5))
    observed.occupy(occupied(API, number=6))
    assert observed.numbers == {("IPv4", 5): WEB, ("IPv4", 6): API}
    observed.occupy(withdrawn(WEB))

    assert observed.numbers == {("IPv4", 6): API}


def test_while_a_plan_is_carried_out_both_the_old_and_the_new_is_occupied() -> None:
    observed = make_belief()
    observed.occupy(occupied(WEB, b"old", shared=((BOUND, b"old"),)))

    change = occupied(WEB, b"new", shared=((BOUND, b"new"),))
    observed.begin(change)
    assert set(observed.holders) == {("IPv4", b"old"), ("IPv4", b"new")}
    assert {member for _, _, member in observed.references} == {b"old", b"new"}
    observed.begin(withdrawn(WEB))
    assert [each.key for each in observed.rendered[WEB].frontends] == [b"old", b"new"]
    observed.occupy(change)

    assert set(observed.holders) == {("IPv4", b"new")}
    assert observed.references == {("IPv4", BOUND, b"new"): 1}


# --- corrections


def test_what_is_gone_by_the_time_it_is_to_drain_does_not() -> None:
    observed = serving(A)
    observed.drain(SERVER, B, NOW_S)
    observed.correct_server(SERVER, None, [])
    observed.drain(SERVER, A, NOW_S)

    assert (observed.draining, observed.is_drain_news) == ({}, False)


def test_a_virtual_server_is_as_it_was_read_and_what_is_gone_drains_no_longer() -> None:
    observed = serving(A, B)
    for place in (A, B):
        fold(observed, "set destination", place, 0, is_draining=True)

    found = VirtualServer(SERVER, "lc")
    observed.correct_server(SERVER, found, [Destination(*B, weight=0)])
    assert observed.servers == {SERVER: found}
    assert observed.destinations == {SERVER: {B: Destination(*B, weight=0)}}
    assert list(observed.draining[SERVER]) == [B]
    observed.correct_server(SERVER, found, [Destination(*B, weight=3)])
    assert not observed.draining
    observed.correct_server(SERVER, None, [])

    assert (observed.servers, observed.destinations, observed.draining) == ({}, {}, {})
