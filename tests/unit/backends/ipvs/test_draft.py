"""What is collected before it is compared with belief."""

import pytest

from backends.ipvs.belief import Observed
from backends.ipvs.draft import Draft
from backends.ipvs.model import (
    ALLOWED,
    BOUND,
    EXTERNALS,
    GUARDED,
    HAIRPIN,
    PLACES,
    SERVICES,
    Frontend,
    Operation,
    Place,
    Rendered,
    SharedMember,
    WantedServer,
)
from backends.ipvs.planned import IpvsPlan
from backends.kernel.ipvs_objects import Destination, ServerId, VirtualServer
from backends.kernel.nft_values import ABSENT
from proxy.model import PortKey, Protocol
from tests.model_builders import make_key
from tests.unit.backends.ipvs.planning import API, LAYOUT, WEB, make_belief

SERVER = ServerId("IPv4", "TCP", "10.96.0.10", 80)
A: Place = ("10.1.0.1", 80)
B: Place = ("10.1.0.2", 80)
KEY = bytes([10, 96, 0, 10, 6, 0, 0, 0, 0, 80, 0, 0])
FRONTEND = Frontend("address", KEY, SERVER, frozenset([b"range"]))
ADDRESS: SharedMember = (BOUND, KEY[:4])
NOTHING: frozenset[SharedMember] = frozenset()


def held_by(key: PortKey, **rendered: object) -> Observed:
    """A belief in which a ServicePort occupies this."""
    observed = make_belief()
    observed.occupy(IpvsPlan((), {key: Rendered(**rendered)}))  # type: ignore[arg-type] # its own fields
    return observed


def believing(*places: Place, weight: int = 1, scheduler: str = "rr") -> Observed:
    """A belief in SERVER with these destinations."""
    observed = make_belief()
    observed.servers[SERVER] = VirtualServer(SERVER, scheduler)
    observed.destinations[SERVER] = {place: Destination(*place, weight) for place in places}
    return observed


def wanted(*places: Place) -> WantedServer:
    return WantedServer(
        VirtualServer(SERVER, "rr"), {place: Destination(*place) for place in places}
    )


def compared(
    observed: Observed,
    asked: WantedServer | None,
    *,
    owner: PortKey | None = WEB,
    is_graceful: bool = True,
) -> Draft:
    draft = Draft(observed, LAYOUT)
    draft.put_server(owner, SERVER, asked, is_graceful=is_graceful)
    draft.compare_servers()
    return draft


def words(operations: list[Operation]) -> list[str]:
    """What each operation does, in short: to the destination with which number, and its weight."""
    return [
        f"{each.verb} {each.spec.address[-1]} {each.spec.weight}"
        if isinstance(each.spec, Destination)
        else each.verb
        for each in operations
    ]


# --- frontends


def test_whatever_stands_in_the_place_of_a_frontend_goes() -> None:
    draft = Draft(make_belief(), LAYOUT)

    draft.put(WEB, FRONTEND, {EXTERNALS: b"mark", GUARDED: None})

    assert {name: draft.values("IPv4", name)[KEY] for name in PLACES["address"].all} == {
        **dict.fromkeys(PLACES["address"].all, (ABSENT, WEB)),
        EXTERNALS: (b"mark", WEB),
        GUARDED: (None, WEB),
    }
    assert draft.values("IPv4", ALLOWED) == {b"range": (None, WEB)}


def test_the_ranges_of_who_had_a_frontend_before_do_not_stay() -> None:
    before = FRONTEND._replace(allowed=frozenset([b"old", b"range"]))
    draft = Draft(held_by(API, frontends=(before,)), LAYOUT)

    draft.put(WEB, FRONTEND, {EXTERNALS: b"mark"})

    assert draft.values("IPv4", ALLOWED) == {b"old": (ABSENT, WEB), b"range": (None, WEB)}


def test_what_is_withdrawn_goes_with_its_ranges() -> None:
    draft = Draft(held_by(WEB, frontends=(FRONTEND,)), LAYOUT)

    draft.withdraw(WEB, [FRONTEND], [], is_gone=False)

    assert {name for _, name in draft.sets} == {*PLACES["address"].all, ALLOWED}
    assert all(value == (ABSENT, WEB) for each in draft.sets.values() for value in each.values())


def test_a_frontend_that_is_kept_loses_but_its_ranges() -> None:
    draft = Draft(held_by(WEB, frontends=(FRONTEND,)), LAYOUT)

    draft.withdraw(WEB, [FRONTEND], [KEY], is_gone=False)

    assert draft.sets == {("IPv4", ALLOWED): {b"range": (ABSENT, WEB)}}


def test_a_frontend_that_another_has_by_now_is_not_withdrawn() -> None:
    draft = Draft(held_by(API, frontends=(FRONTEND,)), LAYOUT)

    draft.withdraw(WEB, [FRONTEND], [], is_gone=True)

    assert draft.sets == {}


@pytest.mark.parametrize(
    ("is_gone", "end"), [(False, "set destination 1 0"), (True, "del server")]
)
def test_connections_end_with_their_service_but_not_with_one_of_its_frontends(
    is_gone: bool, end: str
) -> None:
    observed = believing(A)
    observed.occupy(IpvsPlan((), {WEB: Rendered(frontends=(FRONTEND,))}))
    draft = Draft(observed, LAYOUT)

    draft.withdraw(WEB, [FRONTEND], [], is_gone=is_gone)
    draft.compare_servers()

    assert words(draft.end) == [end]


def test_a_frontend_that_is_refused_by_now_has_no_virtual_server() -> None:
    observed = believing(A)
    draft = Draft(observed, LAYOUT)

    draft.put(WEB, FRONTEND, {"refused": None})
    draft.compare_servers()

    assert words(draft.end) == ["set destination 1 0"]
    assert draft.end[0].owner == WEB


# --- what is shared


def test_a_shared_address_goes_with_the_last_who_needs_it() -> None:
    address = frozenset([ADDRESS])
    observed = held_by(WEB, shared=address)
    observed.occupy(IpvsPlan((), {API: Rendered(shared=address)}))
    draft = Draft(observed, LAYOUT)

    draft.share(WEB, address, NOTHING)
    assert draft.addresses == {"10.96.0.10": (True, WEB)}
    draft.share(API, address, NOTHING)

    assert draft.addresses == {"10.96.0.10": (False, API)}
    assert draft.values("IPv4", BOUND) == {KEY[:4]: (ABSENT, API)}


def test_who_leaves_and_who_comes_in_one_plan_leave_a_member_where_it_is() -> None:
    address = frozenset([ADDRESS])
    draft = Draft(held_by(WEB, shared=address), LAYOUT)

    draft.share(WEB, address, NOTHING)
    draft.share(API, NOTHING, address)

    assert draft.values("IPv4", BOUND) == {KEY[:4]: (None, API)}
    assert draft.addresses == {"10.96.0.10": (True, API)}


def test_what_is_shared_as_before_is_asked_for_too_and_only_addresses_are_bound() -> None:
    members = frozenset([(HAIRPIN, b"pod")])
    draft = Draft(held_by(WEB, shared=members), LAYOUT)

    draft.share(WEB, members, members)

    assert draft.values("IPv4", HAIRPIN) == {b"pod": (None, WEB)}
    assert draft.addresses == {}


# --- numbers in marks


def test_a_number_is_free_unless_it_stands_for_another_before_or_in_this_plan() -> None:
    draft = Draft(held_by(WEB, number=5), LAYOUT)
    draft.take_number(WEB, 6)

    assert [draft.is_number_free(API, number) for number in (5, 6, 7)] == [False, False, True]
    assert [draft.is_number_free(WEB, number) for number in (5, 6, 7)] == [True, True, True]


def test_a_number_under_which_a_virtual_server_is_left_is_not_free() -> None:
    observed = make_belief()
    left = LAYOUT.marks.servers("IPv4", 5)[2]
    observed.servers[left] = VirtualServer(left, "rr")
    draft = Draft(observed, LAYOUT)

    assert not draft.is_number_free(WEB, 5)
    assert not draft.is_number_taken(("IPv4", 5), WEB)
    assert draft.is_number_free(WEB, 6)


# --- virtual servers


def test_a_new_virtual_server_is_made_with_its_destinations_in_order() -> None:
    draft = compared(make_belief(), wanted(B, A))

    assert words(draft.make) == ["add server", "add destination 2 1", "add destination 1 1"]
    assert (draft.end, draft.drains) == ([], [])


def test_what_is_as_wanted_costs_nothing() -> None:
    draft = compared(believing(A, B), wanted(B, A))

    assert (draft.make, draft.end, draft.drains) == ([], [], [])


def test_only_what_differs_is_written() -> None:
    assert words(compared(believing(A), wanted(A, B)).make) == ["add destination 2 1"]
    assert words(compared(believing(A, scheduler="sh"), wanted(A)).make) == ["set server"]
    assert words(compared(believing(A, weight=0), wanted(A)).make) == ["set destination 1 1"]


def test_a_destination_that_is_not_wanted_drains() -> None:
    draft = compared(believing(A, B), wanted(B))

    assert words(draft.end) == ["set destination 1 0"]
    assert [each.is_draining for each in draft.end] == [True]


def test_what_has_weight_0_already_is_only_looked_after_and_once() -> None:
    observed = believing(A, weight=0)

    draft = compared(observed, None)
    assert (draft.end, draft.drains) == ([], [(SERVER, A)])
    observed.drain(SERVER, A, 900.0)

    draft = compared(observed, None)
    assert (draft.end, draft.drains) == ([], [])


@pytest.mark.parametrize("protocol", ["UDP", "SCTP"])
def test_what_nobody_sees_the_end_of_goes_at_once(protocol: Protocol) -> None:
    owner = make_key("default/web", protocol=protocol)

    assert words(compared(believing(A, B), wanted(B), owner=owner).end) == ["del destination 1 1"]
    assert words(compared(believing(A), None, owner=owner).end) == ["del server"]


def test_a_virtual_server_that_is_not_wanted_stays_for_what_drains() -> None:
    assert words(compared(believing(A, B), None).end) == [
        "set destination 1 0", "set destination 2 0",
    ]  # fmt: skip
    assert words(compared(believing(), None).end) == ["del server"]
    assert words(compared(believing(A), None, is_graceful=False).end) == ["del server"]
    assert words(compared(believing(A), None, owner=None).end) == ["del server"]
    assert words(compared(make_belief(), None).end) == []


def test_a_virtual_server_of_others_at_the_address_is_taken_over_as_it_is() -> None:
    observed = make_belief()
    there = {A: Destination(*A), B: Destination(*B)}
    observed.strangers["10.96.0.10"] = {SERVER: (VirtualServer(SERVER, "wlc"), there)}
    draft = Draft(observed, LAYOUT)
    draft.share(WEB, NOTHING, frozenset([ADDRESS]))
    draft.put_server(WEB, SERVER, wanted(A))

    draft.compare_servers()

    assert (words(draft.make), words(draft.end)) == (["set server"], ["set destination 2 0"])


def test_a_virtual_server_of_others_at_an_address_that_stays_theirs_is_none_of_our_business() -> (
    None
):
    observed = make_belief()
    observed.strangers["10.96.0.10"] = {
        SERVER: (VirtualServer(SERVER, "wlc"), {A: Destination(*A)})
    }

    draft = compared(observed, None)

    assert (draft.make, draft.end, draft.drains) == ([], [], [])


def test_at_an_address_that_leaves_our_device_nothing_drains_any_more() -> None:
    other = SERVER._replace(port=443)
    observed = believing(A)
    observed.occupy(IpvsPlan((), {WEB: Rendered(shared=frozenset([ADDRESS]))}))
    observed.servers[other] = VirtualServer(other, "rr")
    observed.destinations[other] = {B: Destination(*B, 0)}
    observed.drain(other, B, 900.0)
    draft = Draft(observed, LAYOUT)
    draft.share(WEB, frozenset([ADDRESS]), NOTHING)
    draft.put_server(WEB, SERVER, None)

    draft.compare_servers()

    assert [(each.verb, each.server) for each in draft.end] == [
        ("del server", SERVER),
        ("del server", other),
    ]


# --- the table


def test_of_a_table_that_has_to_go_nothing_is_believed() -> None:
    observed = make_belief(services={KEY: None})
    assert Draft(observed, LAYOUT).facts["IPv4"].elements[SERVICES] == {KEY: None}
    observed.tables["IPv4"].has_to_go = True

    draft = Draft(observed, LAYOUT)

    assert draft.rebuild == ("IPv4",)
    assert (draft.facts["IPv4"].is_present, draft.facts["IPv4"].elements) == (False, {})
