"""A round costs as much at 10,000 services as at 100, from the event to the operations handed to the backend."""

import pytest

from backends.null.backend import NullBackend
from proxy.cache import Cache
from proxy.desired import DesiredState
from proxy.reconciler import Reconciler
from proxy.schedule import Schedule
from proxy.sources.events import Event, Upsert
from tests.fakes.clock import JumpingClock
from tests.model_builders import (
    make_endpoint,
    make_key,
    make_node,
    make_service,
    make_service_port,
    make_slice,
)
from tests.work_counter import Visits, Work, count_work, watch


def work_of_a_round(services: int, event: Event, monkeypatch: pytest.MonkeyPatch) -> Work:
    """Return what it costs to bring one event to the kernel."""
    monkeypatch.setattr("proxy.reconciler.time", JumpingClock())
    monkeypatch.setattr("proxy.reconciler.PRUNED_AT_ONCE", 10_000)  # no event loop, no threads
    cache, desired, backend = Cache(make_node()), DesiredState(), NullBackend()
    whole = Reconciler(cache, desired, backend, Schedule(now_s=0.0))
    for number in range(services):
        port = make_service_port(cluster_ip=f"10.96.{number // 256}.{number % 256}")
        cache.apply([Upsert(make_service(f"default/web-{number}", port))], 0.0)
    finish(whole)
    cache.apply([event], 1.0)
    visits = Visits()
    for owner in (cache, cache.changes, desired, whole, whole.backlog, whole.observed):
        watch(owner, visits)
    work = count_work(lambda: finish(whole), visits)
    assert whole.observed.ports[make_key("default/web-50")].internal
    return work


def finish(whole: Reconciler) -> None:
    """Run a round without an event loop, whose own work would be counted."""
    turns = whole._round()
    try:
        while True:
            turns.send(None)
    except StopIteration:
        return


def test_a_change_costs_the_same_at_any_number_of_services(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    event = Upsert(make_slice("s-1", make_endpoint(), service="web-50"))

    few = work_of_a_round(100, event, monkeypatch)
    many = work_of_a_round(10_000, event, monkeypatch)

    assert few.visits > 0
    assert few.is_as_much_as(many), (few, many)
