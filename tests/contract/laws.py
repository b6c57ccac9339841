"""The laws of proxy/backend.py as tests. A backend keeps them on its fake (test_laws.py) and on the kernel (e2e).

`Laws` are for every backend, `KernelLaws` for those whose data plane outlives the process. Both are inherited by classes
that have a fixture `ground`.
"""

import errno
import functools
import itertools
import random
import re
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.backend import Held
from proxy.desired import Frontend
from proxy.errors import KernelError
from proxy.model import PortKey
from tests.contract.daemon import Daemon, make_services
from tests.contract.driving import adopt, begin, changed, check, program, run_on
from tests.contract.host import Cost, Ground, Host, KernelHost
from tests.contract.proportion import costs_of_changes, work_of_changes
from tests.data_plane import wanted
from tests.desired_strategies import (
    Ports,
    desired_state,
    make_desired,
    many_services,
    random_state,
    random_states,
    seeds,
    whole,
)
from tests.effort import examples
from tests.model_builders import make_key

EXAMPLES: Final = examples(25)
random_worlds = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
)


class Laws:
    """What every backend keeps."""

    @random_worlds
    @given(seeds)
    def test_l1_each_change_leads_to_what_is_desired_and_leaves_nothing_to_do(
        self, ground: Ground, seed: int
    ) -> None:
        async def run(host: Host) -> None:
            backend, states = host.start(), random_states(seed, 5)
            observed = await adopt(backend, {})
            before: Ports = {}
            for desired in states:
                await program(backend, observed, desired, changed(before, desired))
                await check(host, backend, observed, desired)
                before = desired

        run_on(ground, run)

    @random_worlds
    @given(seeds)
    def test_l1_the_order_in_which_service_ports_are_planned_makes_no_difference(
        self, ground: Ground, seed: int
    ) -> None:
        async def run(host: Host) -> None:
            backend, rng, states = host.start(), random.Random(seed), random_states(seed, 4)
            observed = await adopt(backend, {})
            before: Ports = {}
            for desired in states:
                keys = changed(before, desired)
                rng.shuffle(keys)
                for key in keys:
                    await program(backend, observed, desired, [key])
                await check(host, backend, observed, desired)
                before = desired

        run_on(ground, run)

    def test_l1_without_services_there_is_nothing_to_do_either(self, ground: Ground) -> None:
        async def run(host: Host) -> None:
            backend = host.start()
            observed = await adopt(backend, {})
            await check(host, backend, observed, {})

        run_on(ground, run)

    def test_a_plan_says_for_each_operation_whom_it_is_for(self, ground: Ground) -> None:
        async def run(host: Host) -> None:
            backend = host.start()
            observed = await adopt(backend, {})
            desired = desired_state(make_desired("default/web", "10.1.0.1:80"))

            (line, *_) = [
                line
                for line in backend.plan(whole(desired), observed, list(desired)).describe()
                if "default/web (TCP, IPv4)" in line
            ]
            assert line

        run_on(ground, run)

    @random_worlds
    @given(seeds, st.integers(1, 4))
    def test_what_a_rehearsal_says_is_what_a_start_does(
        self, ground: Ground, seed: int, parts: int
    ) -> None:
        async def run(host: Host) -> None:
            before, desired = random_states(seed, 2)
            await adopt(host.start(), before)

            rehearsing, backend = host.start(), host.start()
            assumed, said = await begin(rehearsing, desired, parts, is_rehearsal=True)
            observed, done = await begin(backend, desired, parts)

            assert said == done
            assert not rehearsing.plan(whole(desired), assumed, sorted(desired)).describe()
            assert not rehearsing.prune(whole(desired), assumed).describe()
            await check(host, backend, observed, desired)

        run_on(ground, run)

    def test_what_is_read_back_of_a_service_port_names_its_frontend_and_all_its_endpoints(
        self, ground: Ground
    ) -> None:
        async def run(host: Host) -> None:
            backend, desired = host.start(), many_services(3, endpoints=5)
            observed = await adopt(backend, desired)
            key, unknown = sorted(desired)[1], make_key("default/nobody")

            held, nothing = [
                one async for one in backend.read_back(whole(desired), observed, [key, unknown])
            ]

            assert (held.key, held.differences) == (key, ())
            words = " ".join(held.lines)
            (frontend,) = desired[key].frontends
            assert str(frontend.address) in words
            assert all(endpoint.ip in words for endpoint in desired[key].internal)
            others = [endpoint.ip for k in desired if k != key for endpoint in desired[k].internal]
            assert not any(ip in re.split("[^0-9.]+", words) for ip in others)
            assert nothing == Held(key=unknown)

        run_on(ground, run)

    @random_worlds
    @given(seeds)
    def test_reading_everything_back_names_each_service_port_once_and_changes_nothing(
        self, ground: Ground, seed: int
    ) -> None:
        async def run(host: Host) -> None:
            (desired,) = random_states(seed, 1)
            backend = host.start()
            observed = await adopt(backend, desired)
            before = host.state(observed)

            held = [one async for one in backend.read_back(whole(desired), observed, None)]

            assert sorted(one.key for one in held if one.key is not None) == sorted(desired)
            assert held[-1].key is None
            assert [one.differences for one in held if one.differences] == []
            assert host.state(observed) == before

        run_on(ground, run)

    def test_l6_planning_one_change_looks_at_as_much_among_ten_thousand_services_as_among_a_hundred(
        self, ground: Ground
    ) -> None:
        few = run_on(ground, work_of_changes(100))
        many = run_on(ground, work_of_changes(examples(10_000)))

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
            await adopt(host.start(), desired)
            backend = host.start()
            observed = await adopt(backend, desired, parts=parts)

            assert host.spent(backend).written == 0
            await check(host, backend, observed, desired)

        run_on(ground, run)

    @random_worlds
    @given(seeds, st.integers(1, 4))
    def test_l2_any_start_is_led_to_what_is_desired_by_one_round(
        self, ground: Ground, seed: int, parts: int
    ) -> None:
        async def run(host: KernelHost) -> None:
            before, desired = random_states(seed, 2)
            await adopt(host.start(), before)
            host.disturb(seed)
            backend = host.start()
            observed = await adopt(backend, desired, parts=parts)

            await check(host, backend, observed, desired)
            host.check_extras(observed, desired)

        run_on(ground, run)

    def test_a_rehearsal_writes_nothing(self, ground: Ground) -> None:
        async def run(host: KernelHost) -> None:
            before, desired = random_states(1, 2)
            await adopt(host.start(), before)
            there = host.own(), host.foreign()
            backend = host.start()

            _, said = await begin(backend, desired, 2, is_rehearsal=True)

            assert said

            assert host.spent(backend).written == 0
            assert (host.own(), host.foreign()) == there

        run_on(ground, run)

    def test_l2_every_single_disturbance_is_repaired(self, ground: Ground) -> None:
        async def run(host: KernelHost, kind: int, desired: Ports) -> None:
            await adopt(host.start(), random_state(random.Random(kind)))
            host.disturb(kind, kind=kind)
            backend = host.start()
            observed = await adopt(backend, desired)

            await check(host, backend, observed, desired)
            host.check_extras(observed, desired)

        kinds = run_on(ground, _kinds_of_disturbances)
        for kind, desired in itertools.product(range(kinds), ({}, many_services(3))):
            run_on(ground, functools.partial(run, kind=kind, desired=desired))

    @random_worlds
    @given(seeds)
    def test_what_somebody_changes_under_a_running_process_is_noticed_and_repaired(
        self, ground: Ground, seed: int
    ) -> None:
        async def run(host: KernelHost) -> None:
            (desired,) = random_states(seed, 1)
            backend = host.start()
            observed = await adopt(backend, desired)
            before = host.state(await host.read_back(backend, observed))
            assert not backend.has_foreign_change(observed)
            assert await backend.verify(observed) == []

            host.disturb(seed)
            there = host.state(await host.read_back(backend, observed))
            assert backend.has_foreign_change(observed) or not host.is_noticed(before, there)
            drifts = await backend.verify(observed)
            assert bool(drifts) == (there != before)
            assert not backend.has_foreign_change(observed)
            if any(drift.key is None for drift in drifts):
                observed = await adopt(backend, desired)
            else:
                await program(backend, observed, desired, [d.key for d in drifts if d.key])

            await check(host, backend, observed, desired)
            host.check_extras(observed, desired)

        run_on(ground, run)

    @random_worlds
    @given(seeds)
    def test_reading_back_tells_what_somebody_changed_and_repairs_nothing(
        self, ground: Ground, seed: int
    ) -> None:
        async def run(host: KernelHost) -> None:
            (desired,) = random_states(seed, 1)
            backend = host.start()
            observed = await adopt(backend, desired)
            before = host.state(observed)
            host.disturb(seed)
            there = host.state(await host.read_back(backend, observed))

            try:
                held = [one async for one in backend.read_back(whole(desired), observed, None)]
                is_different = any(one.differences for one in held)
            except (
                KernelError
            ):  # it cannot even be asked for: a set of another shape is in its place
                is_different = True

            assert is_different == (there != before)
            assert host.state(observed) == before
            assert host.state(await host.read_back(backend, observed)) == there

        run_on(ground, run)

    def test_l6_reading_one_service_port_back_asks_as_little_among_many_as_among_few(
        self, ground: Ground
    ) -> None:
        async def run(host: KernelHost, services: int) -> Cost:
            backend, desired = host.start(), many_services(services)
            observed = await adopt(backend, desired)
            key = make_key("default/s7")
            host.spent(backend)

            (held,) = [one async for one in backend.read_back(whole(desired), observed, [key])]

            assert held.lines
            return host.spent(backend)

        few = run_on(ground, functools.partial(run, services=10))
        many = run_on(ground, functools.partial(run, services=2_000))

        assert few == many
        assert few.written == 0 < few.messages <= 20

    @random_worlds
    @given(seeds)
    def test_what_is_left_for_connections_on_their_way_is_gone_with_the_next_plan_for_nobody(
        self, ground: Ground, seed: int
    ) -> None:
        async def run(host: KernelHost) -> None:
            backend, states = host.start(), random_states(seed, 4)
            observed = await adopt(backend, {})
            before: Ports = {}
            for desired in states:
                await program(backend, observed, desired, changed(before, desired))
                host.check_extras(observed, desired)
                before = desired

        run_on(ground, run)

    def test_l3_what_others_made_is_left_alone(self, ground: Ground) -> None:
        async def run(host: KernelHost) -> None:
            host.plant_foreign()
            before = host.foreign()
            for seed in range(5):
                backend = host.start()
                await backend.probe()
                await adopt(backend, random_state(random.Random(seed)))
                host.disturb(seed)
                await adopt(backend, random_state(random.Random(seed + 1)))
                assert host.foreign() == before
                await backend.cleanup()
                assert host.foreign() == before

        run_on(ground, run)

    def test_probing_leaves_nothing_behind(self, ground: Ground) -> None:
        async def run(host: KernelHost) -> None:
            before = host.foreign()
            backend = host.start()
            await backend.probe()

            assert not host.own()
            assert host.foreign() == before

        run_on(ground, run)

    @pytest.mark.parametrize("is_done", [False, True], ids=["not done", "done"])
    @pytest.mark.parametrize("number", [errno.EBUSY, errno.ENOBUFS, errno.EINTR])
    def test_l4_after_a_write_whose_outcome_is_unknown_a_new_look_leadsrun_on(
        self, ground: Ground, number: int, is_done: bool
    ) -> None:
        async def run(host: KernelHost) -> None:
            before, desired = (random_state(random.Random(seed)) for seed in (2, 3))
            backend = host.start()
            observed = await adopt(backend, before)
            believed = host.state(observed)

            error = KernelError("a write", number, "a fault of the test")
            with host.failing(backend, error, is_done=is_done), pytest.raises(KernelError):
                await program(backend, observed, desired, changed(before, desired))

            # belief is what was confirmed, no more
            assert host.state(observed) == believed
            is_believed = host.state(await host.read_back(backend, observed)) == believed
            assert is_believed == (not is_done)
            observed = await adopt(backend, desired)
            await check(host, backend, observed, desired)

        run_on(ground, run)

    def test_l4_after_a_refusal_belief_about_what_was_refused_is_what_is_there(
        self, ground: Ground
    ) -> None:
        async def run(host: KernelHost) -> None:
            desired = many_services(3)
            backend = host.start()
            observed = await adopt(backend, {})
            victim = sorted(desired)[1]
            host.occupy(desired[victim])

            applied = await backend.apply(
                backend.plan(whole(desired), observed, sorted(desired)), observed
            )

            assert list(applied.failed) == [victim]
            there = await host.read_back(backend, observed)
            assert host.state(there) == host.state(observed)

        run_on(ground, run)

    def test_l4_who_is_refused_with_all_it_has_to_itself_is_served_once_it_can_be(
        self, ground: Ground
    ) -> None:
        async def run(host: KernelHost) -> None:
            desired = many_services(3)
            victim = make_desired(
                "default/victim",
                "10.1.0.1:80",
                cluster_ip="10.99.0.1",
                outer=(
                    Frontend("LoadBalancer", "203.0.113.1", 80),
                    Frontend("NodePort", None, 30080),
                ),
                external_local=True,
                source_ranges=("192.0.2.0/24", "10.0.0.0/8"),
                affinity_timeout_s=60,
            )
            backend = host.start()
            observed = await adopt(backend, desired)
            host.occupy(victim)
            desired[victim.key] = victim

            plan = backend.plan(whole(desired), observed, [victim.key])
            applied = await backend.apply(plan, observed)

            assert list(applied.failed) == [victim.key]
            there = await host.read_back(backend, observed)
            assert host.state(there) == host.state(observed)
            await program(backend, observed, desired, [victim.key])
            await check(host, backend, observed, desired)
            assert await backend.verify(observed) == []

        run_on(ground, run)

    def test_l6_a_change_costs_as_few_messages_among_ten_thousand_services_as_among_a_hundred(
        self, ground: Ground
    ) -> None:
        few = run_on(ground, costs_of_changes(100))
        many = run_on(ground, costs_of_changes(examples(10_000)))

        assert few == many
        assert all(0 < cost.written <= 30 for cost in few.values()), few

    def test_l6_an_empty_plan_makes_no_system_call(self, ground: Ground) -> None:
        async def run(host: KernelHost) -> None:
            desired = many_services(5)
            backend = host.start()
            observed = await adopt(backend, desired)
            host.spent(backend)

            await program(backend, observed, desired, sorted(desired))
            await backend.apply(backend.prune(whole(desired), observed), observed)

            assert host.spent(backend) == Cost()

        run_on(ground, run)

    @random_worlds
    @given(seeds)
    def test_l7_cleanup_leaves_nothing_of_ours_whatever_became_of_it(
        self, ground: Ground, seed: int
    ) -> None:
        async def run(host: KernelHost) -> None:
            backend = host.start()
            await adopt(backend, *random_states(seed, 1))
            host.disturb(seed)
            was_there = bool(host.own())

            first, second = await backend.cleanup(), await backend.cleanup()

            assert not host.own()
            assert (first > 0, second) == (was_there, 0)

        run_on(ground, run)

    def test_l7_a_process_that_ends_leaves_everything_in_place(self, ground: Ground) -> None:
        async def run(host: KernelHost) -> None:
            backend = host.start()
            desired = many_services(5)
            observed = await adopt(backend, desired)
            backend.close()

            next_one = host.start()
            assert host.state(await next_one.observe()) == host.state(observed)

        run_on(ground, run)

    def test_l8_what_is_refused_costs_only_its_own_service_port(self, ground: Ground) -> None:
        async def run(host: KernelHost) -> None:
            desired = many_services(300)
            backend = host.start()
            observed = await adopt(backend, {})
            victims = [sorted(desired)[at] for at in (7, 8, 250)]
            for victim in victims:
                host.occupy(desired[victim])

            keys = sorted(desired)
            refused: set[PortKey] = set()
            while failed := (
                await backend.apply(backend.plan(whole(desired), observed, keys), observed)
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

        run_on(ground, run)

    def test_l8_who_is_refused_again_and_again_is_set_aside_and_served_when_it_can_be(
        self, ground: Ground
    ) -> None:
        async def run(host: KernelHost) -> None:
            async with Daemon(host.start()) as daemon:
                await daemon.hear(make_services(0, 20))
                await daemon.until(lambda: len(daemon.served(host)) == 20)
                host.limit(5)
                await daemon.hear(make_services(20, 10))
                await daemon.until(lambda: len(daemon.set_aside) == 5)
                assert len(daemon.served(host)) == 25

                host.lift_limit()
                await daemon.until(lambda: not daemon.set_aside)
                assert daemon.served(host) == wanted(daemon.desired)

        run_on(ground, run)


async def _kinds_of_disturbances(host: KernelHost) -> int:
    return host.kinds_of_disturbances
