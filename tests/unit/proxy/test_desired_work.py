"""One event costs as much at 10,000 services as at 100: from the cache to the desired state nobody walks over all."""

from collections.abc import Callable

import pytest

from proxy.cache import Cache
from proxy.desired import DesiredState
from proxy.sources.events import Delete, Event, Upsert
from tests.model_builders import (
    make_endpoint,
    make_node,
    make_service,
    make_service_port,
    make_slice,
)
from tests.work_counter import Visits, Work, count_work, watch
from tests.worlds import World


def service(number: int, *, external_ips: tuple[str, ...] = ()) -> Event:
    cluster_ip = f"10.96.{number // 256}.{number % 256}"
    port = make_service_port(cluster_ip=cluster_ip, external_ips=external_ips)
    return Upsert(make_service(f"default/web-{number}", port))


def endpoints(number: int, *, ready: int, of: int | None = None) -> Event:
    """Return the slice of a service, with some of its two endpoints ready; `of` names another service."""
    both = (make_endpoint(f"10.1.0.{n}:80", ready=n <= ready, zone_hints=["z1"]) for n in (1, 2))
    owner = number if of is None else of
    return Upsert(make_slice(f"web-{number}-a", *both, service=f"web-{owner}"))


def world_of(services: int) -> World:
    world = World(Cache(make_node()))
    for number in range(services):
        world.cache.apply([service(number), endpoints(number, ready=1)], 0.0)
    for name in world.cache.take_changes():
        world.describe(name)
    return world


def work(world: World, *events: Event) -> Work:
    """Return what it costs to take events in and to describe what they changed."""

    def react() -> None:
        world.cache.apply(events, 1.0)
        changed = {key for name in world.cache.take_changes() for key in world.describe(name)}
        assert changed

    visits = Visits()
    watch(world.cache, visits)
    watch(world.desired, visits)
    return count_work(react, visits)


EVENTS = {
    "one more endpoint": endpoints(10, ready=2),
    "the last endpoint goes": endpoints(20, ready=0),
    "a slice changes its service": endpoints(30, ready=1, of=31),
    "a slice goes": Delete("EndpointSlice", "default", "web-40-a"),
    "an address is claimed": service(50, external_ips=("203.0.113.1",)),
    "an address is contested": service(60, external_ips=("10.96.0.61",)),
    "a service goes": Delete("Service", "default", "web-70"),
}


def test_an_event_costs_the_same_at_any_number_of_services() -> None:
    first, few, many = world_of(100), world_of(100), world_of(10_000)
    for event in EVENTS.values():
        work(first, event)  # what is decided about a combination of flags is remembered

    works = {name: (work(few, event), work(many, event)) for name, event in EVENTS.items()}

    grown = {name: pair for name, pair in works.items() if not pair[0].is_as_much_as(pair[1])}
    assert grown == {}


Careless = Callable[[DesiredState], object]


@pytest.mark.parametrize(
    "careless",
    [
        pytest.param(lambda desired: [key for key in desired.ports if not key], id="a loop"),
        pytest.param(lambda desired: sorted(desired._claims.values()), id="sorting"),
        pytest.param(lambda desired: dict(desired.ports), id="a copy"),
    ],
)
def test_a_walk_over_all_services_would_be_noticed(
    careless: Careless, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = DesiredState._put

    def put(self: DesiredState, *args: object) -> None:
        careless(self)
        update(self, *args)  # type: ignore[arg-type]  # handed through as they came

    monkeypatch.setattr(DesiredState, "_put", put)
    event = endpoints(50, ready=2)

    assert work(world_of(200), event).visits > work(world_of(100), event).visits
