"""The laws of proxy/backend.py as tests. A backend keeps them on its fake (test_laws.py) and on the kernel (e2e).

`Laws` are for every backend, `KernelLaws` for those whose data plane outlives the process. Both are inherited by classes
that have a fixture `ground`.
"""

import asyncio
import errno
import functools
import itertools
import random
from collections.abc import Callable, Collection, Coroutine, Iterable
from typing import Any, Final, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.backend import Applied
from proxy.errors import KernelError
from proxy.model import PortKey
from tests.contract.daemon import Daemon, make_services
from tests.contract.host import AnyBackend, Cost, Ground, Host, KernelHost
from tests.data_plane import wanted
from tests.desired_strategies import (
    Desired,
    addresses,
    desired_state,
    make_desired,
    many_services,
    random_state,
    random_states,
    seeds,
)
from tests.model_builders import make_key
from tests.work_counter import Visits, Work, count_work, watch

T = TypeVar("T")

EXAMPLES: Final = 25
random_worlds = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
)


async def program(
    backend: AnyBackend, observed: Any, desired: Desired, keys: Collection[PortKey]
) -> Applied:
    """Plan some keys and apply the plan."""
    applied = await backend.apply(backend.plan(desired, observed, keys), observed)
    assert applied.failed == {}
    return applied


async def adopt(host: Host, backend: AnyBackend, desired: Desired, *, parts: int = 1) -> Any:
    """Do what a process does that starts: observe, plan all keys in as many parts, prune."""
    observed = await backend.observe()
    keys = sorted(desired)
    size = len(keys) if observed.is_rebuild_due else -(-len(keys) // parts)
    for at in range(0, len(keys), max(size, 1)):
        await program(backend, observed, desired, keys[at : at + size])
    applied = await backend.apply(backend.prune(desired, observed), observed)
    assert applied.failed == {}
    return observed


async def check(host: Host, backend: AnyBackend, observed: Any, desired: Desired) -> None:
    """L1: belief is what is there, nothing is left to do, and the data plane does what is desired."""
    assert host.state(await host.read_back(backend, observed)) == host.state(observed)
    plan = backend.plan(desired, observed, sorted(desired))
    assert not plan, plan.describe()
    assert not backend.prune(desired, observed)
    assert host.behaviour(observed) == wanted(desired)


def changed(before: Desired, after: Desired) -> list[PortKey]:
    return sorted([k for k in before.keys() | after.keys() if before.get(k) != after.get(k)])


class Laws:
    """What every backend keeps."""

    @random_worlds
    @given(seeds)
    def test_l1_each_change_leads_to_what_is_desired_and_leaves_nothing_to_do(
        self, ground: Ground, seed: int
    ) -> None:
        async def run(host: Host) -> None:
            backend, states = host.start(), random_states(seed, 5)
            observed = await adopt(host, backend, {})
            before: Desired = {}
            for desired in states:
                await program(backend, observed, desired, changed(before, desired))
                await check(host, backend, observed, desired)
                before = desired

        _on(ground, run)

    @random_worlds
    @given(seeds)
    def test_l1_the_order_in_which_service_ports_are_planned_makes_no_difference(
        self, ground: Ground, seed: int
    ) -> None:
        async def run(host: Host) -> None:
            backend, rng, states = host.start(), random.Random(seed), random_states(seed, 4)
            observed = await adopt(host, backend, {})
            before: Desired = {}
            for desired in states:
                keys = changed(before, desired)
                rng.shuffle(keys)
                for key in keys:
                    await program(backend, observed, desired, [key])
                await check(host, backend, observed, desired)
                before = desired

        _on(ground, run)

    def test_l1_without_services_there_is_nothing_to_do_either(self, ground: Ground) -> None:
        async def run(host: Host) -> None:
            backend = host.start()
            observed = await adopt(host, backend, {})
            await check(host, backend, observed, {})

        _on(ground, run)

    def test_a_plan_says_for_each_operation_whom_it_is_for(self, ground: Ground) -> None:
        async def run(host: Host) -> None:
            backend = host.start()
            observed = await adopt(host, backend, {})
            desired = desired_state(make_desired("default/web", "10.1.0.1:80"))

            (line, *_) = [
                line
                for line in backend.plan(desired, observed, list(desired)).describe()
                if "default/web (TCP, IPv4)" in line
            ]
            assert line

        _on(ground, run)

    def test_l6_planning_one_change_looks_at_as_much_among_ten_thousand_services_as_among_a_hundred(
        self, ground: Ground
    ) -> None:
        few = _on(ground, _work_of_changes(100))
        many = _on(ground, _work_of_changes(10_000))

        assert few == many
        assert all(work.instructions for work in few.values())


class KernelLaws(Laws):
    """What every backend keeps whose data plane is in the kernel."""

    @random_worlds
    @given(seeds, st.integers(1, 4))
    def test_l1_a_start_on_what_is_desired_already_writes_nothing(
        self, ground: Ground, seed: int, parts: int
    ) -> None:
        async def run(host: KernelHost) -> None:
            (desired,) = random_states(seed, 1)
            await adopt(host, host.start(), desired)
            backend = host.start()
            observed = await adopt(host, backend, desired, parts=parts)

            assert host.spent(backend).written == 0
            await check(host, backend, observed, desired)

        _on(ground, run)

    @random_worlds
    @given(seeds, st.integers(1, 4))
    def test_l2_any_start_is_led_to_what_is_desired_by_one_round(
        self, ground: Ground, seed: int, parts: int
    ) -> None:
        async def run(host: KernelHost) -> None:
            before, desired = random_states(seed, 2)
            await adopt(host, host.start(), before)
            host.disturb(seed)
            backend = host.start()
            observed = await adopt(host, backend, desired, parts=parts)

            await check(host, backend, observed, desired)
            host.check_extras(observed, desired)

        _on(ground, run)

    def test_l2_every_single_disturbance_is_repaired(self, ground: Ground) -> None:
        async def run(host: KernelHost, kind: int, desired: Desired) -> None:
            await adopt(host, host.start(), random_state(random.Random(kind)))
            host.disturb(kind, kind=kind)
            backend = host.start()
            observed = await adopt(host, backend, desired)

            await check(host, backend, observed, desired)
            host.check_extras(observed, desired)

        kinds = _on(ground, _kinds_of_disturbances)
        for kind, desired in itertools.product(range(kinds), ({}, many_services(3))):
            _on(ground, functools.partial(run, kind=kind, desired=desired))

    @random_worlds
    @given(seeds)
    def test_what_somebody_changes_under_a_running_process_is_noticed_and_repaired(
        self, ground: Ground, seed: int
    ) -> None:
        async def run(host: KernelHost) -> None:
            (desired,) = random_states(seed, 1)
            backend = host.start()
            observed = await adopt(host, backend, desired)
            before = host.state(await host.read_back(backend, observed))
            assert not backend.has_foreign_change(observed)
            assert await backend.verify(observed) == []

            host.disturb(seed)
            there = host.state(await host.read_back(backend, observed))
            assert there == before or backend.has_foreign_change(observed)
            drifts = await backend.verify(observed)
            assert bool(drifts) == (there != before)
            assert not backend.has_foreign_change(observed)
            if any(drift.key is None for drift in drifts):
                observed = await adopt(host, backend, desired)
            else:
                await program(backend, observed, desired, [d.key for d in drifts if d.key])

            await check(host, backend, observed, desired)
            host.check_extras(observed, desired)

        _on(ground, run)

    def test_l3_what_others_made_is_left_alone(self, ground: Ground) -> None:
        async def run(host: KernelHost) -> None:
            host.plant_foreign()
            before = host.foreign()
            for seed in range(5):
                backend = host.start()
                await backend.probe()
                await adopt(host, backend, random_state(random.Random(seed)))
                host.disturb(seed)
                await adopt(host, backend, random_state(random.Random(seed + 1)))
                assert host.foreign() == before
                await backend.cleanup()
                assert host.foreign() == before

        _on(ground, run)

    def test_probing_leaves_nothing_behind(self, ground: Ground) -> None:
        async def run(host: KernelHost) -> None:
            before = host.foreign()
            backend = host.start()
            await backend.probe()

            assert not host.own()
            assert host.foreign() == before

        _on(ground, run)

    @pytest.mark.parametrize("is_done", [False, True], ids=["not done", "done"])
    @pytest.mark.parametrize("number", [errno.EBUSY, errno.ENOBUFS, errno.EINTR])
    def test_l4_after_a_write_whose_outcome_is_unknown_a_new_look_leads_on(
        self, ground: Ground, number: int, is_done: bool
    ) -> None:
        async def run(host: KernelHost) -> None:
            before, desired = (random_state(random.Random(seed)) for seed in (2, 3))
            backend = host.start()
            observed = await adopt(host, backend, before)
            believed = host.state(observed)

            error = KernelError("a write", number, "a fault of the test")
            with host.failing(backend, error, is_done=is_done), pytest.raises(KernelError):
                await program(backend, observed, desired, changed(before, desired))

            # belief is what was confirmed, no more
            assert host.state(observed) == believed
            is_believed = host.state(await host.read_back(backend, observed)) == believed
            assert is_believed == (not is_done)
            observed = await adopt(host, backend, desired)
            await check(host, backend, observed, desired)

        _on(ground, run)

    def test_l4_after_a_refusal_belief_about_what_was_refused_is_what_is_there(
        self, ground: Ground
    ) -> None:
        async def run(host: KernelHost) -> None:
            desired = many_services(3)
            backend = host.start()
            observed = await adopt(host, backend, {})
            victim = sorted(desired)[1]
            host.occupy(desired[victim])

            applied = await backend.apply(
                backend.plan(desired, observed, sorted(desired)), observed
            )

            assert list(applied.failed) == [victim]
            there = await host.read_back(backend, observed)
            assert host.state(there) == host.state(observed)

        _on(ground, run)

    def test_l6_a_change_costs_as_few_messages_among_ten_thousand_services_as_among_a_hundred(
        self, ground: Ground
    ) -> None:
        few = _on(ground, _costs_of_changes(100))
        many = _on(ground, _costs_of_changes(10_000))

        assert few == many
        assert all(0 < cost.calls <= 4 and 0 < cost.written <= 30 for cost in few.values()), few

    def test_l6_an_empty_plan_makes_no_system_call(self, ground: Ground) -> None:
        async def run(host: KernelHost) -> None:
            desired = many_services(5)
            backend = host.start()
            observed = await adopt(host, backend, desired)
            host.spent(backend)

            await program(backend, observed, desired, sorted(desired))
            await backend.apply(backend.prune(desired, observed), observed)

            assert host.spent(backend) == Cost()

        _on(ground, run)

    @random_worlds
    @given(seeds)
    def test_l7_cleanup_leaves_nothing_of_ours_whatever_became_of_it(
        self, ground: Ground, seed: int
    ) -> None:
        async def run(host: KernelHost) -> None:
            backend = host.start()
            await adopt(host, backend, *random_states(seed, 1))
            host.disturb(seed)
            was_there = bool(host.own())

            first, second = await backend.cleanup(), await backend.cleanup()

            assert not host.own()
            assert (first > 0, second) == (was_there, 0)

        _on(ground, run)

    def test_l7_a_process_that_ends_leaves_everything_in_place(self, ground: Ground) -> None:
        async def run(host: KernelHost) -> None:
            backend = host.start()
            desired = many_services(5)
            observed = await adopt(host, backend, desired)
            backend.close()

            next_one = host.start()
            assert host.state(await next_one.observe()) == host.state(observed)

        _on(ground, run)

    def test_l8_what_is_refused_costs_only_its_own_service_port(self, ground: Ground) -> None:
        async def run(host: KernelHost) -> None:
            desired = many_services(300)
            backend = host.start()
            observed = await adopt(host, backend, {})
            victims = [sorted(desired)[at] for at in (7, 8, 250)]
            for victim in victims:
                host.occupy(desired[victim])

            keys = sorted(desired)
            refused: set[PortKey] = set()
            while failed := (
                await backend.apply(backend.plan(desired, observed, keys), observed)
            ).failed:
                refused |= failed.keys()
                keys = [key for key in keys if key not in refused]
            there = await host.read_back(backend, observed)
            rest = wanted({key: desired[key] for key in keys})
            served = host.behaviour(there, leave_out=wanted(desired).keys() - rest.keys())

            assert refused == set(victims)
            assert served == rest
            # what was in the way is known by now
            await program(backend, observed, desired, victims)
            await check(host, backend, observed, desired)

        _on(ground, run)

    def test_l8_who_is_refused_again_and_again_is_set_aside_and_served_when_it_can_be(
        self, ground: Ground
    ) -> None:
        async def run(host: KernelHost) -> None:
            async with Daemon(host.start()) as daemon:
                await daemon.hear(make_services(0, 20))
                await daemon.until(lambda: len(daemon.served(host)) == 20)
                host.limit(5)
                await daemon.hear(make_services(20, 10))
                await daemon.until(lambda: len(daemon.served(host)) == 25 and daemon.set_aside)
                assert len(daemon.set_aside) == 5
                assert len(daemon.served(host)) == 25

                host.lift_limit()
                await daemon.until(lambda: not daemon.set_aside)
                assert daemon.served(host) == wanted(daemon.desired)

        _on(ground, run)


def _on(ground: Ground, run: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
    with ground.fresh() as host:
        return asyncio.run(run(host))


async def _kinds_of_disturbances(host: KernelHost) -> int:
    return host.kinds_of_disturbances


SERVICE: Final = make_key("default/s7")


def _changes(desired: Desired) -> dict[str, Desired]:
    """The changes a service can undergo, each on top of the one before, by name."""
    address = str(desired[SERVICE].frontends[0].address)

    def with_pool(first: int, count: int) -> Desired:
        pool = addresses(first, count)
        return {SERVICE: make_desired("default/s7", *pool, cluster_ip=address)}

    return {
        "replace one": with_pool(1, 2),
        "add across a power of two": with_pool(1, 3),
        "add": with_pool(1, 4),
        "remove": with_pool(1, 3),
        "replace all": with_pool(11, 3),
        "remove across a power of two": with_pool(11, 2),
        "to none": with_pool(0, 0),
        "from none": with_pool(1, 1),
        "new": desired_state(make_desired("default/new", "10.9.9.9:1", cluster_ip="10.111.0.1")),
        "gone": {},
    }


def _steps(desired: Desired) -> Iterable[tuple[str, Desired, PortKey]]:
    """Each change by name, with what is desired after it and the key it changes."""
    gone = make_key("default/new")
    for name, change in _changes(desired).items():
        after = {k: v for k, v in desired.items() if k != gone} | change
        yield name, after, gone if name in ("new", "gone") else SERVICE


def _work_of_changes(services: int) -> Callable[[Host], Coroutine[Any, Any, dict[str, Work]]]:
    async def run(host: Host) -> dict[str, Work]:
        backend, desired = host.start(), many_services(services)
        observed = await adopt(host, backend, desired)
        visits, works = Visits(), dict[str, Work]()
        host.watch(observed, visits)
        for name, after, key in _steps(desired):
            content = Content(after)
            watch(content, visits)
            backend.plan(after, observed, [key])  # what is made once and then the same for ever
            make_plan = functools.partial(backend.plan, content.ports, observed, [key])
            works[name] = count_work(make_plan, visits)
        return works

    return run


def _costs_of_changes(
    services: int,
) -> Callable[[KernelHost], Coroutine[Any, Any, dict[str, Cost]]]:
    async def run(host: KernelHost) -> dict[str, Cost]:
        backend, desired = host.start(), many_services(services)
        observed = await adopt(host, backend, desired)
        costs: dict[str, Cost] = {}
        for name, after, key in _steps(desired):
            host.spent(backend)
            await program(backend, observed, after, [key])
            costs[name] = host.spent(backend)
        return costs

    return run


class Content:
    """A state as the attribute of an object, to be watched."""

    def __init__(self, ports: Desired) -> None:
        self.ports = ports
