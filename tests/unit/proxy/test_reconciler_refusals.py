"""The reconciler when the kernel refuses single service ports: set aside, shown, tried again, and no harm to others."""

import asyncio

import pytest

from proxy.model import Service
from proxy.sources.events import Delete
from tests.daemon import Daemon, make_daemon
from tests.fakes.backend import unreachable
from tests.model_builders import (
    make_endpoint,
    make_key,
    make_service,
    make_service_port,
    make_slice,
)

A, B = "10.1.0.1:80", "10.1.0.2:80"
WEB, API, DB = make_key("default/web"), make_key("default/api"), make_key("default/db")


def service(name: str, number: int) -> Service:
    return make_service(name, make_service_port(cluster_ip=f"10.96.0.{number}"))


THREE = (service("default/web", 1), service("default/api", 2), service("default/db", 3))


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Daemon:
    return make_daemon(monkeypatch)


@pytest.mark.parametrize("has_blame", [True, False], ids=["named", "whole batch refused"])
def test_a_refused_service_port_costs_only_itself(daemon: Daemon, *, has_blame: bool) -> None:
    daemon.backend.refused[API] = "no such thing"
    daemon.backend.has_blame = has_blame

    async def life() -> None:
        daemon.tell_all(*THREE)
        await daemon.pass_s()

        assert set(daemon.backend.kernel) == {WEB, DB}
        assert set(daemon.reconciler.quarantine) == {API}
        assert daemon.reconciler.is_synced.is_set()
        assert daemon.reconciler.schedule.failures == 0
        quarantined = daemon.reconciler.quarantine[API]
        assert quarantined.reason == ("no such thing" if has_blame else "refused")
        assert quarantined.failures == 1
        errors = {entry.key: entry.error for entry in daemon.reconciler.journal}
        assert errors == {WEB: "", DB: "", API: quarantined.reason}

    daemon.live(life)


def test_several_refused_service_ports_cost_only_themselves(daemon: Daemon) -> None:
    names = [f"default/{letter}" for letter in "abcdefghij"]
    bad = {make_key(name) for name in names[::3]}
    daemon.backend.refused.update(dict.fromkeys(bad, "no"))
    daemon.backend.has_blame = False

    async def life() -> None:
        daemon.tell_all(*(service(name, number) for number, name in enumerate(names)))
        await daemon.pass_s()

        assert set(daemon.backend.kernel) == {make_key(name) for name in names} - bad
        assert set(daemon.reconciler.quarantine) == bad

    daemon.live(life)


def test_one_culprit_among_many_is_found_by_halving(daemon: Daemon) -> None:
    daemon.backend.refused[make_key("default/37")] = "no"
    daemon.backend.has_blame = False

    async def life() -> None:
        daemon.tell_all(*(service(f"default/{number}", number) for number in range(64)))
        await daemon.pass_s()

        assert len(daemon.backend.kernel) == 63
        assert len(daemon.backend.applied) <= 2 * 6 + 2  # two halves, six times, and once more

    daemon.live(life)


def test_many_culprits_of_whom_few_are_named_are_found_by_halving_the_rest(daemon: Daemon) -> None:
    bad = {make_key(f"default/{number}") for number in range(256) if number % 4}
    daemon.backend.refused.update(dict.fromkeys(bad, "full"))
    daemon.backend.most_blamed = 1

    async def life() -> None:
        daemon.tell_all(*(service(f"default/{number}", number) for number in range(256)))
        await daemon.pass_s()

        assert set(daemon.reconciler.quarantine) == bad
        assert len(daemon.backend.kernel) == 256 - len(bad)
        assert sum(map(len, daemon.backend.applied)) <= 256 * (
            8 + 2
        )  # all in eight sizes, and alone

    daemon.live(life)


def test_others_may_run_while_many_culprits_are_found(daemon: Daemon) -> None:
    daemon.backend.refused.update({make_key(f"default/{number}"): "full" for number in range(64)})
    daemon.backend.most_blamed = 1
    seen: set[int] = set()

    async def others() -> None:
        while True:
            seen.add(len(daemon.reconciler.quarantine))
            await asyncio.sleep(0)

    async def life() -> None:
        task = asyncio.create_task(others())
        daemon.tell_all(*(service(f"default/{number}", number) for number in range(64)))
        await daemon.pass_s()
        task.cancel()

        assert seen == set(range(65))

    daemon.live(life)


def test_what_is_refused_is_tried_once_more_before_it_is_set_aside(daemon: Daemon) -> None:
    daemon.backend.refused[WEB] = "no"

    async def life() -> None:
        daemon.tell_all(make_service())
        await daemon.pass_s()

        assert daemon.backend.applied == [[WEB], [WEB]]
        assert daemon.reconciler.quarantine[WEB].failures == 1

    daemon.live(life)


def test_what_was_refused_is_tried_again_later_and_later(daemon: Daemon) -> None:
    daemon.backend.refused[API] = "no"

    async def life() -> None:
        daemon.tell_all(*THREE)
        await daemon.pass_s()
        daemon.backend.applied.clear()
        counts = []
        for _ in range(16):
            await daemon.pass_s(1.0)
            counts.append(daemon.reconciler.quarantine[API].failures)

        assert counts == [2, 2, *[3] * 4, *[4] * 8, 5, 5]
        assert {key for batch in daemon.backend.applied for key in batch} == {API}

    daemon.live(life)


def test_what_was_refused_is_released_once_the_kernel_takes_it(daemon: Daemon) -> None:
    daemon.backend.refused[API] = "no"

    async def life() -> None:
        daemon.tell_all(*THREE)
        await daemon.pass_s()
        daemon.backend.refused.clear()
        await daemon.pass_s(1.1)

        assert set(daemon.backend.kernel) == {WEB, API, DB}
        assert daemon.reconciler.quarantine == {}
        last = list(daemon.reconciler.journal)[-1]
        assert (last.key, last.cause.kind, last.error) == (API, "retry", "")

    daemon.live(life)


def test_a_change_of_what_was_refused_is_tried_at_once(daemon: Daemon) -> None:
    daemon.backend.refused[API] = "no"

    async def life() -> None:
        daemon.tell_all(*THREE)
        await daemon.pass_s()
        daemon.backend.refused.clear()
        daemon.tell(make_slice("s-1", make_endpoint(A), service="api"))
        await daemon.pass_s()

        assert [e.address for e in daemon.backend.kernel[API].internal] == [A]
        assert daemon.reconciler.quarantine == {}

    daemon.live(life)


def test_other_changes_do_not_hurry_what_was_refused(daemon: Daemon) -> None:
    daemon.backend.refused[API] = "no"

    async def life() -> None:
        daemon.tell_all(*THREE)
        await daemon.pass_s()
        daemon.backend.applied.clear()
        daemon.tell(make_slice("s-1", make_endpoint(A)))
        await daemon.pass_s()

        assert daemon.backend.applied == [[WEB]]

    daemon.live(life)


def test_what_the_kernel_has_taken_by_the_way_is_released_at_once(daemon: Daemon) -> None:
    daemon.backend.refused.update(dict.fromkeys([API, DB], "no"))

    async def life() -> None:
        daemon.tell_all(*THREE)
        await daemon.pass_s()
        del daemon.backend.refused[API]
        daemon.backend.regained = (API, WEB)
        daemon.backend.applied.clear()
        daemon.tell(make_slice("s-1", make_endpoint(A)))
        await daemon.pass_s()

        assert daemon.backend.applied == [[WEB], [API]]
        assert set(daemon.reconciler.quarantine) == {DB}

    daemon.live(life)


def test_what_was_refused_is_forgotten_when_it_goes(daemon: Daemon) -> None:
    daemon.backend.refused[API] = "no"

    async def life() -> None:
        daemon.tell_all(*THREE)
        await daemon.pass_s()
        daemon.tell(Delete("Service", "default", "api"))
        await daemon.pass_s()

        assert daemon.reconciler.quarantine == {}

    daemon.live(life)


def test_a_due_retry_does_not_override_the_backoff_of_failed_rounds(daemon: Daemon) -> None:
    daemon.backend.refused[API] = "no"

    async def life() -> None:
        daemon.tell_all(*THREE)
        await daemon.pass_s()
        daemon.backend.failure = unreachable()
        await daemon.pass_s(10.0)

        assert daemon.reconciler.schedule.failures <= 8

    daemon.live(life)


def test_a_due_retry_does_not_override_the_minimum_interval(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    daemon = make_daemon(monkeypatch, min_interval_s=10.0)
    daemon.backend.refused[API] = "no"

    async def life() -> None:
        daemon.tell_all(*THREE)
        await daemon.pass_s(0.9)
        daemon.tell(make_slice("s-1", make_endpoint(A)))
        await daemon.pass_s(1.0)

        assert daemon.backend.kernel[WEB].internal == ()

    daemon.live(life)


def test_a_retry_alone_keeps_the_minimum_interval_too(monkeypatch: pytest.MonkeyPatch) -> None:
    daemon = make_daemon(monkeypatch, min_interval_s=10.0)
    daemon.backend.refused[API] = "no"

    async def life() -> None:
        daemon.tell_all(*THREE)
        await daemon.pass_s(9.9)
        assert daemon.reconciler.quarantine[API].failures == 1
        await daemon.pass_s(0.2)
        assert daemon.reconciler.quarantine[API].failures == 2

    daemon.live(life)
