"""The rows of all services: counted, remembered, and made anew where something changed."""

import operator
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.backlog import Quarantined
from proxy.model import Endpoint, PortKey
from proxy.server.overview import Overview, Row, count, in_order
from proxy.server.states import Counts, worst
from proxy.sources.events import Delete, Upsert
from tests.model_builders import (
    make_endpoint,
    make_key,
    make_node,
    make_service,
    make_service_port,
    make_slice,
)
from tests.model_strategies import History, histories
from tests.worlds import World, world_after


class Watched:
    """A world and its overview; every look counts as a new version, unless it is said that nothing changed."""

    def __init__(self) -> None:
        self.world = World()
        self.quarantine: dict[PortKey, Quarantined] = {}
        self.version = 0
        self.overview = Overview(
            self.world.cache, self.world.desired.ports, self.quarantine, lambda: self.version
        )

    def hear(self, *news: Any) -> None:
        events = [one if isinstance(one, Delete) else Upsert(one) for one in news]
        self.world.cache.apply(events, 0.0)
        for name in self.world.cache.take_changes():
            self.world.describe(name)

    def look(self) -> list[Row]:
        self.version += 1
        for _ in self.overview.refresh():
            pass
        return self.overview.rows


def names(rows: Iterable[Row]) -> list[str]:
    return [str(row.name) for row in rows]


def test_rows_are_sorted_whatever_the_order_in_which_services_came() -> None:
    watched = Watched()
    watched.hear(make_service("b/b"), make_service("a/z"))
    assert names(watched.look()) == ["a/z", "b/b"]

    watched.hear(make_service("b/a"), make_service("a/a"), Delete("Service", "b", "b"))

    assert names(watched.look()) == ["a/a", "a/z", "b/a"]


def test_a_row_stays_the_same_object_until_something_about_it_changes() -> None:
    watched = Watched()
    watched.hear(
        make_service(),
        make_service("default/api", make_service_port(cluster_ip="10.96.0.7")),
        make_slice("web-a", make_endpoint()),
    )
    api, web = watched.look()
    watched.hear(make_slice("web-a", make_endpoint(), make_endpoint("10.1.0.2:80", ready=False)))

    same, other = watched.look()

    assert same is api
    assert (web.state, other.state) == ("ok", "some-not-ready")
    assert other.counts == Counts(2, 1, 1)


def test_what_the_kernel_refuses_changes_the_row_and_its_end_changes_it_back() -> None:
    watched = Watched()
    watched.hear(make_service(), make_slice("web-a", make_endpoint()))
    watched.quarantine[make_key()] = Quarantined(reason="full", failures=1, retry_s=0.0)
    (refused,) = watched.look()
    assert watched.overview.findings(refused)[0].text == "set aside: full"
    watched.quarantine.clear()

    (row,) = watched.look()

    assert (refused.state, row.state) == ("refused-by-kernel", "ok")


def test_states_are_counted() -> None:
    watched = Watched()
    watched.hear(make_service("a/a", skipped="headless"), make_service("b/b"), make_service("b/c"))
    watched.look()

    counted = {state: n for state, n in watched.overview.states.items() if n}
    # b/c asks for the address of b/b, which comes first by name
    assert counted == {"skipped": 1, "refusing": 1, "partly-owned": 1}


def test_nothing_is_looked_at_while_nothing_can_have_changed() -> None:
    watched = Watched()
    watched.hear(make_service())
    watched.look()

    assert list(watched.overview.refresh()) == []


def test_what_was_forgotten_is_looked_at_anew() -> None:
    watched = Watched()
    watched.hear(make_service())
    (before,) = watched.look()
    watched.overview.forget()
    assert watched.overview.rows == []
    watched.version -= 1  # nothing has changed

    (row,) = watched.look()

    assert row == before
    assert row is not before


def test_a_look_takes_a_step_for_each_service() -> None:
    watched = Watched()
    watched.hear(*[make_service(f"default/s{n}") for n in range(50)])
    watched.look()
    watched.version += 1

    assert len(list(watched.overview.refresh())) >= 50


def test_services_that_come_and_go_between_two_steps_do_no_harm() -> None:
    watched = Watched()
    watched.hear(*[make_service(f"default/s{n}") for n in range(5)])
    watched.look()
    watched.version += 1
    steps = watched.overview.refresh()
    next(steps)
    watched.hear(Delete("Service", "default", "s4"), make_service("default/new"))
    for _ in steps:
        pass

    assert "default/s4" not in names(watched.overview.rows)
    assert "default/new" in names(watched.look())


def test_a_pod_with_several_ports_is_one_endpoint() -> None:
    slices = [
        make_slice("a", make_endpoint("10.1.0.1:80"), make_endpoint("10.1.0.1:81")),
        make_slice(
            "b",
            make_endpoint("10.1.0.1:80", ready=False),
            make_endpoint("10.1.0.2:80", ready=False),
        ),
    ]

    assert count(slices, [None]) == Counts(2, 1, 0)


@given(histories())
def test_counts_are_those_of_a_count_one_by_one(history: History) -> None:
    world = world_after(history)
    for name, service in world.cache.services.items():
        slices = world.cache.slices(name)
        ports = [world.desired.ports.get(port.key) for port in service.ports]
        stated = [e for each in slices for _, endpoints in each.ports for e in endpoints]
        used = [e for port in ports if port is not None for e in port.reachable]

        assert count(slices, ports) == Counts(
            len({e.ip for e in stated}),
            len({e.ip for e in stated if e.ready}),
            len({e.ip for e in used}),
        )


@pytest.mark.parametrize(
    "endpoints",
    [
        [make_endpoint()],
        [make_endpoint(), make_endpoint()],
        [make_endpoint(), make_endpoint("10.1.0.2:80")],
        [make_endpoint(), make_endpoint("10.1.0.2:80", ready=False)],
        [make_endpoint(ready=False, terminating=True)],
        [make_endpoint(ready=False)],
        [make_endpoint(zone_hints=["z1"]), make_endpoint("10.1.0.2:80", zone_hints=["z2"])],
        [],
    ],
)
def test_a_usual_service_is_counted_like_any_other(endpoints: list[Endpoint]) -> None:
    watched = Watched()
    watched.hear(make_node(), make_service(), make_slice("web-a", *endpoints))
    (row,) = watched.look()

    distinct = {e.ip for e in endpoints}
    ready = {e.ip for e in endpoints if e.ready}
    assert row.counts[:2] == (len(distinct), len(ready))
    (port,) = row.ports
    assert port is not None
    assert row.counts.used == len({e.ip for e in port.reachable})


@given(histories())
def test_a_row_has_the_state_of_its_worst_finding(history: History) -> None:
    watched = Watched()
    world = world_after(history)
    watched.overview._cache, watched.overview._ports = world.cache, world.desired.ports

    for row in watched.look():
        assert row.state == worst(watched.overview.findings(row))


def test_an_address_is_known_as_frontend_or_endpoint() -> None:
    watched = Watched()
    port = make_service_port(cluster_ip="10.96.0.9", external_ips=("192.0.2.9",))
    watched.hear(
        make_service("default/web", port), make_slice("web-a", make_endpoint("10.1.0.1:80"))
    )
    (row,) = watched.look()

    assert all(map(row.has_address, ("10.96.0.9", "192.0.2.9", "10.1.0.1")))
    assert not row.has_address("10.1.0.10")


@given(st.lists(st.integers(0, 50), max_size=2500))
def test_items_come_in_order_with_time_to_breathe(numbers: list[int]) -> None:
    items = list(enumerate(numbers))

    steps = in_order(items, operator.itemgetter(1))
    found = list(steps)

    assert [item for item in found if item is not None] == sorted(
        items, key=operator.itemgetter(1)
    )
    assert found.count(None) == -(-len(items) // 1000)
